"""A search for the fewest queries where products are of float32: one pass on ordinary cores gives all cosines."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from hubstore.kernels.cuda.pairs import best, row_scores

FEW = 4  # queries up to which reading the rows takes longer than the products
ROWS, WIDTH, WARPS = 8, 512, 4
SLACK = 22  # groups of rows beyond k that are scored again
LEADING = 64  # of them, at most
GROUPS = 1 << 17  # from which they are chosen, at most
COMPARED = 1024  # of which a program chooses
DOUBT = 1e-6  # more than the error of a float32 cosine
LEAST_NORM = 1e-15  # of a query whose products float32 holds


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
            valid = number < n
            squares = tl.zeros((ROWS, WIDTH), tl.float32)
            products = tl.zeros((ROWS, WIDTH), tl.float32)
            for start in range(0, width, WIDTH):
                column = start + tl.arange(0, WIDTH)
                inside = column < width
                at = number[:, None] * r_stride + column[None, :]
                y = tl.load(rows + at, valid[:, None] & inside[None, :], other=0.0).to(tl.float32)
                x = tl.load(queries + query * q_stride + column, inside, other=0.0).to(tl.float32)
                squares += y * y
                products += y * x[None, :]
            square = tl.sum(squares, 1)
            cosine = tl.sum(products, 1) / tl.sqrt(tl.where(square > 0, square, 1.0))
            # Infinity stands for a cosine that is none: NaN or infinity in a row, or squares that leave float32.
            lost = square <= 1e-30
            if tl.max((valid & lost).to(tl.int32), 0) > 0:  # only a row of zeros has no square that float32 holds
                filled = tl.zeros((ROWS,), tl.int32)
                for start in range(0, width, WIDTH):
                    column = start + tl.arange(0, WIDTH)
                    at = number[:, None] * r_stride + column[None, :]
                    y = tl.load(rows + at, valid[:, None] & (column < width)[None, :], other=0.0)
                    filled = tl.maximum(filled, tl.max((y != 0).to(tl.int32), 1))
                lost = lost & (filled > 0)
            fits = (square < 1e38) & (lost == 0)
            cosine = tl.where((cosine > -1e30) & fits, cosine, float("inf"))
            most = tl.maximum(most, tl.max(tl.where(valid, cosine, -float("inf")), 0))
        tl.store(largest + query * tl.num_programs(0) + group, most)


@triton.jit
def _lead(values, places, rest_so_far, count, led, led_places, rest, COUNT: tl.constexpr, SIZE: tl.constexpr):
    """Of SIZE values the COUNT largest and their places, and the largest of the others, these and earlier ones."""
    query, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    at = part * SIZE + tl.arange(0, SIZE)
    value = tl.load(values + query * count + at, at < count, other=-float("inf"))
    out = (query * parts + part) * COUNT
    for number in range(COUNT):
        where = tl.argmax(value, 0)
        most = tl.max(value, 0)
        place = part * SIZE + where
        if places is not None:
            place = tl.load(places + query * count + tl.minimum(place, count - 1))
        tl.store(led + out + number, most)
        tl.store(led_places + out + number, tl.where(most > -float("inf"), place, -1))
        value = tl.where(at == part * SIZE + where, -float("inf"), value)
    others = tl.max(value, 0)
    if rest_so_far is not None:
        earlier = count // COUNT
        number = tl.arange(0, SIZE)
        others = tl.maximum(
            others,
            tl.max(tl.load(rest_so_far + query * earlier + number, number < earlier, other=-float("inf")), 0),
        )
    tl.store(rest + query * parts + part, others)


@triton.jit
def _group_cosines(
    queries,
    q_stride,
    rows,
    r_stride,
    n,
    width,
    groups,
    steps,
    cosines,
    numbers,
    norms,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The cosines of all rows of a group, and the query's norm, in float64."""
    query, place, places = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    group = tl.load(groups + query * places + place)
    for step in range(steps):
        row = (group.to(tl.int64) * steps + step) * ROWS + tl.arange(0, ROWS)
        valid = (row >= 0) & (row < n)
        cosine, norm = row_scores(queries, q_stride, query, rows, r_stride, row, valid, width, True, ROWS, WIDTH)
        out = ((query * places + place) * steps + step) * ROWS + tl.arange(0, ROWS)
        tl.store(cosines + out, cosine)
        tl.store(numbers + out, tl.where(valid, row, -1))
        tl.store(norms + query, norm)


def float32_topk(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
    """`topk_cosine` for at most FEW queries over rows on the same device.

    Returns:
        float64 scores and indices [q, k] as `topk_cosine` orders them, or None where float32 cannot tell the rows
        apart or hold their norms, and where k is too large.
    """
    (n, width), q, device = rows.shape, len(queries), rows.device
    if rows.stride(1) != 1 or queries.stride(1) != 1 or k + SLACK > LEADING:
        return None
    steps = triton.cdiv(n, ROWS * GROUPS)
    groups = triton.cdiv(n, ROWS * steps)
    largest = torch.empty(q, groups, dtype=torch.float32, device=device)
    block = min(WIDTH, max(16, triton.next_power_of_2(width)))
    both = (queries, queries.stride(0), rows, rows.stride(0), n, width)
    _largest_cosines[(groups,)](*both, largest, steps, q, ROWS, block, num_warps=WARPS)
    count = triton.next_power_of_2(k + SLACK)
    led, places, rest = _leaders(largest, None, None, count, COMPARED)
    led, places, rest = _leaders(led, places, rest, count, triton.next_power_of_2(led.shape[1]))
    cosines = torch.empty(q, count * steps * ROWS, dtype=torch.float64, device=device)
    numbers = torch.empty(q, count * steps * ROWS, dtype=torch.int64, device=device)
    norms = torch.empty(q, dtype=torch.float64, device=device)
    _group_cosines[(q, count)](*both, places, steps, cosines, numbers, norms, ROWS, block, num_warps=4)
    scores, indices = best(cosines, numbers, k)
    # What was not chosen has at most the largest float32 cosine of the rest, and a little more by its error.
    facts = torch.stack([scores[:, -1], rest[:, 0].to(torch.float64), led[:, 0].to(torch.float64), norms]).tolist()
    for worst, others, most, norm in zip(*facts, strict=True):
        held = norm == 0 or LEAST_NORM <= norm <= 1 / LEAST_NORM
        if not (held and worst * norm > others + DOUBT * norm and math.isfinite(most)):
            return None
    return scores, indices


def _leaders(
    values: Tensor, places: Tensor | None, rest_so_far: Tensor | None, count: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of every `size` of values [q, n] the `count` largest: them, their places [q, m] and the largest others [q, p]."""
    q, n = values.shape
    parts = triton.cdiv(n, size)
    led = torch.empty(q, parts * count, dtype=torch.float32, device=values.device)
    led_places = torch.empty(q, parts * count, dtype=torch.int32, device=values.device)
    rest = torch.empty(q, parts, dtype=torch.float32, device=values.device)
    warps = max(1, min(16, size // 512))
    _lead[(q, parts)](values, places, rest_so_far, n, led, led_places, rest, count, size, num_warps=warps)
    return led, led_places, rest
