"""Pillow's resampling of RGB images, bit for bit, in a quarter of its time: along rows that vector units can take.

Pillow weighs neighboring pixels with 22-bit integers, across and down one after the other, rounding to bytes in
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
import pyarrow as pa
from PIL import Image

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]
Weights = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]
"""Of each target place: the first pixel that it is made of, [target], and the weights, [target, n]."""

PRECISION: Final = 22
"""Bits of a weight behind the point."""

HALF: Final = 1 << (PRECISION - 1)
TURNED: Final = 32
"""Rows that go across together: what a weight goes with is then a column of them, which vector units take whole."""

TAPS: Final = 3
"""Weights taken at once, so that sums are fetched and put back a third as often; their number is a multiple of it."""


def resize_rgb(image: Bytes, size: tuple[int, int], resample: int, crop: tuple[int, int] | None = None) -> Bytes | None:
    """An image in another size, or the middle of it.

    Args:
        image: uint8 [height, width, 3], or [height, width, 4] whose last channel is left out.
        size: target height and width.
        resample: a `PIL.Image.Resampling`.
        crop: height and width of the middle to keep, at most `size`; nothing else is computed.

    Returns:
        uint8 [3, *size], or [3, *crop], what `PIL.Image.Image.resize` gives; None for a filter that is not known here.
    """
    kernel = KERNELS.get(resample)
    if kernel is None:
        return None
    height, width, _ = image.shape
    across = _middle(_weights(width, size[1], kernel), size[1], (crop or size)[1])
    down = _middle(_weights(height, size[0], kernel), size[0], (crop or size)[0])
    words = _words(image)
    if _down_first((height, width), size) and _pillow_may_go_down_first():
        made = _across(_down(words, *down), *across)
    else:
        first, weights = down
        needed = slice(int(first.min()), min(int(first.max()) + weights.shape[1], height))
        made = _down(_across(words[needed], *across), first - needed.start, weights)
    planes: Bytes = _planes(made)
    return planes


def pixels_of(image: Image.Image) -> Bytes:
    """uint8 [height, width, 4] of an RGB image where they lie, or a copy [height, width, 3] of what lies apart."""
    try:
        laid = pa.array(image)  # by the Arrow interface that Pillow has had since 11.2
    except (TypeError, ValueError, pa.ArrowException):
        return np.asarray(image)
    flat: Bytes = laid.flatten().to_numpy()
    return flat.reshape(image.height, image.width, -1)


def _words(image: Bytes) -> Words:
    """uint32 [height, width]: the channels of a pixel as one number, so that it moves as one."""
    if image.shape[2] != np.dtype(np.uint32).itemsize or not image.flags.c_contiguous:
        whole = np.zeros((*image.shape[:2], 4), np.uint8)
        whole[..., :3] = image[..., :3]
        image = whole
    words: Words = image.view(np.uint32)[..., 0]
    return words


def _middle(weights: Weights, whole: int, kept: int) -> Weights:
    """The weights of the middle places alone."""
    start = (whole - kept) // 2
    return weights[0][start : start + kept], weights[1][start : start + kept]


def _down_first(size: tuple[int, int], target: tuple[int, int]) -> bool:
    """Whether Pillow 13 goes down before it goes across; older ones never do."""
    lost_down, lost_across = size[0] - target[0], size[1] - target[1]
    return lost_down > max(0, 2 * lost_across)


@cache
def _pillow_may_go_down_first() -> bool:
    """What the Pillow that is installed does, seen from an image whose bytes tell."""
    kernel = KERNELS[int(Image.Resampling.BICUBIC)]
    image = np.random.default_rng(0).integers(0, 256, (64, 16, 3), np.uint8)
    down_first = _planes(_across(_down(_words(image), *_weights(64, 16, kernel)), *_weights(16, 32, kernel)))
    by_pillow = np.asarray(Image.fromarray(image).resize((32, 16), Image.Resampling.BICUBIC))
    return np.array_equal(np.moveaxis(by_pillow, -1, 0), down_first)


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


@lru_cache(maxsize=1024)  # images of a corpus come in few sizes
def _weights(size: int, target: int, kernel: _Kernel) -> Weights:
    """The weights, fixed-point, of every place along one side."""
    scale = size / target
    stretch = max(scale, 1.0)
    reach = kernel.support * stretch
    center = (np.arange(target) + 0.5) * scale
    first = np.maximum((center - reach + 0.5).astype(np.int64), 0)
    stop = np.minimum((center + reach + 0.5).astype(np.int64), size)
    count = int((stop - first).max())
    places = first[:, None] + np.arange(count)
    weights = kernel.weight((places - center[:, None] + 0.5) * (1.0 / stretch))
    weights[places >= stop[:, None]] = 0.0
    total = np.zeros(target)
    for column in weights.T:  # one after the other, as Pillow adds them
        total += column
    weights = weights / total[:, None]
    fixed = np.trunc(np.where(weights < 0, -0.5, 0.5) + weights * (1 << PRECISION)).astype(np.int32)
    # The last rows would reach beyond the image with weights of 0.
    first_kept = np.minimum(first, size - count) if size >= count else np.zeros_like(first)
    shift = first - first_kept
    held = min(count, size)
    moved = np.zeros((target, held + -held % TAPS), np.int32)
    for place in range(target):
        kept = fixed[place, : held - shift[place]]
        moved[place, shift[place] : shift[place] + len(kept)] = kept
    return first_kept, moved


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _across(words: Words, first: npt.NDArray[np.int64], weights: npt.NDArray[np.int32]) -> Words:
    """Weighted sums along each row, from `first` on, rounded to bytes: [height, width] to [height, target]."""
    height, width = words.shape
    target, count = weights.shape
    out = np.empty((height, target), np.uint32)
    turned = np.empty((width, TURNED), np.uint32)
    made = np.empty((1, TURNED), np.uint32)
    columns, made_bytes = turned.view(np.uint8), made.view(np.uint8)
    total = np.empty(4 * TURNED, np.int32)
    start, stop = first.min(), min(first.max() + count, width)
    for top in range(0, height, TURNED):
        rows = min(TURNED, height - top)
        part = words[top : top + rows]
        for column in range(start, stop):
            for row in range(rows):
                turned[column, row] = part[row, column]
        for place in range(target):
            _sum(columns, first[place], weights[place], total, made_bytes[0], 4 * TURNED)
            for row in range(rows):
                out[top + row, place] = made[0, row]
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _down(words: Words, first: npt.NDArray[np.int64], weights: npt.NDArray[np.int32]) -> Words:
    """Weighted sums along each column, from `first` on, rounded to bytes: [height, width] to [target, width]."""
    target = len(weights)
    width = words.shape[1]
    out = np.empty((target, width), np.uint32)
    rows, made = words.view(np.uint8), out.view(np.uint8)
    total = np.empty(4 * width, np.int32)
    for place in range(target):
        _sum(rows, first[place], weights[place], total, made[place], 4 * width)
    return out


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _sum(
    rows: Bytes, first: int, weights: npt.NDArray[np.int32], total: npt.NDArray[np.int32], out: Bytes, size: int
) -> None:
    """The weighted sum of rows [n, size] from `first` on, rounded to bytes; weights beyond the last row are 0."""
    last = len(rows) - 1
    for j in range(size):
        total[j] = HALF
    for k in range(0, len(weights), TAPS):
        a, b, c = weights[k], weights[k + 1], weights[k + 2]
        at = first + k
        of_a, of_b, of_c = rows[min(at, last)], rows[min(at + 1, last)], rows[min(at + 2, last)]
        for j in range(size):
            total[j] += np.int32(of_a[j]) * a + np.int32(of_b[j]) * b + np.int32(of_c[j]) * c
    for j in range(size):
        out[j] = min(max(total[j] >> PRECISION, 0), 255)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _planes(words: Words) -> Bytes:
    """[height, width] to uint8 [3, height, width]."""
    height, width = words.shape
    out = np.empty((3, height, width), np.uint8)
    for row in range(height):
        for column in range(width):
            word = words[row, column]
            out[0, row, column] = word & 255
            out[1, row, column] = (word >> 8) & 255
            out[2, row, column] = (word >> 16) & 255
    return out
