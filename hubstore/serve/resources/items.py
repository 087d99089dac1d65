"""Items: pages of them, one of them, and its preview, file and states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from hubstore.arrow import rows_as_lists
from hubstore.errors import CorpusError, QueryError
from hubstore.serve.context import ERRORS, TABLE, Context, Name, Names, RequestContext, StoreParams, either
from hubstore.serve.http_errors import NotFoundError, TooLargeError
from hubstore.serve.limits import RATE
from hubstore.serve.redaction import file_names
from hubstore.serve.responses import REVISION, has_tag

if TYPE_CHECKING:
    from hubstore.serve.snapshot import Snapshot
    from hubstore.store.partition import Positions

router = APIRouter(prefix="/api/v1/stores/{store}", tags=["items"])

COLUMNS = ("id", "concept", "language", "modality", "text", "media", "tokens", "truncated")
EQUIVALENTS = 200

MEDIA: dict[int | str, dict[str, Any]] = {
    200: {"description": "The bytes.", "content": {"image/*": {}, "audio/*": {}, "application/octet-stream": {}}},
    304: {"description": "As the browser has it."},
    **ERRORS,
}

Id = Annotated[str, Field(max_length=1_000_000, description="The item's id.")]


class ItemInfo(BaseModel):
    """One item."""

    id: str
    concept: str | None
    language: str
    modality: str
    text: str
    media: str | None = Field(description="Name of the image's or audio's file.")
    tokens: int | None
    truncated: bool | None
    columns: dict[str, Any] = Field(description="Further columns that the store keeps of its items.")
    preview: bool = Field(description="Whether there is a thumbnail or a clip of it.")
    position: int
    equivalents: list[str] = Field(description="Other items of its concept, 200 at most.")


class ItemFilter(StoreParams):
    """Which items; None and "" are no restriction."""

    q: str = Field("", description="Part of the text or the id, in any case.", max_length=1000)
    languages: Names | None = Field(None, validation_alias=either("languages"))
    modalities: Names | None = Field(None, validation_alias=either("modalities"))
    concepts: Names | None = Field(None, validation_alias=either("concepts"))
    partitions: Names | None = Field(None, validation_alias=either("partitions"))

    def positions(self, snapshot: Snapshot) -> Positions:
        """int64, ascending; QueryError for a partition that is not there."""
        from hubstore.store.finding import find_positions

        return find_positions(snapshot, self.q, **self.options("q", "offset", "limit"))


class PageParams(ItemFilter):
    """Which page of them."""

    offset: int = Field(0, ge=0, le=2**53)
    limit: int = Field(50, ge=1)


class ItemParams(StoreParams):
    """Which item."""

    id: Id


class MediaParams(ItemParams):
    """Which item's media."""

    revision: Name | None = None


class HiddenParams(StoreParams):
    """Which states."""

    ids: Names = Field(validation_alias=either("ids"))
    layers: Names | None = Field(None, validation_alias=either("layers"))
    pooling: Name | None = None


@router.get("/items", responses=TABLE)
async def items(context: Context, params: Annotated[PageParams, Query()]) -> Response:
    """A page of the items that pass the filters, in the store's order; `about.total` says how many there are."""
    snapshot, most = context.snapshot, context.service.limits.page
    if params.limit > most:
        raise QueryError(f"limit is {params.limit}; this server gives pages of {most} at most")

    def page() -> tuple[pa.Table, dict[str, Any]]:
        key = ("items", *params.options("offset", "limit").items())
        found = snapshot.cached(key, lambda: params.positions(snapshot).astype(np.uint32))
        shown = found[params.offset : params.offset + params.limit].astype(np.int64)
        return table_of(snapshot, shown), {"total": len(found), "offset": params.offset, "limit": params.limit}

    return await context.table("items", page)


@router.get("/item", response_model=ItemInfo, responses=ERRORS)
async def item(context: Context, params: Annotated[ItemParams, Query()]) -> Response:
    """One item, and the ids of the others of its concept."""
    snapshot = context.snapshot

    def found() -> ItemInfo:
        positions = snapshot.positions([params.id])
        fields: dict[str, Any] = table_of(snapshot, positions).to_pylist()[0]
        columns = {name: fields.pop(name) for name in snapshot.columns}
        return ItemInfo(**fields, columns=columns, equivalents=_equivalents(snapshot, int(positions[0])))

    return await context.record(found)


@router.get("/preview", response_class=Response, responses=MEDIA)
async def preview(
    context: Context, params: Annotated[MediaParams, Query()], if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """An item's thumbnail (WebP) or clip (MP3). With the store's `revision`, browsers keep it for good."""
    return await _media(context, params, if_none_match, _preview)


@router.get("/media", response_class=Response, responses=MEDIA)
async def media(
    context: Context, params: Annotated[MediaParams, Query()], if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """The file of an item that is an image or audio, where it is below the server's --originals FOLDER."""
    if context.service.originals is None:
        raise NotFoundError("this server gives no files of items; it was started without --originals FOLDER")
    return await _media(context, params, if_none_match, _original)


@router.get("/hidden", responses=TABLE)
async def hidden(context: Context, params: Annotated[HiddenParams, Query()]) -> Response:
    """Stored states as float32: a row for each item and layer (under "tokens" pooling, each token)."""
    snapshot = context.snapshot
    pooling, layers = snapshot.pooling_name(params.pooling), snapshot.layer_names(params.layers)

    def found() -> tuple[pa.Table, dict[str, Any]]:
        rows = snapshot.rows_of(snapshot.positions(params.ids), pooling) * len(layers)
        context.service.limits.check_answer(rows * snapshot.width * 4)
        return states(snapshot, params.ids, layers, pooling), {"pooling": pooling}

    return await context.table("hidden", found)


async def _media(
    context: RequestContext,
    params: MediaParams,
    seen: str | None,
    find: Callable[[RequestContext, str], Callable[[], bytes]],
) -> Response:
    """The bytes that `find` can read of an item, or that a browser has them; NotFoundError where there are none."""
    revision = context.snapshot.revision
    headers = {
        REVISION: revision,
        "ETag": f'"{revision}"',
        "Content-Disposition": "inline",
        "Cache-Control": "private, max-age=31536000, immutable" if params.revision == revision else "private, no-cache",
    }

    def answer() -> Response:
        from hubstore.media.previews import mime_of

        read = find(context, params.id)  # an item that has no media has no tag
        if has_tag(seen, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        data = read()
        return Response(data, headers=headers, media_type=mime_of(data))

    return await context.service.work.run(answer)


def _preview(context: RequestContext, name: str) -> Callable[[], bytes]:
    """What reads an item's thumbnail or clip."""
    snapshot = context.snapshot
    if not previews(snapshot, snapshot.positions([name]))[0]:
        raise NotFoundError(f"{snapshot.name} keeps no preview of item {name!r}")

    def read() -> bytes:
        data = snapshot.preview(name)
        assert data is not None, name
        return data

    return read


def _original(context: RequestContext, name: str) -> Callable[[], bytes]:
    """What reads the file of an image or audio, which must be one that can be decoded."""
    from hubstore.corpus import Media
    from hubstore.media.decode import open_audio, open_image

    originals, limits = context.service.originals, context.service.limits
    assert originals is not None
    item = context.snapshot.items.slice(int(context.snapshot.positions([name])[0]), 1).to_pylist()[0]
    missing = NotFoundError(f"there is no file of item {name!r} that can be given")
    if item["media"] is None or item["modality"] not in ("image", "audio"):
        raise missing

    def read() -> bytes:
        data = originals.read(item["media"])
        if data is None:
            raise missing
        try:
            limits.check_media(item["modality"], data)
            with originals.decoding:
                if item["modality"] == "image":
                    open_image(Media("the file", data))
                else:
                    open_audio(Media("the file", data), RATE)
        except (CorpusError, TooLargeError):
            raise missing from None
        return data

    return read


def table_of(snapshot: Snapshot, positions: Positions) -> pa.Table:
    """The items at `positions` with the columns that are kept, their previews' being and their positions."""
    table = snapshot.items.select([*COLUMNS, *snapshot.columns]).take(pa.array(positions))
    table = table.set_column(COLUMNS.index("media"), "media", file_names(table["media"]))
    table = table.append_column("preview", pa.array(previews(snapshot, positions)))
    return table.append_column("position", pa.array(positions))


def previews(snapshot: Snapshot, positions: Positions) -> npt.NDArray[np.bool_]:
    """bool [positions]: whether there is a preview."""
    if not snapshot.keeps_previews:
        return np.zeros(len(positions), np.bool_)
    return snapshot.has_preview[positions]


def states(snapshot: Snapshot, ids: Sequence[str], layers: Sequence[str], pooling: str) -> pa.Table:
    """Stored states as float32: id, layer and vector; under "tokens", token too."""
    rows, names = snapshot.positions(ids), list(ids)
    tokens: list[int] | None = None
    if pooling == "tokens":
        ranges = snapshot.token_ranges()[rows].tolist()
        rows = np.concatenate([np.arange(start, stop) for start, stop in ranges])
        names = [name for name, (start, stop) in zip(ids, ranges, strict=True) for _ in range(start, stop)]
        tokens = [token for start, stop in ranges for token in range(stop - start)]
    parts = [snapshot.hidden(layer, pooling).take(rows).float().numpy() for layer in layers]
    columns = {
        "id": pa.array(names * len(layers), pa.string()),
        "layer": pa.array([layer for layer in layers for _ in rows], pa.string()),
        "vector": rows_as_lists(np.concatenate(parts)),
    }
    if tokens is not None:
        columns["token"] = pa.array(tokens * len(layers), pa.int32())
    return pa.table(columns)


def _equivalents(snapshot: Snapshot, position: int) -> list[str]:
    from hubstore.store.finding import equivalents

    ids: list[str] = equivalents(snapshot, position)["id"][:EQUIVALENTS].to_pylist()
    return ids
