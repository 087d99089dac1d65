"""The API against its own description: whatever is asked, no answer is an error of the server's, and each has a
status, a type and a form that the description gives."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hubstore.serve import create_app
from tests.report.test_media import made_up
from tests.serve.servers import served

CONFORMING = [status_code_conformance, content_type_conformance, response_schema_conformance]
OWN_FAULT = {501, 503, 504}
"""Statuses from 500 on that the description has: no model, busy, too slow."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(made_up(tmp_path_factory.mktemp("schema") / "media.hub").path, originals=True) as running:
        yield running


@schemathesis.serializer("application/vnd.apache.arrow.stream", "audio/*")
def as_it_is(context, value):
    """Bytes of any kind."""
    return value if isinstance(value, bytes) else str(value).encode()


def description():
    schema = schemathesis.openapi.from_dict(create_app([]).openapi())

    @schema.hook
    def map_path_parameters(context, path_parameters):
        """Half of the requests are about the store that there is."""
        if path_parameters and "store" in path_parameters and len(str(path_parameters)) % 2:
            path_parameters["store"] = "media"
        return path_parameters

    @schema.hook
    def map_query(context, query):
        """Many of the items and layers are there."""
        size = len(str(query))
        if query and "id" in query and size % 3:
            query["id"] = "image/zxx:3" if isinstance(query["id"], str) else ["en:1", "audio/zxx:2"]
        if query and "layer" in query and size % 2:
            query["layer"] = ["1", "2"]
        return query

    return schema


OPERATIONS = [operation.ok() for operation in description().get_all_operations()]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_no_request_that_the_description_allows_or_forbids_breaks_the_server(server, operation):
    every = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]

    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=every[0] | every[1])
    def ask(case):
        answer = case.call(base_url=server.url, timeout=60)
        if answer.content == b"Invalid HTTP request received.":
            return  # it was no HTTP, such as a URL of 64 KiB: uvicorn's answer, before the application
        if answer.status_code not in OWN_FAULT:
            case.validate_response(answer, checks=[not_a_server_error])
        case.validate_response(answer, checks=CONFORMING)

    ask()
