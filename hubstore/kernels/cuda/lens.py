"""The logit lens in one sweep over the vocabulary: sums, counts and candidates of each tile, never its logits."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hubstore.kernels.cuda import sweep as engine
from hubstore.kernels.cuda.candidates import Kept, Leading, keep_best, ordered
from hubstore.kernels.cuda.pairs import best, pair_product
from hubstore.kernels.cuda.sweep import just_below, own
from hubstore.kernels.reference import LensSweep
from hubstore.kernels.rows import check_lens, refuse_non_finite

KEPT_BYTES = 96 << 20  # that a sweep over some states writes
MASS_BYTES = 64 << 20  # of probabilities that are weighted at a time
SLACK = 6  # candidates beyond k


@triton.jit
def _target(products, first_m, first_n, m, n, arguments, TILE_M: tl.constexpr, TILE_N: tl.constexpr):
    (logits,) = arguments
    rows = first_m + tl.arange(0, TILE_M)
    tl.store(logits + rows, own(products, first_m - first_n, TILE_M, TILE_N), rows < m)


@triton.jit
def _read(products, first_m, first_n, m, n, arguments, TILE_M: tl.constexpr, TILE_N: tl.constexpr):
    """A tile's maximum, its sums of exp(logit) and exp(logit) logit, its tokens ahead of each target, its best tokens."""
    largest, total, weighted, tiles, targets, kept, uneven = arguments
    rows = first_m + tl.arange(0, TILE_M)
    columns = first_n + tl.arange(0, TILE_N)
    logits = products
    if uneven is not None:
        logits = tl.where((columns < n)[None, :], products, -1e30)
    for target in tl.static_range(len(targets)):
        tokens, own_logits, ahead = targets[target]
        token = tl.load(tokens + rows, rows < m, other=0)
        logit = tl.load(own_logits + rows, rows < m, other=float("inf"))
        here = (token >= first_n) & (token < first_n + TILE_N)
        # Equal is ahead where the token is smaller: elsewhere that is to be greater than the number just below.
        if tl.max(here.to(tl.int32), 0) > 0:
            equal = (logits == logit[:, None]) & (columns[None, :] < token[:, None])
            before = tl.sum(((logits > logit[:, None]) | equal).to(tl.int32), 1)
        else:
            limit = tl.where(token >= first_n + TILE_N, just_below(logit), logit)
            before = tl.sum((logits > limit[:, None]).to(tl.int32), 1)
        tl.atomic_add(ahead + rows, before, rows < m, sem="relaxed")
    if kept is not None:
        first_best, second, top, groups, tops = kept
        keys = ordered(logits)
        keep_best(keys, first_m, first_n, m, first_best, second, top, groups, tops, TILE_M, TILE_N)
    most = tl.max(logits, 1)
    at = rows.to(tl.int64) * tiles + first_n // TILE_N
    shifted = logits - most[:, None]
    likely = tl.exp(shifted)
    tl.store(largest + at, most, rows < m)
    tl.store(total + at, tl.sum(likely, 1), rows < m)
    tl.store(weighted + at, tl.sum(likely * shifted, 1), rows < m)


def lens_sweep(
    hidden: Tensor,
    unembedding: Tensor,
    *,
    targets: Tensor | None = None,
    k: int = 0,
    groups: Tensor | None = None,
) -> LensSweep:
    """See `hubstore.kernels.lens_sweep`."""
    check_lens(hidden, unembedding, targets, k, groups)
    hidden, unembedding = _readable(hidden, unembedding)
    if targets is None:
        targets = torch.empty(len(hidden), 0, dtype=torch.int64, device=hidden.device)
    step = _states_at_once(unembedding, k)
    parts = [
        _some(hidden[start : start + step], unembedding, targets[start : start + step], k, groups)
        for start in range(0, len(hidden), step)
    ]
    parts = parts or [_some(hidden, unembedding, targets, k, groups)]
    found = LensSweep(*(torch.cat(part) for part in zip(*parts, strict=True)))
    if not bool(torch.isfinite(found.log_partition).all()):
        refuse_non_finite(torch.linalg.vector_norm(hidden, dim=1, dtype=torch.float64), "hidden")
        refuse_non_finite(torch.linalg.vector_norm(unembedding, dim=1, dtype=torch.float64), "unembedding")
    return found


def _some(
    hidden: Tensor, unembedding: Tensor, targets: Tensor, k: int, groups: Tensor | None
) -> tuple[Tensor, ...]:
    """The fields of a LensSweep, for as many states as fit."""
    m, vocabulary, device = len(hidden), len(unembedding), hidden.device
    tile_n = engine.tile_of(hidden.dtype).n
    tiles = triton.cdiv(vocabulary, tile_n)
    largest, total, weighted = (torch.empty(m, tiles, dtype=torch.float32, device=device) for _ in range(3))
    kept = Kept(m, vocabulary, device, tile_n) if k else None
    columns = [targets[:, t].contiguous() for t in range(targets.shape[1])]
    logits = [_target_logits(hidden, unembedding, column) for column in columns]
    ahead = [torch.zeros(m, dtype=torch.int32, device=device) for _ in columns]
    if m:
        each = tuple(zip(columns, logits, ahead, strict=True))
        uneven = None if vocabulary % tile_n == 0 else 1
        arguments = (largest, total, weighted, tiles, each, kept.arguments() if kept else None, uneven)
        engine.sweep(hidden, unembedding, _read, arguments)
    most = largest.amax(1, keepdim=True).to(torch.float64)
    share = torch.exp(largest - most)
    partition = (share * total).sum(1, keepdim=True)
    log_partition = most + partition.log()
    # H = log Z - Σ p logit, with each tile's sum taken from its own maximum.
    mean = (share * (weighted + total * largest)).sum(1, keepdim=True) / partition
    fields: list[Tensor] = [log_partition[:, 0], (log_partition - mean)[:, 0]]
    fields.append(_columns(logits, m, torch.float64, device) - log_partition)
    fields.append(_columns(ahead, m, torch.int64, device))
    scores, tokens = _best(hidden, unembedding, kept, k) if kept and m else (most[:, :0], targets[:, :0])
    fields += [scores - log_partition, tokens, _mass(hidden, unembedding, log_partition, groups)]
    return tuple(field if field.dtype == torch.int64 else field.to(torch.float32) for field in fields)


def _target_logits(hidden: Tensor, unembedding: Tensor, tokens: Tensor) -> Tensor:
    """float32 [m], the very numbers that the sweep compares with, so that no token stands ahead of itself."""
    logits = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    if len(hidden):
        engine.diagonal(hidden, unembedding[tokens], _target, (logits,))
    return logits


def _best(hidden: Tensor, unembedding: Tensor, kept: Kept, k: int) -> tuple[Tensor, Tensor]:
    """Logits float64 and tokens int64 [m, k], of equal logits the smaller token first."""
    leading = Leading.none(len(hidden), min(k + SLACK, len(unembedding)), hidden.device)
    leading.merge(kept, 0)
    tokens = leading.rows
    logits, best_tokens = best(pair_product(hidden, unembedding, tokens), tokens, k)
    crowded = torch.nonzero(leading.crowded.any(1))[:, 0]
    if len(crowded):
        tokens = leading.companions(crowded, 0)
        tokens = torch.where(tokens < len(unembedding), tokens, -1)
        more = pair_product(hidden[crowded], unembedding, tokens)
        more, tokens = torch.cat([logits[crowded], more], 1), torch.cat([best_tokens[crowded], tokens], 1)
        logits[crowded], best_tokens[crowded] = best(more, tokens, k)
    return logits, best_tokens


def _mass(hidden: Tensor, unembedding: Tensor, log_partition: Tensor, groups: Tensor | None) -> Tensor:
    """float64 [m, g]: Σ p(token) weight(token, group), the probabilities of some tokens at a time."""
    if groups is None:
        return log_partition[:, :0]
    mass = torch.zeros(len(hidden), groups.shape[1], dtype=torch.float64, device=hidden.device)
    step = max(1, MASS_BYTES // (4 * max(1, len(hidden))))
    for start in range(0, len(unembedding), step):
        logits = _products(hidden, unembedding[start : start + step])
        probabilities = torch.exp(logits - log_partition.to(torch.float32))
        mass += probabilities @ groups[start : start + step].to(hidden.device, torch.float32)
    return mass


def _products(x: Tensor, y: Tensor) -> Tensor:
    """float32 [m, n]: products of 16-bit rows, not rounded to 16 bits."""
    if x.device.type == "cuda" and x.dtype != torch.float32:
        return torch.mm(x, y.T, out_dtype=torch.float32)
    return x.to(torch.float32) @ y.to(torch.float32).T


def _readable(hidden: Tensor, unembedding: Tensor) -> tuple[Tensor, Tensor]:
    """Both as a sweep reads them: as they are where they can be, else in float32, which holds either's digits."""
    dtype = hidden.dtype if hidden.dtype == unembedding.dtype != torch.float64 else torch.float32
    return tuple(part if part.dtype == dtype and engine.aligned(part) else _aligned(part, dtype) for part in (hidden, unembedding))  # type: ignore[return-value]


def _aligned(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy whose rows begin on boundaries that a sweep can read from."""
    width = rows.shape[1]
    copy = torch.empty(len(rows), -(-width // 8) * 8, dtype=dtype, device=rows.device)[:, :width]
    return copy.copy_(rows)


def _states_at_once(unembedding: Tensor, k: int) -> int:
    """Whole tiles of states whose candidates and sums keep to KEPT_BYTES."""
    vocabulary = len(unembedding)
    each = 12 * vocabulary // engine.tile_of(unembedding.dtype).n + (vocabulary // 2 if k else 0)
    return max(engine.TILE_M, KEPT_BYTES // max(1, each) // engine.TILE_M * engine.TILE_M)


def _columns(columns: list[Any], m: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[m, t] of t columns; [m, 0] of none."""
    return torch.stack(columns, 1).to(dtype) if columns else torch.empty(m, 0, dtype=dtype, device=device)
