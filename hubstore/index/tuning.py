"""How hard an index is to search: as little as finds the share of the true neighbors that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hubstore.index import kinds
from hubstore.index.allowed import Allowed, Positions
from hubstore.index.cost import index_bytes
from hubstore.index.description import IndexDescription, MeasuredRecall
from hubstore.index.exact import LayerRows, exact_search

RECALL = 0.95
"""Share of the true neighbors that an index is set to find where nobody says another."""

QUERIES = 512
"""Rows that are held out: by half of them the settings are chosen, on the other half they are measured."""

K = 10

MARGIN = 0.005
"""Of recall, beyond what is asked for, on the half that settings are chosen by: they suit it better than others."""

MOST_REFINE = 50
"""Candidates for each neighbor, at most."""

MOST_BEAM = 4096
"""Of an HNSW: beyond it exact search is faster."""

STEP = 2**0.125
"""From one effort that is tried to the next."""

ROW_BYTES = 16 << 10
"""Of lists that a disk reads in the time of one row from elsewhere, where many of either are asked for at once."""

Candidates = Callable[[torch.Tensor, int, int], Positions]
"""Queries [q, width], how many candidates and how much effort, to positions [q, count], best first, -1 for none."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows that an index is measured on: float [q, width], their positions, and the K nearest others to each [q, K]."""

    rows: torch.Tensor
    own: Positions
    truth: Positions

    @classmethod
    def of(cls, states: LayerRows, trained: Positions, seed: int, device: torch.device) -> HeldOut | None:
        """Rows that the index was not trained on, where there are enough, less those whose K nearest are not settled.

        Of a row that has more equally near neighbors than K any may be found. None where all are such.
        """
        rows, rng = len(states), np.random.default_rng([seed, 1])
        wanted = min(QUERIES, rows)
        if rows - len(trained) >= wanted:
            drawn = rng.choice(rows - len(trained), wanted, replace=False)
            # The d-th of the rows that are not in `trained`, which ascends.
            own = drawn + np.searchsorted(trained - np.arange(len(trained)), drawn, side="right")
        else:
            own = rng.choice(rows, wanted, replace=False)
        own = np.sort(own)
        k = min(K, rows - 1)
        if k < 1:
            return None
        queries = states.take(own)
        scores, found = exact_search(states, queries, k + 2, Allowed.everything(rows), device, dtype=torch.float64)
        others = np.argsort(found.numpy() == own[:, None], axis=1, kind="stable")[:, : k + 1]
        near = np.take_along_axis(scores.numpy(), others, 1)
        settled = (near[:, k - 1] > near[:, k]) & (found.numpy() == own[:, None]).any(1)
        if not settled.any():
            return None
        truth = np.take_along_axis(found.numpy(), others, 1)[:, :k]
        # Halves that are not of one part of the corpus each.
        order = rng.permutation(np.flatnonzero(settled))
        return cls(queries[torch.from_numpy(order)], own[order], truth[order])


def tuned(
    description: IndexDescription, held: HeldOut, candidates: Candidates, target: float
) -> tuple[dict[str, int], MeasuredRecall]:
    """Settings that find `target` of the true neighbors, or the most that any do, and what they were measured to find.

    Of those that do, the ones that a cold disk is fastest with: of a list that is visited it reads all, of a row that
    is scored again a page or two.

    Args:
        description: of the index, which is not exact.
        held: the rows to measure on.
        candidates: searches it.
        target: a share.
    """
    half = max(1, len(held.own) // 2)
    choosing, measuring = (slice(half), slice(half if len(held.own) > 1 else 0, None))
    kind, settings = description.kind, dict(description.parameters or {})
    refines = MOST_REFINE if kind in kinds.CODED else settings["refine"]
    wanted, k = min(target + MARGIN, (1 + target) / 2), held.truth.shape[1]
    costs: dict[tuple[int, int], float] = {}
    row = ROW_BYTES / _list_bytes(description)
    for effort in _efforts(description):
        if costs and effort >= min(costs.values()):
            break
        enough = np.flatnonzero(_found(held, choosing, candidates, refines, effort) >= wanted)
        if len(enough):
            refine = int(enough[0]) + 1 if kind in kinds.CODED else refines
            costs[effort, refine] = effort + refine * k * row
    effort, refine = min(costs, key=costs.__getitem__) if costs else (effort, refines)
    measured = float(_found(held, measuring, candidates, refine, effort)[-1])
    settings |= {kinds.effort_name(kind): effort, "refine": refine}
    return settings, MeasuredRecall(target, round(measured, 4), k, len(held.own[measuring]))


def _list_bytes(description: IndexDescription) -> float:
    """Of a list, on average; of a node of an HNSW, whose rows are as many whatever the effort."""
    size = index_bytes(description.kind, description.rows, description.width)
    return size / (description.parameters or {}).get("nlist", description.rows)


def _efforts(description: IndexDescription) -> list[int]:
    """Ascending; of an HNSW none below the default, which is cheap."""
    kind, rows = description.kind, description.rows
    least = kinds.parameters(kind, rows)["efSearch"] if kind == "hnsw" else 1
    most = max(least, min(rows, MOST_BEAM)) if kind == "hnsw" else (description.parameters or {})["nlist"]
    steps = int(np.ceil(np.log(most / least) / np.log(STEP)))
    return sorted({min(most, round(least * STEP**step)) for step in range(steps + 1)})


def _found(held: HeldOut, part: slice, candidates: Candidates, refine: int, effort: int) -> npt.NDArray[np.float64]:
    """float64 [refine]: the share of the true neighbors among k, 2 k, ... candidates."""
    own, truth = held.own[part], held.truth[part]
    k = truth.shape[1]
    found = candidates(held.rows[part], refine * k + 1, effort)
    others = np.argsort(found == own[:, None], axis=1, kind="stable")[:, : refine * k]
    hits = (np.take_along_axis(found, others, 1)[:, :, None] == truth[:, None]).any(2)
    if hits.shape[1] < refine * k:
        hits = np.pad(hits, ((0, 0), (0, refine * k - hits.shape[1])))
    shares: npt.NDArray[np.float64] = hits.reshape(len(hits), refine, k).sum(2).cumsum(1).mean(0) / k
    return shares
