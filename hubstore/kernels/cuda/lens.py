"""The logit lens in one sweep over the vocabulary: sums, counts and candidates of each tile, never its logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from hubstore.kernels.cuda import sweep as engine
from hubstore.kernels.cuda.candidates import TileCandidates, TopCandidates, keep_best, ordered
from hubstore.kernels.cuda.factors import Factors, aligned_rows, readable
from hubstore.kernels.cuda.pairs import best, join_tie_groups, pair_product
from hubstore.kernels.cuda.sweep import just_below, own
from hubstore.kernels.reference import LensSweep
from hubstore.kernels.rows import capped, check_lens, refuse_non_finite

CANDIDATE_BYTES = 144 << 20  # that a sweep over some states writes
PANEL = tl.constexpr(16)  # groups whose mass one product sums
PANELS = 4  # that a sweep takes beside its own operands
TARGETS = 4  # whose ranks a sweep counts; each costs registers
SLACK = 6  # candidates beyond k
GATHERED = 8192  # targets whose rows are gathered at a time


@triton.jit
def _target(products, first_m, first_n, m, n, arguments, TILE_M: tl.constexpr, TILE_N: tl.constexpr):
    logits, scale = arguments
    rows = first_m + tl.arange(0, TILE_M)
    found = own(products, first_m - first_n, TILE_M, TILE_N)
    if scale is not None:
        found *= tl.load(scale + rows, rows < m, other=0.0)
    tl.store(logits + rows, found, rows < m)


@triton.jit
def _read(products, first_m, first_n, m, n, arguments, TILE_M: tl.constexpr, TILE_N: tl.constexpr):
    """A tile's maximum, sums of exp(logit) and exp(logit) logit, tokens ahead of each target, best tokens, mass."""
    largest, total, weighted, tiles, targets, swept, panels, scale, uneven, softcap = arguments
    rows = first_m + tl.arange(0, TILE_M)
    columns = first_n + tl.arange(0, TILE_N)
    logits = products
    if scale is not None:
        logits *= tl.load(scale + rows, rows < m, other=0.0)[:, None]
    if uneven is not None:
        logits = tl.where((columns < n)[None, :], logits, -1e30)
    for target in tl.static_range(len(targets)):
        tokens, own_logits, ahead = targets[target]
        token = tl.load(tokens + rows, rows < m, other=0)
        logit = tl.load(own_logits + rows, rows < m, other=float("inf"))
        # Of tiles of smaller tokens what is equal is ahead too: greater than the number just below. Equal ones of the
        # token's own tile are `_twins`: to tell them apart here would cost registers that there are not.
        limit = tl.where(token >= first_n + TILE_N, just_below(logit), logit)
        before = tl.sum(tl.where(logits > limit[:, None], 1.0, 0.0), 1).to(tl.int32)
        tl.atomic_add(ahead + rows, before, rows < m, sem="relaxed")
    if swept is not None:
        first_best, second, top, groups, tops = swept
        keys = ordered(logits)
        keep_best(keys, first_m, first_n, m, first_best, second, top, groups, tops, TILE_M, TILE_N)
    if softcap is not None:  # softcap · tanh(logit / softcap)
        logits = softcap * (1.0 - 2.0 / (tl.exp(logits * (2.0 / softcap)) + 1.0))
        if uneven is not None:
            logits = tl.where((columns < n)[None, :], logits, -1e30)
    most = tl.max(logits, 1)
    at = rows.to(tl.int64) * tiles + first_n // TILE_N
    shifted = logits - most[:, None]
    likely = tl.exp(shifted)
    tl.store(largest + at, most, rows < m)
    tl.store(total + at, tl.sum(likely, 1), rows < m)
    tl.store(weighted + at, tl.sum(likely * shifted, 1), rows < m)
    if len(panels) > 0:
        # Two float16 numbers hold the digits of a float32 between 0 and 1 that matter beside the largest.
        high = likely.to(tl.float16)
        low = (likely - high.to(tl.float32)).to(tl.float16)
        group = tl.arange(0, PANEL)
        for panel in tl.static_range(len(panels)):
            weights_high, weights_low, mass = panels[panel]
            place = columns[:, None] * PANEL + group[None, :]
            valid = (columns < n)[:, None]
            weight = tl.load(weights_high + place, valid, other=0.0)
            sums = tl.dot(high, weight)
            sums = tl.dot(low, weight, sums)
            sums = tl.dot(high, tl.load(weights_low + place, valid, other=0.0), sums)
            tl.store(mass + at[:, None] * PANEL + group[None, :], sums, (rows < m)[:, None])


@triton.jit
def _twins(unembedding, stride, width, tokens, ahead, TILE_N: tl.constexpr, WIDTH: tl.constexpr):
    """Add the smaller tokens of a token's tile whose rows equal its own."""
    at = tl.program_id(0)
    token = tl.load(tokens + at)
    other = token // TILE_N * TILE_N + tl.arange(0, TILE_N)
    equal = (other < token).to(tl.int32)
    start = 0
    while (start < width) & (tl.max(equal, 0) > 0):
        column = start + tl.arange(0, WIDTH)
        inside = column < width
        own_row = tl.load(unembedding + token * stride + column, inside, other=0.0)
        valid = (equal > 0)[:, None] & inside[None, :]
        row = tl.load(unembedding + other[:, None] * stride + column[None, :], valid, other=0.0)
        equal *= tl.min((row == own_row[None, :]).to(tl.int32), 1)
        start += WIDTH
    tl.store(ahead + at, tl.load(ahead + at) + tl.sum(equal, 0))


@triton.jit
def _combine(largest, total, weighted, tiles, log_partition, mean, TILES: tl.constexpr):
    """A state's log-partition and mean logit from its tiles': each tile's sums are taken from its own maximum."""
    state = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, TILES)
    valid = tile < tiles
    maximum = tl.load(largest + state * tiles + tile, valid, other=-float("inf"))
    most = tl.max(maximum, 0)
    share = tl.exp(maximum - most).to(tl.float64)
    amount = tl.load(total + state * tiles + tile, valid, other=0.0).to(tl.float64)
    moment = tl.load(weighted + state * tiles + tile, valid, other=0.0).to(tl.float64)
    partition = tl.sum(share * amount, 0)
    moment = moment + amount * tl.where(valid, maximum, 0.0).to(tl.float64)
    tl.store(log_partition + state, most.to(tl.float64) + tl.log(partition))
    tl.store(mean + state, tl.sum(share * moment, 0) / partition)


@triton.jit
def _combine_mass(largest, mass, tiles, log_partition, found, groups, panel, TILES: tl.constexpr):
    """A state's mass in the groups of a panel, from its tiles'."""
    state = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, PANEL)
    partition = tl.load(log_partition + state)
    sums = tl.zeros((TILES, PANEL), tl.float64)
    for start in range(0, tiles, TILES):
        tile = start + tl.arange(0, TILES)
        maximum = tl.load(largest + state * tiles + tile, tile < tiles, other=-float("inf"))
        share = tl.exp((maximum.to(tl.float64) - partition).to(tl.float32))
        place = (state * tiles + tile)[:, None] * PANEL + group[None, :]
        part = tl.load(mass + place, (tile < tiles)[:, None], other=0.0)
        sums += (share[:, None] * part).to(tl.float64)
    group = panel * PANEL + group
    tl.store(found + state * groups + group, tl.sum(sums, 0).to(tl.float32), group < groups)


@dataclass(frozen=True)
class _Groups:
    """Weights of tokens in groups, in panels as the sweep multiplies them.

    Args:
        count: groups.
        panels: (high, low) float16 [vocabulary, PANEL], whose sum is the weight times 1 / scale.
        scale: the largest weight, so that none leaves float16.
        mass: float32 [n, count], filled panel by panel.
    """

    count: int
    panels: tuple[tuple[Tensor, Tensor], ...]
    scale: float
    mass: Tensor

    @classmethod
    def of(cls, groups: Tensor | None, n: int, device: torch.device) -> _Groups:
        """Weights [vocabulary, groups]."""
        if groups is None or not groups.shape[1]:
            return cls(0, (), 1.0, torch.empty(n, 0, device=device))
        weights = groups.detach().to(device, torch.float32)
        scale = float(weights.abs().amax()) or 1.0
        panels = []
        for start in range(0, weights.shape[1], PANEL.value):
            panel = torch.zeros(len(weights), PANEL.value, device=device)
            panel[:, : weights.shape[1] - start] = weights[:, start : start + PANEL.value] / scale
            high = panel.to(torch.float16)
            panels.append((high, (panel - high.to(torch.float32)).to(torch.float16)))
        count = weights.shape[1]
        return cls(count, tuple(panels), scale, torch.empty(n, count, dtype=torch.float32, device=device))

    def buffers(self, m: int, tiles: int) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """What a sweep over m states takes: each panel's weights, and where its tiles' sums go."""
        shape = (m, tiles, PANEL.value)
        return tuple((*panel, torch.empty(shape, device=self.mass.device)) for panel in self.panels)

    def combine(
        self,
        panels: tuple[tuple[Tensor, Tensor, Tensor], ...],
        largest: Tensor,
        log_partition: Tensor,
        span: slice,
    ) -> None:
        """Fill `mass` of the states of `span`."""
        part = self.mass[span]
        m, tiles = largest.shape
        for number, (_, _, mass) in enumerate(panels):
            _combine_mass[(m,)](largest, mass, tiles, log_partition, part, self.count, number, 64, num_warps=4)


@dataclass(frozen=True)
class _Targets:
    """Tokens to look up, their logits, and how many tokens stand before each so far: [t, n] each."""

    tokens: Tensor
    logits: Tensor
    ahead: Tensor

    @classmethod
    def of(cls, factors: Factors, targets: Tensor) -> _Targets:
        """Targets int64 [n, t], and their logits as the sweep computes them, so that none stands ahead of itself."""
        hidden = factors.hidden
        tokens = targets.T.to(hidden.device, torch.int64).contiguous()
        logits = torch.empty(tokens.shape, dtype=torch.float32, device=hidden.device)
        for column, own_logits in zip(tokens, logits, strict=True):
            for start in range(0, len(hidden), GATHERED):
                part = factors.of_states(slice(start, start + GATHERED))
                rows = aligned_rows(part.unembedding[column[start : start + GATHERED]], hidden.dtype)
                engine.diagonal(part.hidden, rows, _target, (own_logits[start : start + GATHERED], part.scale))
        return cls(tokens, logits, torch.zeros(tokens.shape, dtype=torch.int32, device=hidden.device))

    def of_states(self, span: slice) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """What the sweep takes of the states of `span`."""
        return tuple(zip(self.tokens[:, span], self.logits[:, span], self.ahead[:, span], strict=True))

    def count_twins(self, unembedding: Tensor) -> None:
        """Count equal rows of the token's own tile, which the sweep leaves out."""
        if self.tokens.numel():
            tile_n = engine.tile_of(unembedding.dtype).n
            arguments = (unembedding, unembedding.stride(0), unembedding.shape[1], self.tokens, self.ahead)
            _twins[(self.tokens.numel(),)](*arguments, tile_n, 16, num_warps=4)


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
    hidden, unembedding = readable(hidden, unembedding)
    n, device = len(hidden), hidden.device
    if targets is None:
        targets = torch.empty(n, 0, dtype=torch.int64, device=device)
    factors = Factors.of(hidden, unembedding)
    target_counts = _Targets.of(factors, targets)
    leading = TopCandidates.none(n, min(k + SLACK, len(unembedding)), device) if k else None
    log_partition, mean = (torch.empty(n, 1, dtype=torch.float64, device=device) for _ in range(2))
    weights = _Groups.of(groups, n, device)
    step = _states_at_once(factors.unembedding, k, len(weights.panels))
    for start in range(0, n, step):
        span = slice(start, min(start + step, n))
        part = leading.part(span) if leading else None
        _sweep(
            factors.of_states(span),
            target_counts.of_states(span) if ranks else (),
            part,
            weights,
            span,
            log_partition[span],
            mean[span],
            softcap,
        )
    if ranks:
        target_counts.count_twins(factors.unembedding)
    logits = capped(target_counts.logits.T.to(torch.float64), softcap)
    top, tokens = _best(hidden, unembedding, leading, k) if leading else (logits[:, :0], target_counts.tokens.T[:, :0])
    # A state of zeros holds all tokens equally probable: more of them than a sweep keeps to put in order.
    blank = (hidden == 0).all(1)[:, None]
    if leading:
        top = torch.where(blank, 0.0, top)
        tokens = torch.where(blank, torch.arange(k, device=device), tokens)
    found = LensSweep(
        log_partition=log_partition[:, 0].to(torch.float32),
        entropy=(log_partition - mean)[:, 0].clamp_min(0).to(torch.float32),
        # Logits of other digits than those of the sum: no probability is above 1.
        target_log_probabilities=(logits - log_partition).clamp_max(0).to(torch.float32),
        target_ranks=torch.where(blank, target_counts.tokens.T, target_counts.ahead.T.long())
        if ranks
        else targets[:, :0],
        top_log_probabilities=(capped(top, softcap) - log_partition).clamp_max(0).to(torch.float32),
        top_tokens=tokens,
        group_mass=weights.mass * weights.scale,
    )
    if not bool(torch.isfinite(log_partition).all()):
        refuse_non_finite(torch.linalg.vector_norm(hidden, dim=1, dtype=torch.float64), "hidden")
        refuse_non_finite(torch.linalg.vector_norm(unembedding, dim=1, dtype=torch.float64), "unembedding")
    return found


def _sweep(
    factors: Factors,
    targets: tuple[tuple[Tensor, Tensor, Tensor], ...],
    leading: TopCandidates | None,
    groups: _Groups,
    span: slice,
    log_partition: Tensor,
    mean: Tensor,
    softcap: float | None,
) -> None:
    """Fill log_partition and mean, float64 [m, 1], of the states of `span`; targets, candidates, mass on the way."""
    hidden, unembedding = factors.hidden, factors.unembedding
    m, vocabulary, device = len(hidden), len(unembedding), hidden.device
    tile_n = engine.tile_of(hidden.dtype).n
    tiles = triton.cdiv(vocabulary, tile_n)
    largest, total, weighted = (torch.empty(m, tiles, dtype=torch.float32, device=device) for _ in range(3))
    swept = TileCandidates(m, vocabulary, device, tile_n) if leading else None
    uneven = None if vocabulary % tile_n == 0 else 1
    panels = groups.buffers(m, tiles)
    sums = (largest, total, weighted, tiles)
    candidates = swept.arguments() if swept else None
    rest = (factors.scale, uneven, softcap)
    engine.sweep(hidden, unembedding, _read, (*sums, _few(targets[:TARGETS]), candidates, panels[:PANELS], *rest))
    for number in range(1, max(triton.cdiv(len(targets), TARGETS), triton.cdiv(len(panels), PANELS))):
        more = _few(targets[number * TARGETS : (number + 1) * TARGETS])
        mass = panels[number * PANELS : (number + 1) * PANELS]
        engine.sweep(hidden, unembedding, _read, (*sums, more, None, mass, *rest))
    if leading and swept:
        leading.merge(swept, 0)
    _combine[(m,)](largest, total, weighted, tiles, log_partition, mean, triton.next_power_of_2(tiles), num_warps=4)
    groups.combine(panels, largest, log_partition, span)


def _few(targets: tuple[tuple[Tensor, Tensor, Tensor], ...]) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    """None, one, two or TARGETS: a kernel is compiled for each number, and three cost what four do."""
    if len(targets) < 3:
        return targets
    tokens, logits, ahead = targets[0]
    return (*targets, *[(tokens, logits, torch.zeros_like(ahead))] * (TARGETS - len(targets)))


def _best(hidden: Tensor, unembedding: Tensor, leading: TopCandidates, k: int) -> tuple[Tensor, Tensor]:
    """Logits float64 and tokens int64 [n, k], of equal logits the smaller token first."""
    tokens = leading.rows
    logits, tokens = best(pair_product(hidden, unembedding, tokens), tokens, k)
    join_tie_groups(hidden, unembedding, leading, logits, tokens, cosine=False)
    return logits, tokens


def _states_at_once(unembedding: Tensor, k: int, panels: int) -> int:
    """Whole tiles of states: CANDIDATE_BYTES for candidates and sums, four times that for what groups need."""
    vocabulary = len(unembedding)
    tiles = vocabulary // engine.tile_of(unembedding.dtype).n
    each = 12 * tiles + (vocabulary // 2 if k else 0) + 4 * PANEL.value * panels * tiles // 4
    return max(engine.TILE_M, CANDIDATE_BYTES // max(1, each) // engine.TILE_M * engine.TILE_M)
