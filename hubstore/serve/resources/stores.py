"""Which stores there are, and all about one: layers, partitions, indexes, results and provenance."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow.compute as pc
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from hubstore.errors import CorruptStoreError, IndexNotFoundError
from hubstore.serve.context import ERRORS, Context, Params, Serving, StoreParams
from hubstore.serve.redaction import redact
from hubstore.serve.resources.analyses import AnalysisInfo, stored_tables
from hubstore.serve.responses import json_response

if TYPE_CHECKING:
    from hubstore.serve.snapshot import Snapshot

router = APIRouter(prefix="/api/v1/stores", tags=["stores"])


class StoreSummary(BaseModel):
    """A store in a list."""

    name: str
    revision: str = Field(description="Digest of the store's commits: changes when, and only when, its content does.")
    items: int
    complete: bool = Field(description="Whether all items of its corpora are in it.")
    unfinished: str | None = Field(description="What is missing, and how to finish it.")
    model: str | None
    layers: list[str]
    poolings: list[str]
    languages: list[str]
    modalities: list[str]


class Stores(BaseModel):
    """All stores that can be opened."""

    stores: list[StoreSummary]


class PartitionInfo(BaseModel):
    """All items of one modality and language."""

    name: str
    modality: str
    language: str
    items: int


class IndexInfo(BaseModel):
    """The index of a layer."""

    layer: str
    pooling: str
    kind: str
    rows: int
    stale: bool = Field(description="Whether it lacks rows of the store.")


class ProjectionInfo(BaseModel):
    """A map of a layer that the store keeps."""

    layer: str
    pooling: str
    method: str
    points: int


class StoreInfo(StoreSummary):
    """All about a store."""

    dtype: str
    width: int
    columns: dict[str, str] = Field(description="Further columns of the items, and their types.")
    families: dict[str, str] = Field(description="By language, the family that it is of.")
    partitions: list[PartitionInfo]
    concepts: int
    indexes: list[IndexInfo]
    analyses: list[AnalysisInfo]
    projections: list[ProjectionInfo]
    lens: bool = Field(description="Whether it keeps an unembedding to read states with.")
    previews: bool = Field(description="Whether it keeps thumbnails or clips.")
    originals: bool = Field(description="Whether the server gives items' own files.")
    encoder: bool = Field(description="Whether queries may be texts, images and audio: the server has the model.")
    generator: bool = Field(description="Whether the lens may read texts, and prompts be gone on from and steered.")
    provenance: dict[str, Any]


@router.get("", response_model=Stores, responses=ERRORS)
async def stores(service: Serving, params: Annotated[Params, Query()]) -> Response:
    """All stores that the server was given and can open; its log says what is wrong with others."""
    opened = await asyncio.gather(*(handle.snapshot() for handle in service.stores.values()), return_exceptions=True)
    snapshots = [one for one in opened if not isinstance(one, BaseException)]
    return await service.work.run(lambda: json_response({"stores": [summary(snapshot) for snapshot in snapshots]}))


@router.get("/{store}", response_model=StoreInfo, responses=ERRORS)
async def store(context: Context, params: Annotated[StoreParams, Query()]) -> Response:
    """All about one store: layers, partitions, indexes, results it keeps, provenance."""
    snapshot, service = context.snapshot, context.service

    def info() -> StoreInfo:
        from hubstore.analysis.families import family_of

        tables = stored_tables(snapshot)
        maps = [one for table in tables if table.info.current for one in table.projections()]
        return StoreInfo(
            **summary(snapshot),
            dtype=snapshot.layout.dtype,
            width=snapshot.width,
            columns={name: str(kind) for name, kind in snapshot.columns.items()},
            families={one.language: family_of(one.language) for one in snapshot.partitions.values()},
            partitions=[
                PartitionInfo(name=one.name, modality=one.modality, language=one.language, items=one.size)
                for one in snapshot.partitions.values()
            ],
            concepts=snapshot.cached("concepts", lambda: pc.count_distinct(snapshot.items["concept"]).as_py()),
            indexes=_indexes(snapshot),
            analyses=[table.info for table in tables],
            projections=[ProjectionInfo(**one) for one in maps],
            lens=snapshot.keeps_lens,
            previews=snapshot.keeps_previews,
            originals=service.originals is not None,
            encoder=service.encoders.reads(snapshot),
            generator=service.encoders.generates(snapshot),
            provenance=redact(_provenance(snapshot)),
        )

    return await context.record(info)


def summary(snapshot: Snapshot) -> dict[str, Any]:
    """A store in a list, as `StoreSummary` describes it."""
    partitions, unfinished = snapshot.partitions.values(), snapshot.unfinished
    return {
        "name": snapshot.name,
        "revision": snapshot.revision,
        "items": len(snapshot),
        "complete": unfinished is None,
        "unfinished": None if unfinished is None else redact(str(unfinished)),
        "model": redact(snapshot.attributes.get("model", {}).get("id")),
        "layers": list(snapshot.layers),
        "poolings": list(snapshot.poolings),
        "languages": list(dict.fromkeys(partition.language for partition in partitions)),
        "modalities": list(dict.fromkeys(partition.modality for partition in partitions)),
    }


def _indexes(snapshot: Snapshot) -> list[IndexInfo]:
    """The index of every layer and pooling that has one."""
    from hubstore.index.description import read_description, store_commits

    found = []
    for pooling in snapshot.poolings:
        for layer in snapshot.layers:
            try:
                one = read_description(snapshot, layer, pooling)
            except (IndexNotFoundError, CorruptStoreError):
                continue
            stale = one.kind != "exact" and one.commits != store_commits(snapshot)
            found.append(IndexInfo(layer=layer, pooling=pooling, kind=one.kind, rows=one.rows, stale=stale))
    return found


def _provenance(snapshot: Snapshot) -> dict[str, Any]:
    """How the store says that it was made; its shape is answered beside."""
    shape = {"format", *snapshot.layout.to_json()}
    return {key: value for key, value in snapshot.attributes.items() if key not in shape}
