"""A search for few queries: bound by reading the rows, so one pass in float32 gives all cosines, and norms with them."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from hubstore.kernels.cuda.pairs import best, pair_cosine

FEW = 4  # queries up to which reading the rows takes longer than the products
ROWS, WIDTH, WARPS = 8, 512, 4
SLACK = 22  # groups of rows beyond k that are scored again
LEADING = 64  # of them, at most
GROUPS = 1 << 17  # from which they are chosen, at most
COMPARED = 1024  # of which a program chooses
DOUBT = 1e-6  # more than the error of a float32 cosine


@triton.jit
def _largest_cosines(
    queries,
    q_stride,
    rows,
    r_stride,
    n,
    width,
    largest,
    steps,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Of a program's rows the largest |x| cos(x, y), for each query."""
    group = tl.program_id(0)
    for query in tl.static_range(QUERIES):
        most = -float("inf")
        for step in range(steps):
            number = (group * steps + step).to(tl.int64) * ROWS + tl.arange(0, ROWS)
            there = number < n
            squares = tl.zeros((ROWS, WIDTH), tl.float32)
            products = tl.zeros((ROWS, WIDTH), tl.float32)
            for start in range(0, width, WIDTH):
                column = start + tl.arange(0, WIDTH)
                inside = column < width
                at = number[:, None] * r_stride + column[None, :]
                y = tl.load(rows + at, there[:, None] & inside[None, :], other=0.0).to(tl.float32)
                x = tl.load(queries + query * q_stride + column, inside, other=0.0).to(tl.float32)
                squares += y * y
                products += y * x[None, :]
            square = tl.sum(squares, 1)
            cosine = tl.sum(products, 1) / tl.sqrt(tl.where(square > 0, square, 1.0))
            # Infinity stands for a cosine that is none: NaN or infinity in a row, or a norm beyond float32.
            cosine = tl.where((cosine > -1e30) & (square < 1e38), cosine, float("inf"))
            most = tl.maximum(most, tl.max(tl.where(there, cosine, -float("inf")), 0))
        tl.store(largest + query * tl.num_programs(0) + group, most)


@triton.jit
def _lead(values, places, count, led, led_places, rest, COUNT: tl.constexpr, SIZE: tl.constexpr):
    """Of SIZE values the COUNT largest and their places, and the largest of the others."""
    query, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    at = part * SIZE + tl.arange(0, SIZE)
    value = tl.load(values + query * count + at, at < count, other=-float("inf"))
    out = (query * parts + part) * COUNT
    for number in range(COUNT):
        where = tl.argmax(value, 0)
        most = tl.max(value, 0)
        place = part * SIZE + where
        if places is not None:
            place = tl.load(places + query * count + tl.minimum(place, count - 1)).to(tl.int32)
        tl.store(led + out + number, most)
        tl.store(led_places + out + number, tl.where(most > -float("inf"), place, -1))
        value = tl.where(at == part * SIZE + where, -float("inf"), value)
    tl.store(rest + query * parts + part, tl.max(value, 0))


def few_topk(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
    """`topk_cosine` for at most FEW queries over rows on the same device.

    Returns:
        float64 scores and indices [q, k] as `topk_cosine` orders them, or None where float32 cannot tell the rows
        apart or hold their norms, and where k is too large.
    """
    (n, width), q = rows.shape, len(queries)
    if rows.stride(1) != 1 or queries.stride(1) != 1 or k + SLACK > LEADING:
        return None
    steps = triton.cdiv(n, ROWS * GROUPS)
    groups = triton.cdiv(n, ROWS * steps)
    largest = torch.empty(q, groups, dtype=torch.float32, device=rows.device)
    block = min(WIDTH, max(16, triton.next_power_of_2(width)))
    _largest_cosines[(groups,)](
        queries, queries.stride(0), rows, rows.stride(0), n, width, largest, steps, q, ROWS, block, num_warps=WARPS
    )
    count = triton.next_power_of_2(k + SLACK)
    led, places, rest = _leaders(largest, None, count, COMPARED)
    led, places, last = _leaders(led, places, count, triton.next_power_of_2(led.shape[1]))
    within = torch.arange(ROWS * steps, device=rows.device)
    chosen = (places[..., None] * (ROWS * steps) + within).flatten(1)
    chosen = chosen.masked_fill_((chosen < 0) | (chosen >= n), -1)
    scores, indices = best(pair_cosine(queries, rows, chosen), chosen, k)
    # What was not chosen has at most the largest float32 cosine of the rest, and a little more by its error.
    norms = torch.linalg.vector_norm(queries, dim=1, dtype=torch.float64)
    facts = torch.stack([scores[:, -1] * norms, rest.amax(1), last[:, 0], led[:, 0], norms]).tolist()
    for worst, others, more, most, norm in zip(*facts, strict=True):
        if not (worst > max(others, more) + DOUBT * norm and math.isfinite(most)):
            return None
    return scores, indices


def _leaders(values: Tensor, places: Tensor | None, count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of every `size` of values [q, n] the `count` largest: them and their places [q, m], and the largest others [q, p]."""
    q, n = values.shape
    parts = triton.cdiv(n, size)
    led = torch.empty(q, parts * count, dtype=torch.float32, device=values.device)
    led_places = torch.empty(q, parts * count, dtype=torch.int64, device=values.device)
    rest = torch.empty(q, parts, dtype=torch.float32, device=values.device)
    _lead[(q, parts)](values, places, n, led, led_places, rest, count, size, num_warps=max(1, min(16, size // 512)))
    return led, led_places, rest
