"""Items: pages of them, one of them, and its preview, file and states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from hubstore.errors import QueryError
from hubstore.serve.failures import NotThereError
from hubstore.serve.formats import REVISION, has_tag
from hubstore.serve.routes.call import ERRORS, TABLE, CallOf, Names
from hubstore.serve.routes.parameters import Name
from hubstore.serve.schemas import ItemInfo

router = APIRouter(prefix="/api/stores/{store}", tags=["items"])

Id = Annotated[str, Query(description="The item's id.", max_length=1_000_000)]
Tag = Annotated[str | None, Header()]
Found = Callable[[], tuple[bytes, str]]

MEDIA: dict[int | str, dict[str, Any]] = {
    200: {"description": "The bytes.", "content": {"image/*": {}, "audio/*": {}, "application/octet-stream": {}}},
    304: {"description": "As the browser has it."},
    **ERRORS,
}


@router.get("/items", responses=TABLE)
async def items(
    call: CallOf,
    q: Annotated[str, Query(description="Part of the text or the id, in any case.", max_length=1000)] = "",
    language: Names = None,
    modality: Names = None,
    concept: Names = None,
    partition: Names = None,
    offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1)] = 50,
) -> Response:
    """A page of the items that pass the filters, in the store's order; `about.total` says how many there are."""
    from hubstore.serve.answers.items import Wanted, page

    most = call.service.limits.page
    if limit > most:
        raise QueryError(f"limit is {limit}; this server gives pages of {most} at most")
    wanted = Wanted(q, *(None if given is None else tuple(given) for given in (language, modality, concept, partition)))
    return await call.table("items", lambda: page(call.snapshot, wanted, offset, limit))


@router.get("/item", response_model=ItemInfo, responses=ERRORS)
async def item(call: CallOf, id: Id) -> Response:
    """One item, and the ids of the others of its concept."""
    from hubstore.serve.answers.items import one

    return await call.record(lambda: one(call.snapshot, id))


@router.get("/preview", response_class=Response, responses=MEDIA)
async def preview(call: CallOf, id: Id, revision: Name | None = None, if_none_match: Tag = None) -> Response:
    """An item's thumbnail (WebP) or clip (MP3). With the store's `revision`, browsers keep it for good."""
    from hubstore.serve.answers.items import preview as found
    from hubstore.serve.answers.items import require_preview

    snapshot = call.snapshot
    return await _media(
        call, lambda: require_preview(snapshot, id), lambda: found(snapshot, id), revision, if_none_match
    )


@router.get("/media", response_class=Response, responses=MEDIA)
async def media(call: CallOf, id: Id, revision: Name | None = None, if_none_match: Tag = None) -> Response:
    """The file of an item that is a picture or a sound, where the server was started with --originals."""
    from hubstore.serve.answers.items import original, require_original

    if not call.service.originals:
        raise NotThereError("this server gives no files of items; it was started without --originals")
    snapshot, most = call.snapshot, call.service.limits.upload
    return await _media(
        call, lambda: require_original(snapshot, id), lambda: original(snapshot, id, most), revision, if_none_match
    )


@router.get("/hidden", responses=TABLE)
async def hidden(
    call: CallOf,
    id: Annotated[list[Name], Query(min_length=1, max_length=1024)],
    layer: Names = None,
    pooling: Name | None = None,
) -> Response:
    """Stored states as float32: a row for each item and layer (under "tokens" pooling, each token)."""
    from hubstore.serve.answers.items import hidden as found

    snapshot, most = call.snapshot, call.service.limits.answer
    pooled = snapshot.pooling_name(pooling)
    layers = list(dict.fromkeys(snapshot.layer_name(name) for name in layer or snapshot.layers))
    ids = list(dict.fromkeys(id))
    return await call.table("hidden", lambda: (found(snapshot, ids, layers, pooled, most), {"pooling": pooled}))


async def _media(
    call: CallOf, require: Callable[[], object], find: Found, revision: str | None, seen: str | None
) -> Response:
    tag = f'"{call.snapshot.revision}"'
    headers = {
        REVISION: call.snapshot.revision,
        "ETag": tag,
        "Content-Disposition": "inline",
        "Cache-Control": "private, max-age=31536000, immutable"
        if revision == call.snapshot.revision
        else "private, no-cache",
    }
    if has_tag(seen, tag):
        await call.service.work.run(require)  # what is not there has no tag
        return Response(status_code=304, headers=headers)
    data, kind = await call.service.work.run(find)
    return Response(data, headers=headers, media_type=kind)
