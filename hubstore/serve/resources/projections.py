"""Maps of items: points in two or three dimensions, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from hubstore.errors import QueryError
from hubstore.serve.context import TABLE, Context, FewNames, Name, Names, StoreParams, either

if TYPE_CHECKING:
    import pyarrow as pa

router = APIRouter(prefix="/api/v1/stores/{store}/projection", tags=["projections"])


class ProjectionParams(StoreParams):
    """Which map."""

    layers: Names | None = Field(None, validation_alias=either("layers"))
    pooling: Name | None = None
    method: Literal["pca", "umap"] = "pca"
    points: int = Field(20_000, ge=2, description="The most items to show; whole concepts are drawn.")
    seed: int = Field(0, ge=0, le=2**32 - 1)
    languages: Names | None = Field(None, validation_alias=either("languages"))
    modalities: Names | None = Field(None, validation_alias=either("modalities"))
    columns: FewNames | None = Field(
        None, alias="fields", description="Only these columns, those that the store keeps among them, and layer."
    )


@router.get("", responses=TABLE)
async def projection(context: Context, params: Annotated[ProjectionParams, Query()]) -> Response:
    """The same sample of items at each layer, each layer turned to lie near the one before; computed once and kept."""
    from hubstore.analysis import PROJECTION_SCHEMA
    from hubstore.analysis import projection as project

    snapshot, most = context.snapshot, context.service.limits.points
    if params.points > most:
        raise QueryError(f"points is {params.points}; this server gives {most} at most")
    options = params.options("columns")

    def answer() -> Any:
        return project(snapshot, **options, device=snapshot.device)

    # What is called as a column of the projection is that one.
    own = [name for name in params.columns or () if name in snapshot.columns and name not in PROJECTION_SCHEMA.names]

    def with_own(table: pa.Table) -> pa.Table:
        items = snapshot.items_at(table["position"].to_numpy(), own)
        for name in own:
            table = table.append_column(name, items[name])
        return table

    shown = None if params.columns is None else ["layer", *params.columns]
    return await context.computed("projection", tuple(options.items()), answer, shown, with_own if own else None)
