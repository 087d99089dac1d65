"""The spellings of the release before: this release takes them too, and the next one does not."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import AliasChoices

CENTERED = AliasChoices("centered", "centred")
SEARCH_EFFORT = AliasChoices("search_effort", "effort")
"""Parameters and fields, by their names and by those before."""


def older_paths(router: APIRouter) -> APIRouter:
    """The routes of `router` under /neighbours, where it has them under /neighbors."""
    older = APIRouter()
    for route in router.routes:
        assert isinstance(route, APIRoute)
        older.add_api_route(
            route.path.replace("/neighbors", "/neighbours"),
            route.endpoint,
            methods=list(route.methods or ()),
            responses=route.responses,
            openapi_extra=route.openapi_extra,
            tags=route.tags,
            deprecated=True,
        )
    return older
