"""Health, metrics, and the files of the dashboard and of the API's page."""

from __future__ import annotations

from functools import cache

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

from hubstore.serve.context import Serving
from hubstore.serve.responses import json_response
from hubstore.version import __version__

router = APIRouter()


class Health(BaseModel):
    """That the server answers."""

    status: str
    version: str
    stores: int


@router.get("/healthz", response_model=Health, tags=["server"])
async def health(service: Serving) -> Response:
    """That the server answers, whether or not it has opened its stores yet."""
    return json_response({"status": "ok", "version": __version__, "stores": len(service.stores)})


@router.get("/metrics", response_class=PlainTextResponse, tags=["server"])
async def metrics(service: Serving) -> Response:
    """Counters for Prometheus."""
    items = {name: len(store.current) for name, store in service.stores.items() if store.current is not None}
    searches = service.searches
    queues = {
        "requests": service.work.taken,
        "computations": service.computing.taken,
        "searches": searches.running,
        "searches waiting": searches.waiting,
    }
    return PlainTextResponse(service.metrics.text(items, queues))


@router.get("/", include_in_schema=False)
async def dashboard(request: Request) -> Response:
    """The dashboard."""
    return await _file("index.html", request)


@router.get("/api/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The API's page."""
    return await _file("docs.html", request)


@router.get("/static/{name:path}", response_class=Response, include_in_schema=False)
async def static(name: str, request: Request) -> Response:
    """A file of the pages."""
    return await _file(name, request)


@cache
def _files() -> StaticFiles:
    """The dashboard's folder, that of the API's page and that of Plotly's script."""
    return StaticFiles(
        packages=[("hubstore.serve", "dashboard"), ("hubstore.serve", "docs"), ("hubstore.plots", "plotly")]
    )


async def _file(name: str, request: Request) -> Response:
    response = await _files().get_response(name, request.scope)
    response.headers["Cache-Control"] = "no-cache"
    return response
