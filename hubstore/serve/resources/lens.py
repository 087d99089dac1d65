"""What the logit lens reads in stored states, and in texts that are given now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from hubstore.serve.context import (
    TABLE,
    Context,
    FewNames,
    Layers,
    Name,
    Names,
    Params,
    RequestContext,
    StoreParams,
    Words,
    either,
)
from hubstore.serve.http_errors import NeedsModelError

if TYPE_CHECKING:
    import pyarrow as pa

    from hubstore.lens import Lens
    from hubstore.models import Model
    from hubstore.serve.snapshot import Snapshot

router = APIRouter(prefix="/api/v1/stores/{store}/lens", tags=["lens"])

TOKEN_BYTES = 12
"""Of one of the most probable tokens: its number, its log-probability and where its text ends."""

TARGET_BYTES = 12
"""Of a target: its log-probability and rank."""


class LensParams(StoreParams):
    """What to read."""

    layers: Names | None = Field(None, validation_alias=either("layers"))
    variant: Literal["raw", "normed", "tuned"] = Field(
        "raw",
        description="Without the final norm (the paper's), with it, or after a map of each layer to the last, where "
        "the store keeps one.",
    )
    pooling: Name | None = None
    targets: FewNames = Field((), validation_alias=either("targets"), description="Words to look up, each one token.")


class ItemLensParams(LensParams):
    """What to read in items."""

    ids: FewNames = Field(validation_alias=either("ids"))
    k: int = Field(5, ge=1, le=100, description="Most probable tokens of each state.")


class TypedLensQuery(Params):
    """What to read in texts, as a body."""

    texts: tuple[Words, ...] = Field(min_length=1, max_length=64)
    layers: Layers | None = None
    variant: Literal["raw", "normed", "tuned"] = "raw"
    targets: tuple[Name, ...] = Field((), max_length=64)
    k: int = Field(5, ge=1, le=100, description="Most probable tokens of each state.")
    last: bool = Field(False, description="Only the last token of each text.")


class PartitionLensParams(LensParams):
    """What to read in partitions."""

    partitions: Names | None = Field(None, validation_alias=either("partitions"))


@router.get("", responses=TABLE)
async def lens(context: Context, params: Annotated[ItemLensParams, Query()]) -> Response:
    """The most probable tokens at each layer of some items; the store must keep a lens."""
    snapshot, options = _with_lens(context), params.options()

    def answer() -> Any:
        from hubstore.lens import read_store

        rows = snapshot.rows_of(snapshot.positions(params.ids), snapshot.pooling_name(params.pooling))
        row_bytes = TOKEN_BYTES * params.k + TARGET_BYTES * len(params.targets)
        context.service.limits.check_answer(rows * len(params.layers or snapshot.layers) * row_bytes)
        return read_store(snapshot, _lens(snapshot, params), **options)

    return await context.computed("lens", tuple(options.items()), answer)


@router.post("", responses=TABLE)
async def lens_of_texts(context: Context, query: TypedLensQuery) -> Response:
    """The most probable tokens at each layer of texts given now. Needs the server's model, and that it says words."""
    snapshot, service, limits = context.snapshot, context.service, context.service.limits
    if not service.encoders.available:
        raise NeedsModelError("texts need the store's model; start the server with --model, or ask by id")

    def answer() -> Any:
        from hubstore.lens import read_texts, tuned_lens

        options = query.options("texts", "last")
        with service.encoders.generator(snapshot) as model:
            tokens = typed_tokens(model, query.texts)
            limits.check_typed(tokens)
            row_bytes = TOKEN_BYTES * query.k + TARGET_BYTES * len(query.targets)
            limits.check_answer(tokens * len(query.layers or model.layer_names()) * row_bytes)
            if query.variant == "tuned":
                options["tuned"] = tuned_lens(snapshot, snapshot.lens(), layers=query.layers, fit=False).tuned
            found = read_texts(model, query.texts, **options)
        return _of_last_tokens(found) if query.last else found

    return await context.computed("lens", ("texts", *query.options().items()), answer)


@router.get("/summary", responses=TABLE)
async def summary(context: Context, params: Annotated[PartitionLensParams, Query()]) -> Response:
    """Entropy, agreement with the model and targets, by partition and layer; computed once and kept."""
    snapshot, options = _with_lens(context), params.options()

    def answer() -> Any:
        from hubstore.lens import lens_summary

        return lens_summary(snapshot, _lens(snapshot, params), **options)

    return await context.computed("lens-summary", tuple(options.items()), answer)


def typed_tokens(model: Model, texts: Sequence[str]) -> int:
    """Tokens of texts, as the model reads them."""
    from hubstore.forward import tokenize

    return sum(map(len, tokenize(model, list(texts), model.max_tokens)[0]))


def _of_last_tokens(found: pa.Table) -> pa.Table:
    """The rows of each text's last token."""
    import pyarrow.compute as pc

    last = found.group_by("item").aggregate([("token", "max")])
    places = pc.index_in(found["item"], value_set=last["item"].combine_chunks())
    return found.filter(pc.equal(found["token"], last["token_max"].take(places)))


def _lens(snapshot: Snapshot, params: LensParams) -> Lens:
    """The lens that reads; with tuned maps that the store keeps, since fitting them takes longer than a request may."""
    from hubstore.lens import tuned_lens

    lens = snapshot.lens()
    if params.variant != "tuned":
        return lens
    return tuned_lens(snapshot, lens, layers=params.layers, pooling=params.pooling, fit=False)


def _with_lens(context: RequestContext) -> Snapshot:
    if not context.snapshot.keeps_lens:
        name = context.snapshot.name
        raise NeedsModelError(f"{name} keeps no lens; `hubstore lens {name} --keep` adds it")
    return context.snapshot
