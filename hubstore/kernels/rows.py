"""What every kernel makes of its input first: unit rows, and where what cannot be computed is refused."""

from __future__ import annotations

import torch
from torch import Tensor

from hubstore.checks import check_count, check_number
from hubstore.errors import NonFiniteError

LEAST, MOST = 2.0**-400, 2.0**400
"""Float64 rows whose largest element is within these have squares and sums that float64 holds."""


def unit_rows(rows: Tensor, name: str = "rows", first: int = 0) -> Tensor:
    """Rows divided by their norms, in float64, where no norm overflows or vanishes.

    Args:
        rows: [..., n, width], any floating dtype.
        name: what to call the tensor in an error.
        first: number of the first row in an error.

    Returns:
        float64 [..., n, width]; a row of zeros stays a row of zeros, so that its cosine to anything is 0.

    Raises:
        NonFiniteError: a row holds NaN or infinity.
    """
    wide = in_range(rows).to(torch.float64)
    norms: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    refuse_non_finite(norms[..., 0], name, first)
    return wide / norms.masked_fill(norms == 0, 1.0)


def in_range(rows: Tensor) -> Tensor:
    """The rows, those of float64 whose squares it does not hold times a power of two, which no cosine depends on.

    Args:
        rows: [..., n, width], any floating dtype; narrower ones are as they are.
    """
    if rows.dtype != torch.float64 or not rows.numel():
        return rows
    largest = rows.abs().amax(-1, keepdim=True)
    if bool(((largest >= LEAST) & (largest <= MOST) | (largest == 0)).all()):
        return rows
    # Twice by half of the exponent: a power of two may itself be beyond float64.
    exponent = -torch.frexp(largest.masked_fill(~torch.isfinite(largest), 1.0)).exponent
    half = torch.div(exponent, 2, rounding_mode="floor")
    return torch.ldexp(torch.ldexp(rows, half), exponent - half)


def refuse_non_finite(norms: Tensor, name: str, first: int = 0) -> None:
    """Raise NonFiniteError naming the first row of norms [..., n] that is NaN or infinite."""
    if bool(torch.isfinite(norms).all()):
        return
    *layer, row = torch.nonzero(~torch.isfinite(norms))[0].tolist()
    where = f"layer {layer[0]} of {name}, row {first + row}" if layer else f"row {first + row} of {name}"
    raise NonFiniteError(
        f"{where} holds NaN or infinity; `hubstore verify` tells whether the store is whole, "
        "and a new extraction with --dtype float32 whether a narrower dtype overflowed"
    )


def check_pair(x: Tensor, y: Tensor) -> None:
    """Raise ValueError unless x and y are floating and have one shape."""
    if x.shape != y.shape or x.ndim < 2:
        raise ValueError(f"x and y must both be [..., n, width]: {tuple(x.shape)} is not {tuple(y.shape)}")
    check_floating(x=x, y=y)


def check_widths(queries: Tensor, rows: Tensor) -> None:
    """Raise ValueError unless both are [n, width] of one width."""
    if queries.ndim != 2 or rows.ndim != 2 or queries.shape[1] != rows.shape[1]:
        raise ValueError(
            f"queries and rows must be [n, width] of one width: {tuple(queries.shape)} against {tuple(rows.shape)}"
        )
    check_floating(queries=queries, rows=rows)


def check_floating(**tensors: Tensor) -> None:
    """Raise ValueError, naming it, for a tensor of integers or complex numbers."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} {tuple(tensor.shape)} of {tensor.dtype} must be floating: float32, say")


def check_bias(bias: Tensor | None, rows: Tensor, name: str) -> None:
    """Raise ValueError unless `bias` is None or has an element for each of `rows` [n, width]."""
    if bias is not None and bias.shape != rows.shape[:1]:
        raise ValueError(f"{name} must be [{len(rows)}], one for each row: it is {list(bias.shape)}")


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Logits bounded by `softcap`, as Gemma 2 does; the same where it is None."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def check_lens(
    hidden: Tensor,
    unembedding: Tensor,
    targets: Tensor | None,
    k: int,
    groups: Tensor | None,
    softcap: float | None,
) -> None:
    """Raise ValueError unless the arguments of `lens_sweep` fit one another."""
    if softcap is not None:
        check_number("softcap", softcap, above=0)
    if hidden.ndim != 2 or unembedding.ndim != 2 or hidden.shape[1] != unembedding.shape[1] or not len(unembedding):
        raise ValueError(
            "hidden must be [n, width] and unembedding [vocabulary, width] of one width: "
            f"{tuple(hidden.shape)} against {tuple(unembedding.shape)}"
        )
    check_floating(hidden=hidden, unembedding=unembedding)
    vocabulary = len(unembedding)
    check_count("k", k, least=0, most=vocabulary, of=f"tokens of a vocabulary {tuple(unembedding.shape)}")
    if targets is not None:
        _check_targets(targets, len(hidden), vocabulary)
    if groups is not None and (groups.ndim != 2 or len(groups) != vocabulary):
        raise ValueError(f"groups must be [{vocabulary}, g], weights of each token: they are {tuple(groups.shape)}")


def _check_targets(targets: Tensor, n: int, vocabulary: int) -> None:
    if targets.ndim != 2 or len(targets) != n:
        raise ValueError(f"targets must be [{n}, t], tokens for each state: they are {tuple(targets.shape)}")
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(f"targets must be integers: {tuple(targets.shape)} of {targets.dtype}")
    outside = (targets < 0) | (targets >= vocabulary)
    if bool(outside.any()):
        row, column = torch.nonzero(outside)[0].tolist()
        raise ValueError(
            f"targets {tuple(targets.shape)} has {int(targets[row, column])} at [{row}, {column}], "
            f"which is no token of a vocabulary of {vocabulary}"
        )
