"""Similarity and lens kernels: tensors in, tensors out, never a matrix of all pairs.

`reference` says what each computes, in plain float64 torch; `cpu` and `cuda` compute it, whichever the first
tensor is on. Inputs are float32, float16, bfloat16 or float64 hidden states, not yet normalized. A row of zeros
has cosine 0 to every row; NaN and infinity are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hubstore.kernels import cpu
from hubstore.kernels.neighbors import MOST_TIED, Edges, Neighbors
from hubstore.kernels.neighbors import neighbor_weights as shared_neighbor_weights
from hubstore.kernels.reference import LensSweep, MatchRanks, PairedCosine
from hubstore.options import refuse_others, renamed

__all__ = [
    "Edges",
    "LensSweep",
    "MatchRanks",
    "Neighbors",
    "PairedCosine",
    "lens_sweep",
    "match_rank",
    "match_ranks",
    "neighbor_weights",
    "paired_cosine",
    "topk_cosine",
]


def paired_cosine(x: Tensor, y: Tensor) -> PairedCosine:
    """Cosine of each pair, and the sums of unit rows that give the mean over mismatched pairs.

    Args:
        x: [n, width] or [layers, n, width] hidden states.
        y: the same shape; row i is the match of x's row i.

    Returns:
        float64 cosines [..., n] and sums [..., width], from which Equation 1 of Wu et al. (2025) follows:
        matched = mean(cosines), baseline = (sum_x · sum_y - Σ cosines) / (n (n - 1)). Of 16-bit rows on a GPU,
        which are multiplied in float32, each is good to 1e-7.

    Raises:
        NonFiniteError: a row holds NaN or infinity.
    """
    with _backend(x) as backend:
        return backend.paired_cosine(x.detach(), y.detach())  # type: ignore[no-any-return]


def topk_cosine(
    queries: Tensor, rows: Tensor | Iterable[tuple[int, Tensor]], k: int, *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """The k rows of largest cosine for each query.

    Args:
        queries: [q, width]; their device is where the search runs.
        rows: [n, width], or (first row, [n, width]) segments, each read once, in any order, never all held. Rows
            on the CPU may be searched on a GPU: they stream there.
        k: how many, at least 1.
        dtype: of the scores; float64 keeps what rows are ordered by, so that what was found in parts can be merged.

    Returns:
        scores [q, k], descending, and indices int64 [q, k]; -infinity and -1 where there are fewer
        rows. Rows are ordered by their float64 cosine, which the scores round; equal ones, which equal rows
        have, by index. Products in 16-bit tiles choose a few candidates more than k, which are scored again
        exactly; a row is missed only where more rows than those lie within the products' error. Long
        searches on a GPU choose three times k by 8-bit products where some of the queries lose no neighbor among some
        of the rows; where they do, the search stays at 16 bits and the package's logger says so.

    Raises:
        NonFiniteError: a query or row holds NaN or infinity; the row is named by its index.
    """
    with _backend(queries) as backend:
        rows = rows.detach() if isinstance(rows, Tensor) else rows
        return backend.topk_cosine(queries.detach(), rows, k, dtype)  # type: ignore[no-any-return]


def neighbor_weights(rows: Tensor, k: int, *, most_tied: int = MOST_TIED, seed: int = 0) -> Neighbors:
    """The k rows of largest cosine to each row, itself excluded, with fractional credit for ties.

    A row's weights sum to k. Rows nearer than the last place have weight 1, and b rows that are tied for the r places
    left r / b each. Tied are cosines within 1e-12, so that an equal row is no nearer for its index.

    Args:
        rows: [n, width].
        k: how many, from 1 to n - 1.
        most_tied: of more rows that are tied for the last places, so many (or r) are drawn, which keeps the credit on
            average and bounds the edges.
        seed: of that draw; two sides that are compared need two.

    Returns:
        See `Neighbors`.

    Raises:
        NonFiniteError: a row holds NaN or infinity.
        OptionError: k is out of its range.
    """
    with _backend(rows) as backend:
        return shared_neighbor_weights(backend.topk_cosine, rows.detach(), k, most_tied, seed)


def match_rank(
    x: Tensor, y: Tensor, *, bias_x: Tensor | None = None, bias_y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Where each row's match stands among all candidates, in both directions, from one set of products.

    Args:
        x: [n, width].
        y: [n, width]; row i is the match of x's row i.
        bias_x: [n], subtracted from the cosines of x's rows where they are the candidates. Half the mean cosine to
            their nearest queries gives CSLS (Conneau et al., 2018).
        bias_y: [n], the same for y's rows.

    Returns:
        Two int64 [n], 0 where the match is first: of y[i] among y for the query x[i], and of x[i] among x for the
        query y[i]. Of equal candidates the smaller index is first. A query of zeros is as near to all, and ranks
        its match anywhere. On a GPU products are of 16-bit rows as they are, and of others in float32: candidates
        whose cosines differ by less than that resolves may change places.

    Raises:
        NonFiniteError: a row holds NaN or infinity.
    """
    with _backend(x) as backend:
        return backend.match_rank(x.detach(), y.detach(), bias_x=bias_x, bias_y=bias_y)  # type: ignore[no-any-return]


def match_ranks(x: Tensor, y: Tensor, *, neighbors: int = 10, **older: Any) -> MatchRanks:
    """What `match_rank` gives, by cosine and by CSLS.

    CSLS (Conneau et al., 2018) is 2 cos(x, y) - r(x) - r(y), r a row's mean cosine to its nearest rows of the
    other side.

    Args:
        x: [n, width].
        y: [n, width]; row i is the match of x's row i.
        neighbors: how many nearest rows r is the mean of; all where there are fewer.
        older: `neighbours`, which is `neighbors`: deprecated.

    Returns:
        Four int64 [n] of ranks.

    Raises:
        NonFiniteError: a row holds NaN or infinity.
    """
    neighbors = renamed("neighbours", "neighbors", older, neighbors)
    refuse_others("match_ranks", older)
    with _backend(x) as backend:
        return backend.match_ranks(x.detach(), y.detach(), neighbors=neighbors)  # type: ignore[no-any-return]


def lens_sweep(
    hidden: Tensor,
    unembedding: Tensor,
    *,
    targets: Tensor | None = None,
    k: int = 0,
    groups: Tensor | None = None,
    softcap: float | None = None,
    ranks: bool = True,
) -> LensSweep:
    """What softmax(hidden @ unembedding.T) says, in one sweep over the vocabulary that never holds all logits.

    Args:
        hidden: [n, width] hidden states, normed or not, as the caller wants the lens.
        unembedding: [vocabulary, width].
        targets: int64 [n, t], tokens to look up for each state.
        k: how many of the most probable tokens to give.
        groups: [vocabulary, g] weights of each token in each group; p(group | token) gives p(group | state).
        softcap: where given, softcap · tanh(logit / softcap) takes the place of a logit.
        ranks: whether to count the tokens before each target; without, `target_ranks` is [n, 0] and the sweep quicker.

    Returns:
        See `LensSweep`. Of equal logits the smaller token is first.

    Raises:
        NonFiniteError: a state or an unembedding row holds NaN or infinity.
        ValueError: shapes that do not fit, a target that is no token, k larger than the vocabulary, or a softcap
            that is not above 0.
    """
    with _backend(hidden) as backend:
        return backend.lens_sweep(  # type: ignore[no-any-return]
            hidden.detach(), unembedding.detach(), targets=targets, k=k, groups=groups, softcap=softcap, ranks=ranks
        )


@contextmanager
def _backend(tensor: Tensor) -> Iterator[ModuleType]:
    """The kernels of the tensor's device, which is the current one meanwhile: Triton launches there."""
    if tensor.device.type != "cuda":
        yield cpu
        return
    from hubstore.kernels import cuda  # Triton comes with PyTorch for CUDA, and is not there without

    with torch.cuda.device(tensor.device):
        yield cuda
