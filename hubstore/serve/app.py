"""The application: its resources, the layers around them, and the answer that an error becomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from hubstore.errors import HubstoreError
from hubstore.serve.compression import CompressionMiddleware
from hubstore.serve.deprecated import OlderPaths
from hubstore.serve.http_errors import RequestError, error_body, invalid_error, status_of
from hubstore.serve.resources import (
    analyses,
    experiments,
    items,
    lens,
    neighbors,
    pages,
    projections,
    steering,
    stores,
)
from hubstore.serve.responses import error_response, json_response
from hubstore.serve.security import AuthMiddleware
from hubstore.serve.service import ServeOptions, Service
from hubstore.storage.location import Location
from hubstore.version import __version__

DESCRIPTION = """Stores of hidden states, their items, neighbors, analyses and maps.

Tabular answers are JSON, or Arrow, CSV or Parquet as the Accept header or `format` asks. Every answer about a store
names the snapshot that it was computed from in the header `Hubstore-Revision`; all of one answer is from one snapshot.
"""


def create_app(
    store_paths: Sequence[str | Location],
    *,
    token: str | None = None,
    hosts: Sequence[str] | None = None,
    **options: Any,
) -> FastAPI:
    """An application that serves stores. Nothing is read until it runs; then they are opened in the background.

    Args:
        store_paths: the stores' folders.
        token: what clients must send as `Authorization: Bearer`; None for none.
        hosts: names that the server may be called by; None for any.
        options: of `ServeOptions`: model, device, limits, ...

    Raises:
        StoreNotFoundError: there is no store at a path.
    """
    service = Service(store_paths, ServeOptions(**options))
    app = FastAPI(
        title="hubstore",
        version=__version__,
        description=DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.service = service
    for module in (neighbors, stores, items, analyses, lens, steering, projections, experiments, pages):
        app.include_router(module.router)
    app.add_middleware(OlderPaths)
    app.add_middleware(CompressionMiddleware)
    app.add_middleware(AuthMiddleware, token=token, hosts=hosts, limits=service.limits, metrics=service.metrics)
    app.add_exception_handler(HubstoreError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    warming = asyncio.create_task(service.warm())
    yield
    warming.cancel()
    service.close()


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HubstoreError)
    if status_of(error) == 500:
        raise error  # to the outermost layer, which writes it to the log and not to the client
    service: Service = request.app.state.service
    return error_response(error, service.names)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    mistakes = [{**one, "loc": one["loc"][1:]} for one in error.errors()]  # without "query" or "path"
    described = request.app.openapi()
    operation = described["paths"][request.scope["route"].path_format][request.method.lower()]
    names = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    fields = described["components"]["schemas"].get(body.get("$ref", "").rpartition("/")[2], {})
    names += fields.get("properties", {})
    return error_response(invalid_error(mistakes, names))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = json_response(error_body(RequestError.__name__, str(error.detail)), status=error.status_code)
    response.headers.update(error.headers or {})
    return response
