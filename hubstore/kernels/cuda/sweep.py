"""The product behind three kernels: tiles of left @ right.T, each handed to an epilogue and then forgotten.

A tile is accumulated in registers, so that nothing but the epilogue's results reaches memory. Programs are
persistent, and the loop over tiles is flattened into the loop over their steps: the next tile's operands are on
their way while the epilogue works.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

TILE_M, TILE_N, TILE_K = 128, 256, 64
WIDE_TILE_N, WIDE_TILE_K = 128, 32  # of float32 rows, multiplied as sums of three TF32 numbers
EIGHT_TILE_N, EIGHT_TILE_K, EIGHT_WARPS, EIGHT_PROGRAMS = 128, 128, 4, 2
"""Of int8 rows, whose products take no longer than what is made of them: one program works while the other does."""
WARPS, STAGES = 8, 3
BAND = 16  # tiles of left that share each tile of right while it is in the L2 cache
ALIGNMENT = 16  # bytes, of rows that the tensor memory accelerator reads


@triton.jit
def _place(tile, tiles_m, tiles_n, BAND: tl.constexpr):
    """Row and column of a tile: down a band of tiles of left, then to the next tile of right."""
    band = tile // (BAND * tiles_n)
    height = tl.minimum(tiles_m - band * BAND, BAND)
    inside = tile - band * BAND * tiles_n
    return band * BAND + inside % height, inside // height


@triton.jit
def _sweep(
    left,
    right,
    m,
    n,
    width,
    arguments,
    EPILOGUE: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    PRECISION: tl.constexpr,
    NUMBER: tl.constexpr,
    BAND: tl.constexpr,
):
    tiles_m, tiles_n = tl.cdiv(m, TILE_M), tl.cdiv(n, TILE_N)
    steps = tl.cdiv(width, TILE_K)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        tile_m, tile_n = _place(tile, tiles_m, tiles_n, BAND)
        products = tl.zeros((TILE_M, TILE_N), NUMBER)
        for step in range(steps):
            x = left.load([tile_m * TILE_M, step * TILE_K])
            y = right.load([tile_n * TILE_N, step * TILE_K])
            products = tl.dot(x, y.T, products, input_precision=PRECISION, out_dtype=NUMBER)
        EPILOGUE(products, tile_m * TILE_M, tile_n * TILE_N, m, n, arguments, TILE_M, TILE_N)


@triton.jit
def _diagonal(
    left,
    right,
    m,
    width,
    arguments,
    EPILOGUE: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    first_m = tl.program_id(0) * TILE_M
    first_n = first_m // TILE_N * TILE_N
    products = tl.zeros((TILE_M, TILE_N), tl.float32)
    for step in range(tl.cdiv(width, TILE_K)):
        x = left.load([first_m, step * TILE_K])
        y = right.load([first_n, step * TILE_K])
        products = tl.dot(x, y.T, products, input_precision=PRECISION)
    EPILOGUE(products, first_m, first_n, m, m, arguments, TILE_M, TILE_N)


@triton.jit
def own(values, shift, TILE_M: tl.constexpr, TILE_N: tl.constexpr):
    """[TILE_M]: of row i of a tile, the value in column i + shift."""
    diagonal = (tl.arange(0, TILE_M) + shift)[:, None] == tl.arange(0, TILE_N)[None, :]
    return tl.sum(tl.where(diagonal, values, 0.0), 1)


@triton.jit
def just_below(values):
    """The next float32 towards -infinity: what is greater than it is at least `values`."""
    bits = values.to(tl.int32, bitcast=True)
    below = tl.where(values > 0, bits - 1, bits + 1)
    return tl.where(values == 0, -2147483647, below).to(tl.float32, bitcast=True)


@dataclass(frozen=True)
class Tile:
    """Rows of left and of right, and the part of their width, that a program multiplies at a time."""

    m: int
    n: int
    k: int
    precision: str
    warps: int = WARPS
    stages: int = STAGES
    programs: int = 1  # of a multiprocessor

    def of(self, left: Tensor, right: Tensor) -> tuple[TensorDescriptor, TensorDescriptor]:
        """The two sides as the programs read them."""
        return TensorDescriptor.from_tensor(left, [self.m, self.k]), TensorDescriptor.from_tensor(
            right, [self.n, self.k]
        )


def tile_of(dtype: torch.dtype) -> Tile:
    """The tile of products of rows in `dtype`."""
    if dtype == torch.float32:
        return Tile(TILE_M, WIDE_TILE_N, WIDE_TILE_K, "tf32x3")
    if dtype == torch.int8:
        return Tile(TILE_M, EIGHT_TILE_N, EIGHT_TILE_K, "ieee", EIGHT_WARPS, programs=EIGHT_PROGRAMS)
    return Tile(TILE_M, TILE_N, TILE_K, "ieee")


def sweep(left: Tensor, right: Tensor, epilogue: Any, arguments: tuple[Any, ...]) -> None:
    """Call `epilogue(products, first row, first column, m, n, arguments, TILE_M, TILE_N)` for every tile.

    Args:
        left: [m, width], int8, float16, bfloat16 or float32, rows `aligned`.
        right: [n, width], of the same dtype, rows `aligned`.
        epilogue: a Triton function; products is float32 (of int8: int32) [TILE_M, TILE_N], zero beyond m and n.
        arguments: tensors and numbers that it takes.
    """
    (m, width), n = left.shape, right.shape[0]
    tile = tile_of(left.dtype)
    tiles = triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n)
    _sweep[(min(tiles, tile.programs * processors(left.device)),)](
        *tile.of(left, right),
        m,
        n,
        width,
        arguments,
        epilogue,
        tile.m,
        tile.n,
        tile.k,
        tile.precision,
        tl.int32 if left.dtype == torch.int8 else tl.float32,
        BAND,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def diagonal(left: Tensor, right: Tensor, epilogue: Any, arguments: tuple[Any, ...]) -> None:
    """The same for the tiles alone that hold left[i] · right[i]; their bits are those that `sweep` finds there.

    Args:
        left: [m, width].
        right: [m, width].
        epilogue: as for `sweep`.
        arguments: what it takes.
    """
    m, width = left.shape
    tile = tile_of(left.dtype)
    _diagonal[(triton.cdiv(m, tile.m),)](
        *tile.of(left, right),
        m,
        width,
        arguments,
        epilogue,
        tile.m,
        tile.n,
        tile.k,
        tile.precision,
        num_warps=WARPS,
        num_stages=STAGES,
    )


def aligned(rows: Tensor) -> bool:
    """Whether `sweep` can read rows [n, width] as they are: side by side, each on a 16-byte boundary."""
    return (
        rows.dtype in (torch.float16, torch.bfloat16, torch.float32)
        and rows.stride(1) == 1
        and rows.stride(0) * rows.element_size() % ALIGNMENT == 0
        and rows.data_ptr() % ALIGNMENT == 0
    )


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU, each of which runs one program at a time."""
    if device.type != "cuda":  # Triton's interpreter
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
