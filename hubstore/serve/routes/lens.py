"""What the logit lens reads in stored states."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from hubstore.serve.failures import NeedsModelError
from hubstore.serve.routes.call import TABLE, Call, CallOf, Names
from hubstore.serve.routes.parameters import Name

router = APIRouter(prefix="/api/stores/{store}/lens", tags=["lens"])

TOKEN_BYTES = 12
"""Of one of the most probable tokens: its number, its log-probability and where its text ends."""

TARGET_BYTES = 12
"""Of a target: its log-probability and rank."""

Variant = Annotated[Literal["raw", "normed"], Query(description="Without the final norm (the paper's), or with it.")]
Targets = Annotated[list[Name] | None, Query(max_length=64, description="Words to look up, each one token.")]


@router.get("", responses=TABLE)
async def lens(
    call: CallOf,
    id: Annotated[list[Name], Query(min_length=1, max_length=64)],
    layer: Names = None,
    variant: Variant = "raw",
    k: Annotated[int, Query(ge=1, le=100, description="Most probable tokens of each state.")] = 5,
    pooling: Name | None = None,
    target: Targets = None,
) -> Response:
    """The most probable tokens at each layer of some items; the store must keep a lens."""
    snapshot = _with_lens(call)
    ids = list(dict.fromkeys(id))
    options: dict[str, Any] = {
        "layers": layer or None,
        "pooling": pooling,
        "variant": variant,
        "targets": target or (),
        "k": k,
    }

    def made() -> Any:
        from hubstore.lens import read_store
        from hubstore.serve.answers.items import require_rows

        rows = snapshot.rows_of(snapshot.positions(ids), snapshot.pooling_name(pooling))
        row_bytes = TOKEN_BYTES * k + TARGET_BYTES * len(target or ())
        require_rows(rows * len(layer or snapshot.layers), row_bytes, call.service.limits.answer)
        return read_store(snapshot, snapshot.lens(), ids=ids, **options)

    return await call.computed("lens", ("lens", tuple(ids), str(options)), made)


@router.get("/summary", responses=TABLE)
async def summary(
    call: CallOf,
    partition: Names = None,
    layer: Names = None,
    variant: Variant = "raw",
    pooling: Name | None = None,
    target: Targets = None,
) -> Response:
    """Entropy, agreement with the model and targets, by partition and layer; computed once and kept."""
    snapshot = _with_lens(call)
    options: dict[str, Any] = {
        "partitions": partition or None,
        "layers": layer or None,
        "pooling": pooling,
        "variant": variant,
        "targets": target or (),
    }

    def made() -> Any:
        from hubstore.lens import lens_summary

        return lens_summary(snapshot, snapshot.lens(), **options)

    return await call.computed("lens-summary", ("lens-summary", str(options)), made)


def _with_lens(call: Call) -> Any:
    if not call.snapshot.keeps_lens:
        name = call.snapshot.name
        raise NeedsModelError(f"{name} keeps no lens; `hubstore lens {name} --keep` adds it")
    return call.snapshot
