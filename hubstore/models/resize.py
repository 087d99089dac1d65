"""Pillow's resampling of RGB pictures, bit for bit, in a quarter of its time: along rows that vector units can take.

Pillow weighs neighbouring pixels with 22-bit integers, across and down one after the other, rounding to bytes in
between (Pillow's src/libImaging/Resample.c). Sums of integers do not depend on their order: any way to them is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import numba
import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

PRECISION: Final = 22
"""Bits of a weight behind the point."""

HALF: Final = 1 << (PRECISION - 1)
TURNED: Final = 16
"""Rows that are turned into columns at once."""


def resize_rgb(image: Bytes, size: tuple[int, int], resample: int) -> Bytes | None:
    """A picture in another size.

    Args:
        image: uint8 [height, width, 3].
        size: height and width wanted.
        resample: a `PIL.Image.Resampling`.

    Returns:
        uint8 [*size, 3], what `PIL.Image.Image.resize` gives; None for a filter that is not known here.
    """
    kernel = KERNELS.get(resample)
    if kernel is None:
        return None
    height, width, _ = image.shape
    if _down_first((height, width), size) and _pillow_may_go_down_first():
        return _across(_down(image, size[0], kernel), size[1], kernel)
    return _down(_across(image, size[1], kernel), size[0], kernel)


def _across(image: Bytes, wanted: int, kernel: _Kernel) -> Bytes:
    height, width, channels = image.shape
    if wanted == width:
        return image
    # [width * channels, height] seen as [width, channels * height]: what a weight goes with is then one row.
    columns = _turned(np.ascontiguousarray(image).reshape(height, width * channels)).reshape(width, channels * height)
    made = _weighed(columns, *_weights(width, wanted, kernel))
    back: Bytes = _turned(made.reshape(wanted * channels, height)).reshape(height, wanted, channels)
    return back


def _down(image: Bytes, wanted: int, kernel: _Kernel) -> Bytes:
    height, width, channels = image.shape
    if wanted == height:
        return image
    rows = np.ascontiguousarray(image).reshape(height, width * channels)
    made: Bytes = _weighed(rows, *_weights(height, wanted, kernel)).reshape(wanted, width, channels)
    return made


def _down_first(size: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Whether Pillow 13 goes down before it goes across; older ones never do."""
    lost_down, lost_across = size[0] - wanted[0], size[1] - wanted[1]
    return lost_down > max(0, 2 * lost_across)


@cache
def _pillow_may_go_down_first() -> bool:
    """What the Pillow that is installed does, seen from a picture whose bytes tell."""
    kernel = KERNELS[int(Image.Resampling.BICUBIC)]
    picture = np.random.default_rng(0).integers(0, 256, (64, 16, 3), np.uint8)
    down_first = _across(_down(picture, 16, kernel), 32, kernel)
    return np.array_equal(np.asarray(Image.fromarray(picture).resize((32, 16), Image.Resampling.BICUBIC)), down_first)


@dataclass(frozen=True)
class _Kernel:
    """A filter: its weight by distance, 0 beyond `support`."""

    support: float
    weight: Callable[[Floats], Floats]


def _triangle(x: Floats) -> Floats:
    x = np.abs(x)
    return np.where(x < 1, 1 - x, 0.0)


def _cubic(x: Floats) -> Floats:
    """Keys' cubic convolution with a = -1/2."""
    a = -0.5
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: Floats) -> Floats:
    return np.where((x >= -3) & (x < 3), _sinc(x) * _sinc(x / 3), 0.0)


def _sinc(x: Floats) -> Floats:
    x = x * np.pi
    return np.where(x == 0, 1.0, np.sin(x) / np.where(x == 0, 1.0, x))


KERNELS: Final = {
    int(Image.Resampling.BILINEAR): _Kernel(1.0, _triangle),
    int(Image.Resampling.BICUBIC): _Kernel(2.0, _cubic),
    int(Image.Resampling.LANCZOS): _Kernel(3.0, _lanczos),
}


@lru_cache(maxsize=1024)  # pictures of a corpus come in few sizes
def _weights(size: int, wanted: int, kernel: _Kernel) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Of each place wanted: the first pixel that it is made of, int64 [wanted], and the weights, int32 [wanted, n]."""
    scale = size / wanted
    stretch = max(scale, 1.0)
    reach = kernel.support * stretch
    center = (np.arange(wanted) + 0.5) * scale
    first = np.maximum((center - reach + 0.5).astype(np.int64), 0)
    stop = np.minimum((center + reach + 0.5).astype(np.int64), size)
    count = int((stop - first).max())
    places = first[:, None] + np.arange(count)
    weights = kernel.weight((places - center[:, None] + 0.5) * (1.0 / stretch))
    weights[places >= stop[:, None]] = 0.0
    total = np.zeros(wanted)
    for column in weights.T:  # one after the other, as Pillow adds them
        total += column
    weights = weights / total[:, None]
    fixed = np.trunc(np.where(weights < 0, -0.5, 0.5) + weights * (1 << PRECISION)).astype(np.int32)
    # The last rows would reach beyond the picture with weights of 0.
    first_kept = np.minimum(first, size - count) if size >= count else np.zeros_like(first)
    shift = first - first_kept
    moved = np.zeros((wanted, min(count, size)), np.int32)
    for place in range(wanted):
        kept = fixed[place, : moved.shape[1] - shift[place]]
        moved[place, shift[place] : shift[place] + len(kept)] = kept
    return first_kept, moved


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _turned(rows: Bytes) -> Bytes:
    """[n, m] to [m, n]."""
    n, m = rows.shape
    out = np.empty((m, n), np.uint8)
    whole = n - n % TURNED
    for start in range(0, whole, TURNED):
        part = rows[start : start + TURNED]
        for column in range(m):
            for row in range(TURNED):
                out[column, start + row] = part[row, column]
    for row in range(whole, n):
        for column in range(m):
            out[column, row] = rows[row, column]
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _weighed(rows: Bytes, first: npt.NDArray[np.int64], weights: npt.NDArray[np.int32]) -> Bytes:
    """Weighted sums of rows [size, m], from `first` on, rounded to bytes: [wanted, m]."""
    wanted, count = weights.shape
    m = rows.shape[1]
    out = np.empty((wanted, m), np.uint8)
    total = np.empty(m, np.int32)
    for place in range(wanted):
        total[:] = HALF
        for k in range(count):
            weight = weights[place, k]
            if weight != 0:
                row = rows[first[place] + k]
                for j in range(m):
                    total[j] += np.int32(row[j]) * weight
        for j in range(m):
            out[place, j] = min(max(total[j] >> PRECISION, 0), 255)
    return out
