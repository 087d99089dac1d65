"""Answers in gzip, for clients that take it: text alone, since hidden states and media hardly become smaller."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from hubstore.serve.responses import MEDIA_TYPES, weighted

SMALLEST = 1024
"""Bytes of an answer below which compression does not pay."""

LEVEL = 3
"""Of gzip: tables of JSON become nearly as small as at 9, in a fifth of the time."""

UNCOMPRESSED = (
    *DEFAULT_EXCLUDED_CONTENT_TYPES,
    *(MEDIA_TYPES["arrow"], MEDIA_TYPES["parquet"], "application/octet-stream", "image/x-icon", "font/*"),
)
"""Media types that are sent as they are."""


class CompressionMiddleware:
    """Starlette's compression, with the weights of Accept-Encoding counted; the layer around it adds `Vary`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressing = GZipMiddleware(app, SMALLEST, LEVEL, exclude_content_types=UNCOMPRESSED)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        # Starlette's looks for the word alone, and would compress for "gzip;q=0".
        accepted = Headers(scope=scope).getlist("accept-encoding") if scope["type"] == "http" else []
        if not accepted or not takes_gzip(",".join(accepted)):
            await self._app(scope, receive, send)
            return
        others = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        scope["headers"] = [*others, (b"accept-encoding", b"gzip")]
        await self._compressing(scope, receive, send)


def takes_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding header names gzip, or anything, with a weight above 0."""
    weights = weighted(accepted)
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0
