"""The logit lens: tiles of states and tokens, each tile of logits used up while it is in the cache.

A few dimensions of a state may be a thousand times the others: these are multiplied in float64, and float32 products of
the rest lose no digits to them. Nothing that is read of a state depends on the states beside it: each has its own such
dimensions, and products are of whole panels of states.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from hubstore.kernels.cpu import tiles
from hubstore.kernels.cpu.candidates import Doubles, Floats, Integers, exact_product, search_tile
from hubstore.kernels.cpu.threads import in_threads
from hubstore.kernels.reference import LensSweep
from hubstore.kernels.rows import capped, check_lens, refuse_non_finite

STATES = 512
"""States of a tile."""

TOKENS = 1024
"""Tokens of a tile, whose logits stay in the cache with their exponentials."""

MASSIVE = 16.0
"""Times the median of a state's elements but zeros: of a Gaussian state, none in 10^26 is as large."""

ROUNDING = 2.0**-24
"""The relative error of float32's."""

LEAST = -60.0
"""Logarithm of the least term beside the largest; a vocabulary of terms as small sums to 1e-20.

Terms that float32 holds with fewer digits, or whose products with weights it does, take ten times as long or more.
"""


SMALLEST = 1e-15
"""Norm whose squares float32 holds."""


def lens_sweep(
    hidden: Tensor,
    unembedding: Tensor,
    *,
    targets: Tensor | None = None,
    k: int = 0,
    groups: Tensor | None = None,
    softcap: float | None = None,
    ranks: bool = True,
) -> LensSweep:
    """See `hubstore.kernels.lens_sweep`."""
    check_lens(hidden, unembedding, targets, k, groups, softcap)
    hidden, unembedding = hidden.detach(), unembedding.detach()
    n, vocabulary = len(hidden), len(unembedding)
    _norms(hidden, "hidden")
    longest = float(_norms(unembedding, "unembedding").amax())
    lens = _Lens(
        hidden=hidden,
        unembedding=unembedding,
        target_tokens=torch.empty(n, 0, dtype=torch.int64) if targets is None else targets.to(torch.int64).contiguous(),
        groups=torch.empty(vocabulary, 0) if groups is None else groups.detach().to(torch.float32),
        wide=torch.float64 if torch.float64 in (hidden.dtype, unembedding.dtype) else torch.float32,
        longest=longest,
        softcap=softcap,
        ranks=ranks,
    )
    swept = _empty(n, lens.target_tokens.shape[1], k, lens.groups.shape[1], ranks)
    states = min(STATES, tiles.panelled(max(1, math.ceil(n / torch.get_num_threads()))))
    in_threads(lambda span: lens.sweep(slice(*span), swept), tiles.spans(n, states))
    return swept


def _empty(n: int, t: int, k: int, g: int, ranks: bool) -> LensSweep:
    return LensSweep(
        log_partition=torch.empty(n),
        entropy=torch.empty(n),
        target_log_probabilities=torch.empty(n, t),
        target_ranks=torch.zeros(n, t if ranks else 0, dtype=torch.int64),
        top_log_probabilities=torch.empty(n, k),
        top_tokens=torch.empty(n, k, dtype=torch.int64),
        group_mass=torch.empty(n, g),
    )


def _norms(rows: Tensor, name: str) -> Tensor:
    """float64 [n], in float32 arithmetic where that does not overflow; NonFiniteError for NaN and infinity."""
    norms = torch.empty(len(rows), dtype=torch.float64)

    def fill(span: tuple[int, int]) -> None:
        start, stop = span
        block = torch.linalg.vector_norm(rows[start:stop].to(torch.float32), dim=-1).to(torch.float64)
        if not bool(((block > SMALLEST) & torch.isfinite(block)).all()):
            block = torch.linalg.vector_norm(rows[start:stop].to(torch.float64), dim=-1)
            refuse_non_finite(block, name, start)
        norms[start:stop] = block

    in_threads(fill, _blocks(rows))
    return norms


def _split(states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States [n, width] as massive elements and the rest.

    Returns:
        The columns where any state has a massive element, int64 [m]; those elements, float64 [n, m], 0 where a state
        has none of its own; and the rest, float32 [n, width] in whole panels.
    """
    sizes = states.abs()
    typical = sizes.masked_fill(sizes == 0, torch.nan).nanmedian(1, keepdim=True).values  # most of a ReLU's are zero
    is_massive = sizes > MASSIVE * typical
    columns = is_massive.any(0).nonzero()[:, 0]
    rest = torch.zeros(tiles.panelled(len(states)), states.shape[1])
    rest[: len(states)] = states.masked_fill(is_massive, 0.0)
    massive = states[:, columns].to(torch.float64) * is_massive[:, columns]
    return columns, massive, rest


def _blocks(rows: Tensor) -> Iterator[tuple[int, int]]:
    return tiles.spans(len(rows), max(1, tiles.BLOCK // max(1, rows.shape[1])))


@dataclass(frozen=True)
class _Lens:
    """What is looked at, and with what.

    Args:
        hidden: [n, width].
        unembedding: [vocabulary, width].
        target_tokens: int64 [n, t], the targets.
        groups: float32 [vocabulary, g].
        wide: dtype that holds every input exactly.
        longest: norm of the longest of the unembedding's rows.
        softcap: of the logits, whose order it leaves as it is; or None.
        ranks: whether targets' ranks are counted.
    """

    hidden: Tensor
    unembedding: Tensor
    target_tokens: Tensor
    groups: Tensor
    wide: torch.dtype
    longest: float
    softcap: float | None
    ranks: bool

    def sweep(self, part: slice, swept: LensSweep) -> None:
        """Fill `swept` for the states of `part`."""
        states = self.hidden[part].to(self.wide).contiguous()
        columns, massive, rest = _split(states)
        # More than the error of a float32 product, whose sums run in lanes of 8 or more.
        of_rest = (states.shape[1] / 8 + 16) * ROUNDING * self.longest * torch.linalg.vector_norm(rest.double(), dim=1)
        top_tokens = swept.top_tokens[part]
        top = torch.full(top_tokens.shape, -torch.inf, dtype=torch.float64)
        bound = np.full(len(states), -np.inf)
        of_targets = self._target_logits(states, self.target_tokens[part])
        softmax = _Softmax.empty(len(states), self.groups.shape[1])
        for start, stop in tiles.spans(len(self.unembedding), TOKENS):
            tokens = self.unembedding[start:stop].to(self.wide).contiguous()
            logits = (rest @ tokens.to(torch.float32).T)[: len(states)]
            if len(columns):
                logits = (massive @ tokens[:, columns].double().T).add_(logits).to(torch.float32)
            errors = (of_rest[: len(states)] + 4 * ROUNDING * logits.abs().amax(1)).to(torch.float32).numpy()
            if self.ranks:
                _count_ahead(
                    logits.numpy(),
                    errors,
                    states.numpy(),
                    tokens.numpy(),
                    start,
                    of_targets.numpy(),
                    self.target_tokens[part].numpy(),
                    swept.target_ranks[part].numpy(),
                )
            if top.shape[1]:
                search_tile(
                    logits.numpy().view(np.int32),
                    0,
                    np.zeros(len(tokens), np.float32),
                    np.float32(0),
                    errors,
                    np.zeros(len(states)),
                    np.arange(len(states)),
                    states.numpy(),
                    tokens.numpy(),
                    start,
                    False,
                    len(tokens),
                    bound,
                    top.numpy(),
                    top_tokens.numpy(),
                    np.empty(len(states), np.bool_),
                )
            softmax.add(capped(logits, self.softcap), self.groups[start:stop])
        partition = softmax.log_partition()
        swept.log_partition[part] = partition
        swept.entropy[part] = softmax.entropy().clamp_min(0)
        # Exact logits less sums of rounded ones: no probability is above 1.
        for found, exact in ((swept.target_log_probabilities, of_targets), (swept.top_log_probabilities, top)):
            found[part] = (capped(exact, self.softcap) - partition[:, None]).clamp_max(0)
        swept.group_mass[part] = softmax.mass / softmax.total[:, None]

    def _target_logits(self, states: Tensor, targets: Tensor) -> Tensor:
        """float64 [n, t]."""
        logits = torch.empty(targets.shape, dtype=torch.float64)
        for column in range(targets.shape[1]):
            tokens = self.unembedding[targets[:, column]].to(self.wide)
            _products_of_rows(states.numpy(), tokens.numpy(), logits[:, column].numpy())
        return logits


@dataclass
class _Softmax:
    """Sums over the tokens so far, of exp(logit - largest), each float64.

    Args:
        largest: [n], the largest logit.
        total: [n].
        weighted: [n], each term times logit - largest.
        mass: [n, g], each term times the token's weights.
    """

    largest: Tensor
    total: Tensor
    weighted: Tensor
    mass: Tensor

    @classmethod
    def empty(cls, n: int, g: int) -> _Softmax:
        total, weighted = torch.zeros(2, n, dtype=torch.float64)
        return cls(
            torch.full((n,), torch.finfo(torch.float32).min, dtype=torch.float64),
            total,
            weighted,
            torch.zeros(n, g, dtype=torch.float64),
        )

    def add(self, logits: Tensor, weights: Tensor) -> None:
        """Add a tile of float32 logits [n, t], which are overwritten, with weights [t, g] of its tokens."""
        largest = torch.maximum(self.largest, logits.amax(1).to(torch.float64))
        fallen = self.largest - largest
        scale, before = fallen.exp(), self.total
        below = logits.sub_(largest.to(torch.float32)[:, None]).clamp_(min=LEAST)
        terms = below.exp()
        self.total = scale * self.total + terms.sum(1)
        if weights.shape[1]:
            self.mass = scale[:, None] * self.mass + terms.double() @ weights.double()
        self.weighted = scale * self.weighted + (scale * before) * fallen + below.mul_(terms).sum(1)
        self.largest = largest

    def log_partition(self) -> Tensor:
        """float64 [n]."""
        return self.largest + self.total.log()

    def entropy(self) -> Tensor:
        """float64 [n]."""
        return self.total.log() - self.weighted / self.total


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _products_of_rows(left: Any, right: Any, out: Any) -> None:
    for i in range(len(left)):
        out[i] = exact_product(left[i], right[i])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_ahead(
    logits: Floats,
    errors: Floats,
    states: Any,
    tokens: Any,
    first: int,
    of_targets: Doubles,
    targets: Integers,
    ranks: Integers,
) -> None:
    """Add to `ranks` [n, t] the tokens of a tile that stand before each target.

    A float32 logit decides where its error cannot matter. The few others are computed exactly, as the target's was.
    """
    for i in range(len(logits)):
        row = logits[i]
        for t in range(targets.shape[1]):
            target_logit, target = of_targets[i, t], targets[i, t]
            # Twice the error: it covers the rounding of these two bounds as well.
            low, high = np.float32(target_logit - 2 * errors[i]), np.float32(target_logit + 2 * errors[i])
            ahead, perhaps = np.int32(0), np.int32(0)
            for j in range(len(row)):
                ahead += np.int32(row[j] > high)
                perhaps += np.int32(row[j] >= low)
            ranks[i, t] += ahead
            if perhaps == ahead:
                continue
            for j in range(len(row)):
                if low <= row[j] <= high and first + j != target:
                    logit = exact_product(states[i], tokens[j])
                    ranks[i, t] += logit > target_logit or (logit == target_logit and first + j < target)
