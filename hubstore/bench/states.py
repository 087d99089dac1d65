"""Made-up hidden states, drawn where they are used and the same for the same seed and device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

DRAWN = 1 << 26
"""Numbers drawn at once, in float32: what is made beyond the rows themselves stays small."""

LARGE_DIMENSIONS = 4
LARGE = 1000.0
LARGE_DEVIATION = 0.005


def unit_states(rows: int, width: int, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    """[rows, width] rows of norm 1 in all directions: their cosines lie around 0, 1 / √width apart."""
    made = torch.empty(rows, width, dtype=dtype, device=device)
    for drawn, into in _draws(made, seed):
        into.copy_(normalize(drawn, dim=-1))
    return made


def crowded_states(rows: int, width: int, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    """[rows, width] rows as residual streams have them: a few dimensions a thousand times the others, nearly constant.

    All cosines then crowd near 1 and differ in the fourth digit or later.
    """
    made = torch.empty(rows, width, dtype=dtype, device=device)
    for drawn, into in _draws(made, seed):
        large = drawn[:, :LARGE_DIMENSIONS]
        large.mul_(LARGE_DEVIATION).add_(1.0).mul_(LARGE)
        into.copy_(drawn)
    return made


def _draws(made: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Normal numbers for pieces of `made`, and those pieces."""
    generator = torch.Generator(made.device).manual_seed(seed)
    for into in torch.split(made, max(1, DRAWN // made.shape[1])):
        yield torch.randn(into.shape, generator=generator, device=made.device), into
