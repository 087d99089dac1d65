"""Results that a store keeps, and curves: from a table that is kept, or computed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hubstore.analysis import ANALYSES, analyze
from hubstore.analysis.results import METADATA
from hubstore.analysis.states import item_pooling
from hubstore.errors import AnalysisError, CorruptStoreError, QueryError
from hubstore.serve.failures import NotThereError
from hubstore.serve.snapshot import Snapshot
from hubstore.storage.location import Url
from hubstore.store.result import decode_result

BY_PARTITION = ("clustering", "geometry")


@dataclass(frozen=True)
class KeptTable:
    """A table of results in a store.

    Args:
        analysis: which analysis's.
        key: its name.
        record: how it was made.
        rows: rows of it.
        current: whether it was made from the store's commits of now.
    """

    analysis: str
    key: str
    record: Mapping[str, Any]
    rows: int
    current: bool

    def described(self) -> dict[str, Any]:
        """For a list of them."""
        return {
            "analysis": self.analysis,
            "key": self.key,
            "parameters": self.record.get("parameters", {}),
            "seed": self.record.get("seed"),
            "rows": self.rows,
            "current": self.current,
        }

    def projections(self) -> Iterator[dict[str, Any]]:
        """Its layers, where it is of maps."""
        if self.analysis == "projection":
            parameters = self.record["parameters"]
            for layer in parameters["layers"]:
                yield {"layer": layer, **{name: parameters[name] for name in ("pooling", "method", "points")}}


def kept_tables(snapshot: Snapshot) -> list[KeptTable]:
    """Every table of results that the store keeps now; damaged ones are left out."""
    found = []
    for key in snapshot.storage.list("analyses"):
        _, _, rest = key.partition("/")
        analysis, _, name = rest.partition("/")
        if name.endswith(".parquet"):
            table = _described(snapshot, key, analysis, name.removesuffix(".parquet"))
            found += [] if table is None else [table]
    return found


def kept_table(snapshot: Snapshot, analysis: str, key: str) -> tuple[pa.Table, Mapping[str, Any]]:
    """One of them; NotThereError where it is none."""
    for one in kept_tables(snapshot):
        if (one.analysis, one.key) == (analysis, key):
            name = f"analyses/{analysis}/{key}.parquet"
            table, _ = decode_result(snapshot.storage.read(name), name)
            return table, one.record
    raise NotThereError(f"{snapshot.name} keeps no table {key!r} of {analysis!r}; /analyses lists what it keeps")


@dataclass(frozen=True)
class Curves:
    """Which curves are wanted.

    Args:
        analysis: one of ANALYSES.
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
    def asked(
        cls,
        snapshot: Snapshot,
        analysis: str,
        pairs: Sequence[str],
        partitions: Sequence[str],
        layers: Sequence[str] | None,
        pooling: str | None,
    ) -> Curves:
        """Checked against the store.

        Raises:
            AnalysisError: no such analysis, or pairs for one by partition, or the other way round.
            QueryError: a pair that is not two partitions.
            NotThereError: a partition, layer or pooling that is not there.
        """
        if analysis not in ANALYSES:
            raise AnalysisError(f"there is no analysis {analysis!r}; choose from {', '.join(ANALYSES)}")
        if pairs and analysis in BY_PARTITION:
            raise AnalysisError(f"{analysis} is of partitions, not of pairs; ask with partition=")
        if partitions and analysis not in BY_PARTITION:
            raise AnalysisError(f"{analysis} is of pairs, not of partitions; ask with pair=")
        return cls(
            analysis,
            tuple(dict.fromkeys(_pair(snapshot, pair) for pair in pairs)),
            tuple(dict.fromkeys(snapshot.partition(name).name for name in partitions)),
            None if not layers else tuple(dict.fromkeys(snapshot.layer_name(layer) for layer in layers)),
            None if pooling is None else snapshot.pooling_name(pooling),
        )

    def table(self, snapshot: Snapshot, device: str) -> pa.Table:
        """From a table that the store keeps, or computed and kept where the store may be written to."""
        found = self._kept(snapshot)
        if found is None:
            layers = None if self.layers is None else list(self.layers)
            found = analyze(
                snapshot, [self.analysis], pairs=self.pairs or None, layers=layers, pooling=self.pooling, device=device
            )[self.analysis]
        return found.filter(self._chosen(found))

    def _kept(self, snapshot: Snapshot) -> pa.Table | None:
        """A kept table of now that holds all that is wanted."""
        for one in kept_tables(snapshot):
            if one.analysis == self.analysis and one.current and self._covers(snapshot, one.record["parameters"]):
                table, _ = kept_table(snapshot, one.analysis, one.key)
                if self._holds(table):
                    return table
        return None

    def _covers(self, snapshot: Snapshot, made_with: Mapping[str, Any]) -> bool:
        wanted = set(snapshot.layers if self.layers is None else self.layers)
        if self.analysis in BY_PARTITION:
            whole = made_with.get("partitions") == list(snapshot.partitions)
        else:
            whole = bool(self.pairs) or made_with.get("pairs") is None
        defaults = (made_with.get("seed"), made_with.get("bootstrap")) == (0, 1000)
        pooled = made_with.get("pooling") == item_pooling(snapshot, self.pooling)
        return whole and defaults and pooled and wanted <= set(made_with.get("layers") or ())

    def _holds(self, table: pa.Table) -> bool:
        there = set(zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True))
        return set(self.pairs) <= there

    def _chosen(self, table: pa.Table) -> pa.ChunkedArray | pa.Array:
        """bool [rows]: whether a row is one of those wanted."""
        chosen = pc.is_valid(table["layer"])
        if self.layers is not None:
            chosen = pc.and_(chosen, pc.is_in(table["layer"], pa.array(self.layers)))
        if self.partitions:
            chosen = pc.and_(chosen, pc.is_in(table["x"], pa.array(self.partitions)))
        if self.pairs:
            wanted = {*self.pairs, *((y, x) for x, y in self.pairs)}  # retrieval goes both ways
            rows = zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True)
            chosen = pc.and_(chosen, pa.array([row in wanted for row in rows]))
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


def _described(snapshot: Snapshot, key: str, analysis: str, name: str) -> KeptTable | None:
    stamp = _stamp(snapshot, key)
    if stamp is None:
        return None

    def read() -> KeptTable | None:
        try:
            table, _ = decode_result(snapshot.storage.read(key), key)
            record = json.loads((table.schema.metadata or {})[METADATA])
        except (CorruptStoreError, KeyError, ValueError):
            return None
        current = record.get("commits") == snapshot.digest
        return KeptTable(analysis, name, record, len(table), current)

    return snapshot.described(key, stamp, read)


def _stamp(snapshot: Snapshot, key: str) -> int | None:
    """What changes with a file: its time, or in an object store, where a table's name is of its content, its size."""
    if isinstance(snapshot.path, Url):
        return snapshot.storage.size(key) if snapshot.storage.exists(key) else None
    path = snapshot.path / key
    return path.stat().st_mtime_ns if path.exists() else None
