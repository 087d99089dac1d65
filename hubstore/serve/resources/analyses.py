"""Results that a store keeps, and curves by layer: from a table that is kept, or computed."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from hubstore.errors import AnalysisError, CorruptStoreError, QueryError
from hubstore.serve.context import ERRORS, TABLE, Context, Name, Names, StoreParams, either
from hubstore.serve.http_errors import NotFoundError

if TYPE_CHECKING:
    from hubstore.serve.snapshot import Snapshot

router = APIRouter(prefix="/api/v1/stores/{store}", tags=["analyses"])

BY_PARTITION = ("clustering", "geometry", "subspace", "probe")

Key = Annotated[str, Path(max_length=200)]


class AnalysisInfo(BaseModel):
    """A table of results that the store keeps."""

    analysis: str
    key: str
    parameters: dict[str, Any]
    seed: int | None
    rows: int
    current: bool = Field(description="Whether it was made from the store as it is now.")


class Analyses(BaseModel):
    """All tables of results that the store keeps."""

    analyses: list[AnalysisInfo]


class CurveParams(StoreParams):
    """Which curves."""

    analysis: Name = Field(description="similarity, retrieval, alignment, clustering or geometry.")
    pairs: Names | None = Field(None, validation_alias=either("pairs"), description="Two partitions: en:zh-Hans.")
    partitions: Names | None = Field(None, validation_alias=either("partitions"))
    pivot: Name | None = Field(None, description="One partition against all others that share concepts with it.")
    layers: Names | None = Field(None, validation_alias=either("layers"))
    pooling: Name | None = None
    partition_by: Name | None = Field(None, description="A column whose values are the partitions: source.")


@router.get("/analyses", response_model=Analyses, responses=ERRORS)
async def analyses(context: Context, params: Annotated[StoreParams, Query()]) -> Response:
    """Every table of results that the store keeps."""
    return await context.record(lambda: Analyses(analyses=[one.info for one in stored_tables(context.snapshot)]))


@router.get("/analyses/{analysis}/{key}", responses=TABLE)
async def analysis(context: Context, analysis: Key, key: Key, params: Annotated[StoreParams, Query()]) -> Response:
    """One of these tables."""
    snapshot = context.snapshot

    def found() -> tuple[pa.Table, Mapping[str, Any]]:
        for one in stored_tables(snapshot):
            if (one.info.analysis, one.info.key) == (analysis, key):
                return one.table(snapshot), one.provenance
        raise NotFoundError(f"{snapshot.name} keeps no table {key!r} of {analysis!r}; /analyses lists what it keeps")

    return await context.table(analysis, found)


@router.get("/curves", responses=TABLE)
async def curves(context: Context, params: Annotated[CurveParams, Query()]) -> Response:
    """An analysis by layer: for pairs of partitions (all by default), or of partitions for clustering and geometry.

    From a table that the store keeps, else computed now, and kept where the store may be written to.
    """
    snapshot = context.snapshot
    if (column := params.partition_by) is not None:
        plain = snapshot
        snapshot = await context.service.work.run(
            lambda: plain.cached(("by", column), lambda: plain.partitioned_by(column))
        )
    chosen = Curves.checked(snapshot, params)
    key = chosen, params.partition_by
    return await context.computed(chosen.analysis, key, lambda: chosen.table(snapshot))


@dataclass(frozen=True)
class StoredTable:
    """A table of results in a store, and the record of how it was made."""

    info: AnalysisInfo
    provenance: Mapping[str, Any]

    def projections(self) -> Iterator[dict[str, Any]]:
        """Its layers, where it is of maps."""
        if self.info.analysis == "projection":
            parameters = self.provenance["parameters"]
            for layer in parameters.get("layers") or ():
                yield {"layer": layer, **{name: parameters.get(name) for name in ("pooling", "method", "points")}}

    def table(self, snapshot: Snapshot) -> pa.Table:
        """Its rows."""
        from hubstore.store.result import decode_result

        name = f"analyses/{self.info.analysis}/{self.info.key}.parquet"
        return decode_result(snapshot.storage.read(name), name)[0]


def stored_tables(snapshot: Snapshot) -> list[StoredTable]:
    """Every table of results that the store keeps now; damaged ones are left out."""
    found = []
    for key in snapshot.storage.list("analyses"):
        _, _, rest = key.partition("/")
        analysis, _, name = rest.partition("/")
        stamp = _stamp(snapshot, key) if name.endswith(".parquet") else None
        if stamp is not None:
            read = functools.partial(_stored_table, snapshot, key, analysis, name)
            found.append(snapshot.read_once(key, stamp, read))
    return [table for table in found if table is not None]


@dataclass(frozen=True)
class Curves:
    """Which curves are wanted.

    Args:
        analysis: one of `hubstore.analysis.EVERY`.
        pairs: partitions to compare, in the store's order; for those by pair.
        partitions: for clustering and geometry, which are of all partitions together: whose rows to give; () is all.
        layers: None is all.
        pooling: None is the analysis's default.
    """

    analysis: str
    pairs: tuple[tuple[str, str], ...]
    partitions: tuple[str, ...]
    layers: tuple[str, ...] | None
    pooling: str | None

    @classmethod
    def checked(cls, snapshot: Snapshot, params: CurveParams) -> Curves:
        """What is wanted of this store.

        Raises:
            AnalysisError: no such analysis, or pairs for one by partition, or the other way round.
            QueryError: a pair that is not two partitions.
            NotFoundError: a partition, layer or pooling that is not there.
        """
        from hubstore.analysis import EVERY
        from hubstore.analysis.pairs import chosen_pairs

        analysis, pairs, partitions = params.analysis, params.pairs or (), params.partitions or ()
        if analysis not in EVERY:
            raise AnalysisError(f"there is no analysis {analysis!r}; choose from {', '.join(EVERY)}")
        if pairs and analysis in BY_PARTITION:
            raise AnalysisError(f"{analysis} is of partitions, not of pairs; ask with partition=")
        if partitions and analysis not in BY_PARTITION:
            raise AnalysisError(f"{analysis} is of pairs, not of partitions; ask with pair=")
        chosen = [_pair(snapshot, pair) for pair in pairs]
        if params.pivot is not None:
            if pairs or partitions:
                raise QueryError(
                    f"pairs or partitions and the pivot {params.pivot!r} were both given; give one of them"
                )
            chosen = chosen_pairs(snapshot, None, params.pivot) or []
            if analysis in BY_PARTITION:
                chosen, partitions = [], tuple(itertools.chain.from_iterable(chosen))
        return cls(
            analysis,
            tuple(dict.fromkeys(chosen)),
            tuple(dict.fromkeys(snapshot.partition(name).name for name in partitions)),
            None if params.layers is None else tuple(snapshot.layer_names(params.layers)),
            None if params.pooling is None else snapshot.pooling_name(params.pooling),
        )

    def table(self, snapshot: Snapshot) -> pa.Table:
        """From a table that the store keeps, or computed and kept where the store may be written to."""
        from hubstore.analysis import analyze

        found = self._stored(snapshot)
        if found is None:
            pairs, layers, pooling, device = self.pairs or None, self.layers, self.pooling, snapshot.device
            tables = analyze(snapshot, [self.analysis], pairs=pairs, layers=layers, pooling=pooling, device=device)
            found = tables[self.analysis]
        return found.filter(self._chosen(found))

    def _stored(self, snapshot: Snapshot) -> pa.Table | None:
        """A table of the store as it is now that holds all that is wanted."""
        from hubstore.analysis.results import has_fields

        for one in stored_tables(snapshot):
            if one.info.analysis == self.analysis and one.info.current and self._covers(snapshot, one.info.parameters):
                table = one.table(snapshot)
                if has_fields(table) and self._holds(table):
                    return table
        return None

    def _covers(self, snapshot: Snapshot, made_with: Mapping[str, Any]) -> bool:
        from hubstore.analysis.states import item_pooling

        layers = set(snapshot.layers if self.layers is None else self.layers)
        if self.analysis in BY_PARTITION:
            whole = made_with.get("partitions") == list(snapshot.partitions)
        else:
            whole = bool(self.pairs) or made_with.get("pairs") is None
        defaults = (made_with.get("seed"), made_with.get("bootstrap")) == (0, 1000)
        pooled = made_with.get("pooling") == item_pooling(snapshot, self.pooling)
        same = made_with.get("partition_by") == snapshot.partition_by
        return same and whole and defaults and pooled and layers <= set(made_with.get("layers") or ())

    def _holds(self, table: pa.Table) -> bool:
        present = set(zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True))
        return set(self.pairs) <= present

    def _chosen(self, table: pa.Table) -> pa.ChunkedArray | pa.Array:
        """bool [rows]: whether a row is one of those chosen."""
        chosen = pc.is_valid(table["layer"])
        if self.layers is not None:
            chosen = pc.and_(chosen, pc.is_in(table["layer"], pa.array(self.layers)))
        if self.partitions:
            chosen = pc.and_(chosen, pc.is_in(table["x"], pa.array(self.partitions)))
        if self.pairs:
            pairs = {*self.pairs, *((y, x) for x, y in self.pairs)}  # retrieval goes both ways
            rows = zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True)
            chosen = pc.and_(chosen, pa.array([row in pairs for row in rows]))
        return chosen


def _pair(snapshot: Snapshot, pair: str) -> tuple[str, str]:
    """Two partitions in the store's order, from "en:es"."""
    x, colon, y = pair.partition(":")
    if not (x and colon and y) or ":" in y:
        raise QueryError(f"pair {pair!r} is not two partitions; write it as en:zh-Hans")
    names = [snapshot.partition(x).name, snapshot.partition(y).name]
    order = list(snapshot.partitions)
    first, second = sorted(names, key=order.index)
    return first, second


def _stored_table(snapshot: Snapshot, key: str, analysis: str, name: str) -> StoredTable | None:
    from hubstore.store.result import decode_result, result_key, result_record

    try:
        table, _ = decode_result(snapshot.storage.read(key), key)
        provenance = result_record(table.schema.metadata or {}, key)
        info = AnalysisInfo(
            analysis=analysis,
            key=name.removesuffix(".parquet"),
            parameters=provenance.get("parameters", {}),
            seed=provenance.get("seed"),
            rows=len(table),
            current=provenance.get("commits") == snapshot.digest,
        )
        named = result_key(provenance) == key
    except (CorruptStoreError, ValueError):
        return None
    return StoredTable(info, provenance) if named else None


def _stamp(snapshot: Snapshot, key: str) -> int | None:
    """What changes with a file: its time."""
    found = snapshot.storage.stat(key)
    return None if found is None else found.mtime_ns
