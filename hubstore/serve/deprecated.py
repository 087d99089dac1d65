"""The spellings of the release before: this release takes them too, and the next one does not."""

from __future__ import annotations

import re

from pydantic import AliasChoices
from starlette.types import ASGIApp, Receive, Scope, Send

from hubstore.serve.security import route_path

CENTERED = AliasChoices("centered", "centred")
SEARCH_EFFORT = AliasChoices("search_effort", "effort")
"""Parameters and fields, by their names and by those before."""

UNVERSIONED = re.compile(r"^/api/(?=(?:stores|experiments)(?:/|$))")
NEIGHBORS = re.compile(r"^(/api/v1/stores/[^/]+/)neighbours(?=/|$)")


class OlderPaths:
    """Answers `/api/stores` and `/api/experiments` as `/api/v1/...`, and `/neighbours` as `/neighbors`.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            path = route_path(scope)
            mounted = scope["path"].removesuffix(path)
            scope["path"] = mounted + NEIGHBORS.sub(r"\1neighbors", UNVERSIONED.sub("/api/v1/", path))
        await self._app(scope, receive, send)
