"""The application: routes, what surrounds them, and what an error becomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from hubstore.errors import HubstoreError
from hubstore.serve.compression import Compression
from hubstore.serve.failures import InvalidError, RequestError, body_of, status_of
from hubstore.serve.formats import json_response
from hubstore.serve.limits import Limits
from hubstore.serve.routes import analyses, experiments, items, lens, neighbours, pages, projections, stores
from hubstore.serve.routes.parameters import check_names
from hubstore.serve.safety import Guard, refusal
from hubstore.serve.service import Service
from hubstore.storage.location import Location
from hubstore.version import __version__

if TYPE_CHECKING:
    from hubstore.models import Model

DESCRIPTION = """Stores of hidden states, their items, neighbours, analyses and maps.

Tabular answers are JSON, or Arrow, CSV or Parquet as the Accept header or `format` asks. Every answer about a store
names the snapshot that it was computed from in the header `Hubstore-Revision`; all of one answer is from one snapshot.
"""


def create_app(
    store_paths: Sequence[str | Location],
    *,
    model: Model | str | None = None,
    trust_remote_code: bool = False,
    device: str = "auto",
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Sequence[str] | None = None,
    originals: bool = False,
    experiment_folders: Sequence[str | Path] = (),
    allow_stale: bool = False,
    engine: str = "local",
    address: str | None = None,
) -> FastAPI:
    """An application that serves stores. Nothing is read until it runs; then they are opened in the background.

    Args:
        store_paths: the stores' folders.
        model: reads queries of texts, pictures and sounds: loaded already, or where to load it from.
        trust_remote_code: run the code that comes with the model; only where you trust its authors.
        device: where searches compute and the model is loaded: "auto", "cpu", "cuda" or "cuda:1".
        limits: what it takes on.
        token: what clients must send as `Authorization: Bearer`; None for none.
        hosts: names that the server may be called by; None for any.
        originals: whether items' own files are given, beside their previews.
        experiment_folders: what `hubstore experiment --out` wrote.
        allow_stale: whether to search indexes that lack a store's newest rows.
        engine: "local", or "ray": actors of a cluster search, exactly, each a range of a layer's rows.
        address: of the Ray cluster; see `hubstore.extraction.cluster.connected`.

    Raises:
        StoreNotFoundError: there is no store at a path.
    """
    service = Service.of(
        store_paths,
        model=model,
        trust_remote_code=trust_remote_code,
        device=device,
        limits=limits or Limits(),
        experiments=experiment_folders,
        originals=originals,
        allow_stale=allow_stale,
        engine=engine,
        address=address,
    )
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
    app.include_router(pages.router)
    for module in (neighbours, stores, items, analyses, lens, projections, experiments):
        app.include_router(module.router, dependencies=[Depends(check_names)])
    app.add_middleware(Compression)
    app.add_middleware(Guard, token=token, hosts=hosts, limits=service.limits, metrics=service.metrics)
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
        raise error  # to the guard, which tells the log and not the client
    service: Service = request.app.state.service
    return refusal(error, service.names)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return refusal(InvalidError(said))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = json_response(body_of(RequestError.__name__, str(error.detail)), status=error.status_code)
    response.headers.update(error.headers or {})
    return response
