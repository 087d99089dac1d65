"""The items that a self-check runs, alone and in batches, and how far their states then are from one another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from hubstore.errors import NonFiniteError
from hubstore.extraction.checks import SelfCheck
from hubstore.extraction.own_states import compare_with_own
from hubstore.forward import Batch, Batching, HostBatch
from hubstore.forward.capture import Capture
from hubstore.forward.memory import run_in_halves
from hubstore.models import Model, Restorer
from hubstore.reading.layout import Integers

CHECKED_TOKENS = 128
"""Tokens of an item that are compared, evenly spread, its first and its last among them."""

FEWEST_TOKENS = 16
"""What a shorter item counts as: rounding alone may send one token of a mixture to another expert."""

TOLERANCE = {torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 8e-2}
"""Largest relative distance ||batched - single|| / ||single|| of states at a layer, by compute dtype.

It is that of any token in float32, where rounding alone gives about 1e-6; in half precision, where it gives 2e-3 and
2e-2 and may send single tokens of a mixture to other experts, the mean over an item's tokens, and no token may be
further off than `ROW` has it.
"""

ROW = 3.0
MIXED_ROW = 0.75
"""How far one row may be off in half precision: so many times the tolerance; of a mixture, this share of its scale.

Chosen from what was measured: rounding moves the worst row of SmolLM2-135M, Gemma 3 270M, multilingual-e5-small and
tiny random models by at most 0.11 of its scale in bfloat16, where 0.24 is allowed, and by 0.003 in float16, where 0.06
is. Rows of other tokens are 0.41 of it away and more in 99 of 100 cases, at any layer. A token of a mixture that goes
to other experts is mostly 0.1 to 0.6 away.
"""

LEAST_SCALE = 0.25
"""A row's scale, at least, as a share of its norm."""

OWN_TOKENS = 1024
"""Longest item that is compared with the model's own hidden states, of which all layers are in memory at once."""

ALONE = Batching("single")
"""How an item is run by itself."""


MakeBatch = Callable[[Integers, Batching], HostBatch]
Members = Callable[[Batching], Iterable[Integers]]


@dataclass(frozen=True)
class Sample:
    """The sample's items, and their states run alone.

    Args:
        probe: reads every layer wanted.
        lengths: int32 [items], in tokens.
        members: the batches of a run, by how they are made.
        make: a batch of some of the items.
        restorer: puts the model back.
        single: of each item, float32 [layers, rows, width].
        changes: after each forward, whether it had changed the model.
        windows: sliding windows that packed attention was asked for.
    """

    probe: Capture
    lengths: Integers
    members: Members
    make: MakeBatch
    restorer: Restorer
    single: list[torch.Tensor] = field(default_factory=list)
    changes: list[bool] = field(default_factory=list)
    windows: set[int] = field(default_factory=set)

    @property
    def model(self) -> Model:
        """The model that the items go through."""
        return self.probe.model

    def run_alone(self) -> None:
        """Run every item by itself; before anything else."""
        for number in range(len(self.lengths)):
            ((_, states),) = self.run(np.array([number]), ALONE)
            if not states.isfinite().all():
                broken = self.probe.layers[int((~states.isfinite()).flatten(1).any(1).int().argmax())]
                raise NonFiniteError(
                    f"{self.model.identity['id']} gives states that are not finite at layer {broken}, for an item run "
                    "alone; run the model in float32 or bfloat16 (`--model-dtype`), or check its weights"
                )
            self.single.append(states)

    def run(self, members: Integers, batching: Batching) -> list[tuple[int, torch.Tensor]]:
        """The items of one batch, each with its states."""
        found: list[tuple[int, torch.Tensor]] = []

        def run(some: Integers) -> None:
            batch, counts = self.batch(some, batching)
            try:
                states = self.probe.run(batch)[self.probe.poolings[0]]
            finally:
                self.changes.append(self.restorer.restore())
            if batch.packing is not None:
                self.windows.update(batch.packing.windows)
            found.extend(zip(map(int, some), torch.split(states, counts, dim=1), strict=True))

        run_in_halves(members, run, self.lengths, self.model)
        return found

    def batch(self, members: Integers, batching: Batching) -> tuple[Batch, list[int]]:
        """A batch on the device, and of how many tokens of each item states are read."""
        whole = self.make(members, batching)
        thin, counts = _thinned(whole) if self.probe.poolings == ("tokens",) else (whole, [1] * len(members))
        return thin.to(self.model.device), counts

    def compare_with_own(self) -> str:
        """Compare the shortest item, and the longest of which all layers go into memory, with the model's own."""
        if self.model.joint:
            return "none"
        within = np.flatnonzero(self.lengths <= OWN_TOKENS)
        longest = within[self.lengths[within].argmax()] if len(within) else 0
        for item in dict.fromkeys((int(self.lengths.argmin()), int(longest))):
            reference = compare_with_own(self.probe, self.batch(np.array([item]), ALONE)[0], self.single[item])
            self.restorer.restore()
        return reference

    def check(self, batching: Batching) -> SelfCheck:
        """The check of one way to make batches, on the batches of a run."""
        return self.compare(
            itertools.chain.from_iterable(self.run(members, batching) for members in self.members(batching)), batching
        )

    @cached_property
    def middle(self) -> torch.Tensor:
        """[layers, 1, width]: the median row of each layer, which states may all have in common."""
        every = range(len(self.probe.layers))
        return torch.stack([torch.cat([of[i] for of in self.single]).median(dim=0, keepdim=True).values for i in every])

    def distance(self, item: int, states: torch.Tensor) -> torch.Tensor:
        """[layers]: how far states of an item are from those it has alone, to be compared with the tolerance."""
        single = self.single[item]
        away, norms = (states - single).norm(dim=-1), single.norm(dim=-1).clamp_min(1e-30)
        relative: torch.Tensor = away / norms
        if self.model.dtype is torch.float32 or self.model.joint:
            return relative.max(dim=1).values
        mean = relative.sum(dim=1) / max(relative.shape[1], FEWEST_TOKENS)
        # Where all states have a large part in common, a row of another token is near in norm.
        scale = (single - self.middle).norm(dim=-1).clamp(LEAST_SCALE * norms, norms)
        tolerance = TOLERANCE[self.model.dtype]
        bound = MIXED_ROW if mixes_items(self.model) else ROW * tolerance
        return torch.maximum(mean, (away / scale).max(dim=1).values * (tolerance / bound))

    def compare(self, batched: Iterable[tuple[int, torch.Tensor]], batching: Batching) -> SelfCheck:
        """The check of items run in batches."""
        worst = torch.zeros(len(self.probe.layers))
        items, lengths = set(), set(self.lengths.tolist())
        for item, states in batched:
            items.add(item)
            worst = torch.maximum(worst, self.distance(item, states).nan_to_num(nan=float("inf")).cpu())
        layer = int(worst.argmax())
        return SelfCheck(
            items=len(items),
            deviation=float(worst[layer]),
            layer=self.probe.layers[layer],
            tolerance=TOLERANCE[self.model.dtype],
            reference="none",
            padding=batching.padding,
            explicit_positions=batching.explicit_positions,
            batching=batching.kind,
            first_position=batching.first_position,
            compiled=batching.compiled,
            borders=batching.borders,
            varies_beyond=batching.varies_beyond,
            restores=any(self.changes),
            longest=int(self.lengths.max()),
            checked_borders=tuple(border for border in batching.borders if {border, border + 1} <= lengths),
        )


def mixes_items(model: Model) -> bool:
    """Whether items may compete for room in a batch: a mixture of experts, as the configuration names them."""
    return any("expert" in name or "capacity" in name for name in model.trunk.config.to_dict())


def probe_of(capture: Capture) -> Capture:
    """Every token of every layer; a joint vector is one for each item."""
    pooling = "last" if capture.model.joint else "tokens"
    return Capture(capture.model, capture.layers, (pooling,), torch.float32)


def _thinned(batch: HostBatch) -> tuple[HostBatch, list[int]]:
    """The batch with at most `CHECKED_TOKENS` tokens read of every item, and how many of each."""
    rows = batch.arrays["token_rows"]
    ends = np.searchsorted(rows, batch.arrays["last"], side="right")
    counts = np.diff(ends, prepend=0)
    chosen = [np.unique(np.linspace(0, n - 1, min(n, CHECKED_TOKENS)).round().astype(np.int64)) for n in counts]
    places = np.concatenate([end - n + of_item for end, n, of_item in zip(ends, counts, chosen, strict=True)])
    arrays = {**batch.arrays, "token_rows": rows[places], "token_places": np.arange(len(places))}
    return replace(batch, arrays=arrays, buffer=None), [len(of_item) for of_item in chosen]
