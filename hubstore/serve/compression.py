"""Answers in gzip, for clients that take it: text alone, since hidden states and media hardly become smaller."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from hubstore.serve.formats import MEDIA_TYPES

SMALLEST = 1024
"""Bytes of an answer below which compression does not pay."""

LEVEL = 3
"""Of gzip: tables of JSON become nearly as small as at 9, in a fifth of the time."""

WHOLE = (
    *(media for name, media in MEDIA_TYPES.items() if name in ("arrow", "parquet")),
    *("application/octet-stream", "image/gif", "image/jpeg", "image/png", "image/webp", "image/x-icon"),
    *("audio/*", "video/*", "font/*"),
)
"""Media types that are sent as they are."""


class Compression:
    """Compresses what `app` answers, and says in `Vary` that it depends on what a client takes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressing = GZipMiddleware(app, SMALLEST, LEVEL, exclude_content_types=WHOLE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Starlette's looks for the word alone, and would compress for "gzip;q=0".
        takes = takes_gzip(",".join(Headers(scope=scope).getlist("accept-encoding")))
        others = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        scope["headers"] = [*others, (b"accept-encoding", b"gzip" if takes else b"identity")]
        await self._compressing(scope, receive, send)


def takes_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding header names gzip, or anything, with a weight above 0."""
    weights: dict[str, float] = {}
    for part in accepted.lower().split(","):
        coding, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((one[2:] for one in parameters if one.startswith("q=")), "1")
        try:
            weights[coding] = float(weight)
        except ValueError:
            weights[coding] = 0.0
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0
