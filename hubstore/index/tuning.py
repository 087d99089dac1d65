"""How hard an index is to search: as little as finds the share of the true neighbors that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from hubstore.index import kinds
from hubstore.index.allowed import Allowed, Positions
from hubstore.index.cost import ROW_BYTES, list_bytes
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


@dataclass(frozen=True)
class MeasuredRows:
    """What an index is measured on.

    Args:
        states: the layer's rows.
        trained: positions that the index was trained on, ascending.
        seed: of the draw.
        device: where the truth is computed.
    """

    states: LayerRows
    trained: Positions
    seed: int
    device: torch.device

    def held_out(self, allowed: Allowed | None = None) -> HeldOut | None:
        """See `HeldOut.of`."""
        return HeldOut.of(self.states, self.trained, self.seed, self.device, allowed)


Candidates = Callable[[torch.Tensor, int, int], Positions]
"""Queries [q, width], how many candidates and how much effort, to positions [q, count], best first, -1 for none."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows that an index is measured on: float [q, width], their positions, and the K nearest others to each [q, K]."""

    rows: torch.Tensor
    own: Positions
    truth: Positions

    allowed: Allowed | None = None

    @classmethod
    def of(
        cls, states: LayerRows, trained: Positions, seed: int, device: torch.device, allowed: Allowed | None = None
    ) -> HeldOut | None:
        """Rows that the index was not trained on, where there are enough, less those whose K nearest are not settled.

        Of a row that has more equally near neighbors than K any may be found. None where all are such. With `allowed`,
        neighbors are of those positions.
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
        among = allowed or Allowed.everything(rows)
        scores, found = exact_search(states, queries, k + 2, among, device, dtype=torch.float64)
        others = np.argsort(found.numpy() == own[:, None], axis=1, kind="stable")[:, : k + 1]
        near = np.take_along_axis(scores.numpy(), others, 1)
        settled = near[:, k - 1] > near[:, k]
        if allowed is None:
            settled &= (found.numpy() == own[:, None]).any(1)
        if not settled.any():
            return None
        truth = np.take_along_axis(found.numpy(), others, 1)[:, :k]
        # Halves that are not of one part of the corpus each.
        order = rng.permutation(np.flatnonzero(settled))
        return cls(queries[torch.from_numpy(order)], own[order], truth[order], allowed)


def is_measured(description: IndexDescription, target: float) -> bool:
    """Whether an index has all that `with_settings` would add to it for a recall; exact search needs nothing."""
    if description.kind == "exact":
        return True
    if description.recall is None or description.recall.target != target:
        return False
    return not _filters_through_lists(description) or kinds.SHARES.keys() <= (description.parameters or {}).keys()


def with_settings(
    description: IndexDescription, rows: MeasuredRows, find: Callable[..., Positions], target: float
) -> IndexDescription:
    """The description with how hard the index is to be searched, and what it then finds; as it is where no row tells.

    Args:
        description: of the index.
        rows: that it is measured on.
        find: as `CandidateSource.find`.
        target: share of the true neighbors.
    """
    held = rows.held_out()
    if held is None:
        return description
    settings, recall = tuned(description, held, find, target)
    found = replace(description, parameters=settings, recall=recall)
    if _filters_through_lists(description):
        for number, (name, share) in enumerate(kinds.SHARES.items()):
            drawn = np.random.default_rng([rows.seed, 3, number]).random(description.rows) < share
            allowed = Allowed.from_mask(drawn)
            if (held := rows.held_out(allowed)) is not None:
                settings[name] = tuned_for_share(found, held, partial(find, allowed=allowed), target)
    return replace(found, parameters=settings)


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
    row = ROW_BYTES / list_bytes(description)
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


def _filters_through_lists(description: IndexDescription) -> bool:
    return description.kind in kinds.IN_FILE and description.rows > kinds.HNSW_ROWS


def tuned_for_share(description: IndexDescription, held: HeldOut, candidates: Candidates, target: float) -> int:
    """The least effort, none below what is visited without a filter, that finds `target` of the true neighbors among
    the rows that pass one; the most that there is where none does."""
    settings = description.parameters or {}
    least, wanted = settings[kinds.effort_name(description.kind)], min(target + MARGIN, (1 + target) / 2)
    for effort in (one for one in _efforts(description) if one >= least):
        if _found(held, slice(None), candidates, settings["refine"], effort)[-1] >= wanted:
            return effort
    return int(settings["nlist"])


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
