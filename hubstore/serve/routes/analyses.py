"""Results that a store keeps, and curves by layer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from hubstore.serve.routes.call import ERRORS, TABLE, CallOf, Names
from hubstore.serve.routes.parameters import Name
from hubstore.serve.schemas import Analyses

router = APIRouter(prefix="/api/stores/{store}", tags=["analyses"])


@router.get("/analyses", response_model=Analyses, responses=ERRORS)
async def analyses(call: CallOf) -> Response:
    """Every table of results that the store keeps."""
    from hubstore.serve.answers.analyses import kept_tables

    return await call.record(lambda: {"analyses": [one.described() for one in kept_tables(call.snapshot)]})


@router.get("/analyses/{analysis}/{key}", responses=TABLE)
async def analysis(
    call: CallOf, analysis: Annotated[str, Path(max_length=200)], key: Annotated[str, Path(max_length=200)]
) -> Response:
    """One of these tables."""
    from hubstore.serve.answers.analyses import kept_table

    return await call.table(analysis, lambda: kept_table(call.snapshot, analysis, key))


@router.get("/curves", responses=TABLE)
async def curves(
    call: CallOf,
    analysis: Annotated[Name, Query(description="similarity, retrieval, alignment, clustering or geometry.")],
    pair: Annotated[list[Name] | None, Query(description="Two partitions: en:zh-Hans.", max_length=1024)] = None,
    partition: Names = None,
    layer: Names = None,
    pooling: Name | None = None,
) -> Response:
    """An analysis by layer: for pairs of partitions (all by default), or of partitions for clustering and geometry.

    From a table that the store keeps, else computed now, and kept where the store may be written to.
    """
    from hubstore.serve.answers.analyses import Curves

    snapshot = call.snapshot
    wanted = Curves.asked(snapshot, analysis, pair or (), partition or (), layer, pooling)
    return await call.computed(analysis, wanted, lambda: wanted.table(snapshot, snapshot.device))
