"""Maps of items: points in two or three dimensions, layer by layer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from hubstore.errors import QueryError
from hubstore.serve.routes.call import TABLE, CallOf, Names
from hubstore.serve.routes.parameters import Name

router = APIRouter(prefix="/api/stores/{store}/projection", tags=["projections"])


@router.get("", responses=TABLE)
async def projection(
    call: CallOf,
    layer: Names = None,
    pooling: Name | None = None,
    method: Literal["pca", "umap"] = "pca",
    points: Annotated[int, Query(ge=2, description="The most items to show; whole concepts are drawn.")] = 20_000,
    seed: Annotated[int, Query(ge=0, le=2**32 - 1)] = 0,
    language: Names = None,
    modality: Names = None,
    fields: Annotated[list[Name] | None, Query(max_length=64, description="Only these columns, and layer.")] = None,
) -> Response:
    """The same sample of items at each layer, each layer turned to lie near the one before; computed once and kept."""
    snapshot, most = call.snapshot, call.service.limits.points
    if points > most:
        raise QueryError(f"points is {points}; this server gives {most} at most")
    options: dict[str, Any] = {
        "layers": layer or None,
        "pooling": pooling,
        "method": method,
        "points": points,
        "seed": seed,
        "languages": language or None,
        "modalities": modality or None,
    }

    def made() -> Any:
        from hubstore.analysis import projection as project

        return project(snapshot, **options, device=snapshot.device)

    shown = None if fields is None else ["layer", *fields]
    return await call.computed("projection", ("projection", str(options)), made, shown)
