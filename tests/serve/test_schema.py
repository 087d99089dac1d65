"""The API against its own description: whatever is asked, no answer is an error of the server's, and each has a
status, a type and a form that the description gives."""

from __future__ import annotations

import os
import zlib

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hubstore import Corpus, Item, extract
from hubstore.serve import create_app
from tests.report.test_media import made_up
from tests.serve.servers import served
from tests.tiny_models import tiny_language_model

CONFORMING = [status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = int(os.environ.get("HUBSTORE_REQUESTS", "10"))
"""Requests of each operation that are tried."""

OWN_FAULT = {501, 503, 504}
"""Statuses from 500 on that the description has: no model, busy, too slow."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schema")
    made_up(folder / "media.hub")
    items = [Item(f"text/en:{n}", words, "en", f"c{n}") for n, words in enumerate(["one", "two", "three"])]
    model = tiny_language_model("llama")
    extract(Corpus.from_items(items), model, folder / "words.hub", dtype="float32", poolings=["mean"], with_lens=True)
    with served(folder / "media.hub", folder / "words.hub", model=model, originals=folder) as running:
        yield running


@schemathesis.serializer("application/vnd.apache.arrow.stream", "audio/*")
def as_it_is(context, value):
    """Bytes of any kind."""
    return value if isinstance(value, bytes) else str(value).encode()


def description():
    schema = schemathesis.openapi.from_dict(create_app([]).openapi())

    @schema.hook
    def map_path_parameters(context, path_parameters):
        return _there(path_parameters)

    @schema.hook
    def map_query(context, query):
        return _there(query)

    @schema.hook
    def map_body(context, body):
        return _there(body) if isinstance(body, dict) else body

    return schema


THERE = {
    "store": ["media", "words"],
    "id": ["text/en:1", "image/zxx:3"],
    "ids": ["text/en:1", "audio/zxx:2"],
    "layer": ["1", "2"],
    "layers": ["2", "0"],
    "pooling": ["mean"],
    "language": ["en", "zxx"],
    "languages": ["es"],
    "modality": ["text", "audio"],
    "modalities": ["image"],
    "concept": ["c1"],
    "concepts": ["c2", "c3"],
    "partition": ["en", "image/zxx"],
    "pair": ["en:es"],
    "analysis": ["similarity", "geometry"],
    "target": [" a"],
    "fields": ["x"],
}


def _there(given):
    """Three of four parameters name what is there, so that requests get past the first check."""
    for name, value in (given or {}).items():
        chance = zlib.crc32(f"{name} {given!r}".encode("utf-8", "surrogatepass"))
        if name in THERE and chance % 4:
            there = THERE[name]
            given[name] = there if isinstance(value, list) else there[chance % len(there)]
    return given


OPERATIONS = [operation.ok() for operation in description().get_all_operations()]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_no_request_that_the_description_allows_or_forbids_breaks_the_server(server, operation):
    every = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]

    @settings(
        max_examples=EXAMPLES,
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
