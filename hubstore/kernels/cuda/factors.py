"""What a lens multiplies: states and tokens as `sweep` reads them, float32 ones as float16 numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hubstore.kernels.cuda.sweep import aligned

HALVED_ROWS = 1 << 15  # that are written so at a time
LARGEST = 15  # exponent of the largest element of a row of float16 numbers, 32,768


@dataclass(frozen=True)
class Factors:
    """What the sweep multiplies.

    Args:
        hidden: [n, width], rows as the sweep reads them.
        unembedding: [vocabulary, width], of the same dtype.
        scale: float32 [n], times which a product is a logit; None for ones.
    """

    hidden: Tensor
    unembedding: Tensor
    scale: Tensor | None = None

    @classmethod
    def of(cls, hidden: Tensor, unembedding: Tensor) -> Factors:
        """Rows as they are; float32 rows as float16 numbers, of whose products a GPU's peak is twice that of TF32.

        Two float16 numbers hold 22 digits of a float32 row, scaled by a power of two. Their products but the least one,
        added up, are one product of rows three times as wide; as exact as of three TF32 numbers, beside which Triton
        miscompiles the products that sum the mass. Few states are written so too: what is read of a state does not
        depend on how many there are.

        Args:
            hidden: [n, width].
            unembedding: [vocabulary, width].
        """
        if hidden.dtype != torch.float32 or not len(hidden):
            return cls(hidden, unembedding)
        exponents, common = _exponents(hidden), _exponents(unembedding).amax()
        left = _halved(hidden, exponents, lambda high, low: (low, high, high))
        right = _halved(unembedding, common.expand(len(unembedding)), lambda high, low: (high, low, high))
        return cls(left, right, _power(exponents - LARGEST) * _power(common - LARGEST))

    def of_states(self, span: slice) -> Factors:
        """Of some states."""
        return Factors(self.hidden[span], self.unembedding, None if self.scale is None else self.scale[span])


def readable(hidden: Tensor, unembedding: Tensor) -> tuple[Tensor, Tensor]:
    """Both as a sweep reads them: as they are where they can be, else in float32, which holds either's digits."""
    dtype = hidden.dtype if hidden.dtype == unembedding.dtype != torch.float64 else torch.float32
    return aligned_rows(hidden, dtype), aligned_rows(unembedding, dtype)


def _exponents(rows: Tensor) -> Tensor:
    """int32 [n]: of each row of float32, the power of two just above its largest element."""
    return torch.frexp(rows.abs().amax(1)).exponent.clamp(-100, 128)


def _power(exponents: Tensor) -> Tensor:
    """float32: two to the power of each."""
    return torch.exp2(exponents.to(torch.float32))


def _halved(rows: Tensor, exponents: Tensor, order: Callable[[Tensor, Tensor], tuple[Tensor, ...]]) -> Tensor:
    """float16 [n, 3 width]: each row times a power of two, as a high and a low part in the order given."""
    width = 3 * rows.shape[1]
    out = torch.empty(len(rows), -(-width // 8) * 8, dtype=torch.float16, device=rows.device)[:, :width]
    for start in range(0, len(rows), HALVED_ROWS):
        span = slice(start, start + HALVED_ROWS)
        scaled = rows[span] * _power(LARGEST - exponents[span])[:, None]
        high = scaled.to(torch.float16)
        out[span] = torch.cat(order(high, (scaled - high.to(torch.float32)).to(torch.float16)), 1)
    return out


def aligned_rows(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows in `dtype` that begin on boundaries that a sweep can read from: a copy where these do not."""
    if rows.dtype == dtype and aligned(rows):
        return rows
    width = rows.shape[1]
    copy = torch.empty(len(rows), -(-width // 8) * 8, dtype=dtype, device=rows.device)[:, :width]
    return copy.copy_(rows)
