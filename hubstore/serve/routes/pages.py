"""Health, metrics, and the files of the dashboard and of the API's page: a fixed table of names."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import FileResponse, PlainTextResponse, Response

from hubstore.serve.failures import NotThereError
from hubstore.serve.formats import has_tag, json_response
from hubstore.serve.routes.call import ServiceOf
from hubstore.serve.schemas import ErrorAnswer, Health
from hubstore.version import __version__

router = APIRouter()

HERE = Path(__file__).parents[1]
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
PLOTLY = "plotly.min.js"


@cache
def static_files() -> dict[str, Path]:
    """Every file that may be given, by its name in a URL."""
    files: dict[str, Path] = {}
    for folder in (HERE / "docs", HERE / "dashboard"):
        for path in sorted(folder.rglob("*")):
            if path.suffix in TYPES:
                name = path.relative_to(folder).as_posix()
                assert name not in files, f"{path} and {files[name]} have one name"
                files[name] = path
    plotly = importlib.util.find_spec("plotly")
    if plotly is not None and plotly.origin is not None:
        script = Path(plotly.origin).parent / "package_data" / PLOTLY
        if script.is_file():
            files[PLOTLY] = script
    return files


@router.get("/healthz", response_model=Health, tags=["server"])
async def health(service: ServiceOf) -> Response:
    """That the server answers, whether or not it has opened its stores yet."""
    return json_response({"status": "ok", "version": __version__, "stores": len(service.stores)})


@router.get("/metrics", response_class=PlainTextResponse, tags=["server"])
async def metrics(service: ServiceOf) -> Response:
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
async def dashboard(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """The dashboard."""
    return _file("index.html", if_none_match)


@router.get("/api/docs", include_in_schema=False)
async def docs(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """The API's page."""
    return _file("docs.html", if_none_match)


@router.get(
    "/static/{name:path}",
    response_class=Response,
    responses={404: {"model": ErrorAnswer, "description": "No such file."}},
    include_in_schema=False,
)
async def static(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """A file of the pages."""
    return _file(name, if_none_match)


def _file(name: str, seen: str | None) -> Response:
    path = static_files().get(name)
    if path is None:
        raise NotThereError(f"there is no file {name!r}")
    found = path.stat()
    headers = {"ETag": f'W/"{found.st_mtime_ns:x}-{found.st_size:x}"', "Cache-Control": "no-cache"}
    if has_tag(seen, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return FileResponse(path, headers=headers, media_type=TYPES[path.suffix], stat_result=found)
