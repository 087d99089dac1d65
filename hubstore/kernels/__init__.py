"""Similarity kernels: tensors in, tensors out, never a matrix of all pairs.

`reference` says what each computes, in plain float64 torch; `tiles` computes it, on the device the tensors
are on. Inputs are float32, float16, bfloat16 or float64 hidden states, not yet normalised. A row of zeros
has cosine 0 to every row; NaN and infinity are refused. On CUDA the products must not be TF32, which is
torch's default (`torch.backends.cuda.matmul.allow_tf32`).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from hubstore.kernels import tiles
from hubstore.kernels.reference import MatchRanks, PairedCosine

__all__ = ["MatchRanks", "PairedCosine", "match_rank", "match_ranks", "paired_cosine", "topk_cosine"]


def paired_cosine(x: Tensor, y: Tensor) -> PairedCosine:
    """Cosine of each pair, and the sums of unit rows that give the mean over mismatched pairs.

    Args:
        x: [n, width] or [layers, n, width] hidden states.
        y: the same shape; row i is the match of x's row i.

    Returns:
        float64 cosines [..., n] and sums [..., width], from which Equation 1 of Wu et al. (2025) follows:
        matched = mean(cosines), baseline = (sum_x · sum_y - Σ cosines) / (n (n - 1)).

    Raises:
        NonFiniteError: a row holds NaN or infinity.
    """
    return tiles.paired_cosine(x, y)


def topk_cosine(queries: Tensor, rows: Tensor | Iterable[tuple[int, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """The k rows of largest cosine for each query.

    Args:
        queries: [q, width].
        rows: [n, width], or (first row, [n, width]) segments, each read once, in any order, never all held.
        k: how many, at least 1.

    Returns:
        scores float32 [q, k], descending, and indices int64 [q, k]; -infinity and -1 where there are fewer
        rows. Rows are ordered by their float64 cosine, which the scores round; equal ones, which equal rows
        have, by index. Float32 products choose k + 6 candidates of a tile.

    Raises:
        NonFiniteError: a query or row holds NaN or infinity; the row is named by its index.
    """
    return tiles.topk_cosine(queries, rows, k)


def match_rank(x: Tensor, y: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """Where y[i] stands among all of y for the query x[i].

    Args:
        x: [n, width] queries.
        y: [n, width]; row i is the match of x's row i.
        bias: [n] or [variants, n], subtracted from the cosines of each candidate: half the mean cosine to its
            nearest queries gives CSLS (Conneau et al., 2018). Several variants share one pass.

    Returns:
        int64 [n] or [variants, n]: 0 where the match is first. Of equal rows of y the smaller index is first.
        A query of zeros is as near to all, and ranks its match anywhere.

    Raises:
        NonFiniteError: a row holds NaN or infinity.
    """
    return tiles.match_rank(x, y, bias=bias)


def match_ranks(x: Tensor, y: Tensor, *, neighbours: int = 10) -> MatchRanks:
    """What `match_rank` gives in both directions, by cosine and by CSLS, from one set of products.

    CSLS (Conneau et al., 2018) is 2 cos(x, y) - r(x) - r(y), r a row's mean cosine to its nearest rows of the
    other side.

    Args:
        x: [n, width].
        y: [n, width]; row i is the match of x's row i.
        neighbours: how many nearest rows r is the mean of; all where there are fewer.

    Returns:
        Four int64 [n] of ranks.

    Raises:
        NonFiniteError: a row holds NaN or infinity.
    """
    return tiles.match_ranks(x, y, neighbours=neighbours)
