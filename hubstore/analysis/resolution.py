"""What a store's dtype can tell apart: the error that rounding each stored element leaves in a difference.

The difference of matched and baseline is Σ (x̂ᵢ - x̄)·(ŷᵢ - ȳ) / (n - 1), x̄ and ȳ the means of the unit rows.
Its gradient by xᵢ is therefore the part of (ŷᵢ - ȳ) / (n - 1) orthogonal to x̂ᵢ, over |xᵢ|. A stored element is
off by an error uniform over one spacing u of the dtype, of variance u² / 12, and by the delta method the
errors of all elements add in quadrature. Where a mean was removed, its own error, an n-th part, is left out.

That holds while items vary by a spacing or more. A dimension in which they vary by less is not rounded at
random (Widrow and Kollár, Quantization Noise, 2008): whatever it adds to the difference is taken as unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hubstore.analysis.pairs import Selection
from hubstore.analysis.states import States
from hubstore.stats import blocks

RATIO = 40.0  # 1.96 standard errors on either side are then at most 5%: half a unit of 1.0's second digit


def spacing(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Distance between neighboring numbers of `dtype` at each of `values`: float64, subnormals included."""
    info = torch.finfo(dtype)
    magnitudes = values.to(torch.float64).abs().clamp_min(info.smallest_normal)
    return torch.exp2(torch.frexp(magnitudes).exponent.to(torch.float64) - 1) * info.eps


def resolves(value: float, resolution: float) -> bool:
    """Whether rounding, of standard error `resolution`, leaves two digits of `value`."""
    return bool(abs(value) >= RATIO * resolution)


def finer_dtype(dtype: torch.dtype | None) -> str:
    """What to do where rounding to a store's dtype leaves fewer than two digits."""
    if dtype is torch.float32:
        return "no dtype of a store is finer than this one, float32: the items differ by less than it can tell"
    return "extract again with --dtype float32"


def rounding_variance(
    states: States, layer: str, sides: tuple[Selection, Selection], variant: str, along: Tensor
) -> float:
    """Variance of the difference that rounding the first side's stored states causes.

    Args:
        states: the hidden states.
        layer: one layer.
        sides: n matched items each.
        variant: "raw" or "centered".
        along: x̂ᵢ·(ŷᵢ - ȳ), float64 [n], x the first side and y the second.
    """

    def squares(component: Tensor, x: _Block, y: _Block) -> float:
        errors = (
            torch.addcmul(y.moved, component[:, None].to(torch.float32), x.unit, value=-1.0).mul_(x.error).flatten()
        )
        return float(torch.dot(errors, errors))

    mine, others = (_blocks(states, layer, side, variant) for side in sides)
    return sum(blocks.map_blocks(squares, states.pieces(along), mine, others)) / (len(along) - 1) ** 2


def lost_variance(states: States, layer: str, sides: tuple[Selection, Selection], variant: str) -> float:
    """Squared share in the difference, or u² / 12 if more, of each dimension that the dtype cannot follow."""

    def products(x: _Block, y: _Block) -> Tensor:
        return (x.moved * y.moved).sum(0, dtype=torch.float64)

    shares = blocks.sum_blocks(products, *(_blocks(states, layer, side, variant) for side in sides)) / (
        len(sides[0]) - 1
    )
    (steps_x, frozen_x), (steps_y, frozen_y) = (_frozen(states, layer, side, variant) for side in sides)
    lost = torch.maximum(shares.abs(), steps_x * steps_y / 12)[frozen_x | frozen_y]
    return float(lost.square().sum())


def _frozen(states: States, layer: str, selection: Selection, variant: str) -> tuple[Tensor, Tensor]:
    """Spacing over norm [width], root mean square over items, and where items vary by less than the spacing."""

    def make() -> Tensor:
        mean = states.mean(layer, selection)

        def sums(stored: Tensor, block: _Block) -> Tensor:
            spread = (stored - mean).square().sum(0)
            spacings = spacing(stored, states.dtype).square().sum(0)
            return torch.stack([12 * block.error.square().sum(0, dtype=torch.float64), spread, spacings])

        return blocks.sum_blocks(sums, states.blocks(layer, selection), _blocks(states, layer, selection, variant))

    steps, spread, spacings = states.cached(("frozen", layer, selection, variant), make)
    return (steps / len(selection)).sqrt(), spread < spacings


@dataclass(frozen=True)
class _Block:
    """Some rows of one side, each [b, width] in float32, which is more than an error needs.

    Args:
        unit: unit rows.
        moved: the same less the side's mean unit row.
        error: standard error of each stored element over its row's norm.
    """

    unit: Tensor
    moved: Tensor
    error: Tensor

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.unit.device


def _blocks(states: States, layer: str, selection: Selection, variant: str) -> Iterator[_Block]:
    mean = states.unit_sum(layer, selection, variant) / len(selection)
    of_each = (states.blocks(layer, selection, name) for name in ("raw", variant))
    for stored, rows, unit in zip(*of_each, states.units(layer, selection, variant), strict=True):
        make = partial(_block, stored, rows, unit, mean, states.dtype)
        yield states.once(("rounding", layer, selection, variant), selection, make)


def _block(stored: Tensor, rows: Tensor, unit: Tensor, mean: Tensor, dtype: torch.dtype) -> _Block:
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    error = spacing(stored, dtype) / 12**0.5 / norms.masked_fill(norms == 0, torch.inf)
    return _Block(*(part.to(torch.float32) for part in (unit, unit - mean, error)))
