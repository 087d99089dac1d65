"""Analyses of a store: similarity, retrieval, clustering, alignment and geometry, and maps of it, kept in the store.

Each analysis returns a long-form Arrow table (analysis, layer, x, y, metric, variant, value, low, high, n and columns
of its own), `projection` one of points; each is computed once for its parameters and the store's commits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hubstore.analysis.alignment import alignment
from hubstore.analysis.clustering import clustering
from hubstore.analysis.geometry import geometry
from hubstore.analysis.layers import Share
from hubstore.analysis.pairs import Pair, chosen_pairs
from hubstore.analysis.projection import PROJECTION_SCHEMA, projection
from hubstore.analysis.results import metadata
from hubstore.analysis.retrieval import retrieval
from hubstore.analysis.similarity import similarity, unresolved
from hubstore.errors import AnalysisError

if TYPE_CHECKING:
    from hubstore.store import StoreReader

__all__ = [
    "ANALYSES",
    "PROJECTION_SCHEMA",
    "alignment",
    "analyze",
    "clustering",
    "geometry",
    "metadata",
    "projection",
    "retrieval",
    "similarity",
    "unresolved",
]

ANALYSES = ("similarity", "retrieval", "clustering", "alignment", "geometry")


def analyze(
    store: StoreReader,
    names: Sequence[str] | None = None,
    *,
    pairs: Sequence[Pair] | None = None,
    pivot: str | None = None,
    layers: Sequence[str | int] | None = None,
    pooling: str | None = None,
    seed: int = 0,
    bootstrap: int = 1000,
    device: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
    jobs: int | Share = 1,
) -> dict[str, pa.Table]:
    """Run several analyses with their defaults.

    Args:
        store: an opened store.
        names: some of `ANALYSES`; None is all.
        pairs: partitions to compare; clustering and geometry take the partitions named in them. None is all.
        pivot: a partition to compare with every other that shares concepts with it, in place of `pairs`.
        layers: None is all.
        pooling: None is the store's first that has a row per item.
        seed: of all random draws.
        bootstrap: resamples for the intervals; 0 gives none.
        device: where to compute: "auto" (CUDA where PyTorch sees it), "cpu", "cuda" or "cuda:1". Tables that are
            kept are reused wherever they were computed.
        progress: called with the analysis, its layers done and its layers in all.
        jobs: processes of this host that share the layers, or who else does; the tables are the same. A script that
            asks for several guards its entry with `if __name__ == "__main__":`, since those processes import it.

    Returns:
        The tables by analysis.

    Raises:
        QueryError: a device that is not there.
        AnalysisError: a name that is no analysis, or what the analysis itself refuses.
    """
    chosen = list(dict.fromkeys(names)) if names else list(ANALYSES)
    pairs = chosen_pairs(store, pairs, pivot)
    partitions = None if pairs is None else list(dict.fromkeys(itertools.chain.from_iterable(pairs)))
    tables = {}
    for name in chosen:
        if name not in ANALYSES:
            raise AnalysisError(f"there is no analysis {name!r}; choose from {', '.join(ANALYSES)}")
    for name in chosen:
        options: Any = {
            "layers": layers,
            "pooling": pooling,
            "seed": seed,
            "bootstrap": bootstrap,
            "device": device,
            "progress": _reporter(name, progress),
            "jobs": jobs,
        }
        if name in ("clustering", "geometry"):
            by_partition = clustering if name == "clustering" else geometry
            tables[name] = by_partition(store, partitions, **options)
        else:
            by_pair = {"similarity": similarity, "retrieval": retrieval, "alignment": alignment}[name]
            tables[name] = by_pair(store, pairs, **options)
    return tables


def _reporter(name: str, progress: Callable[[str, int, int], None] | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)
