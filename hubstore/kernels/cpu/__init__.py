"""The kernels on a CPU: torch tiles for the products, loops compiled by numba for what is done with them.

Hidden states crowd around their mean: cosines may differ by 1e-6 on a value near 1, which float32 barely holds. So
every product is taken of rows less a mean, small numbers whose error is small too.
"""

from hubstore.kernels.cpu.lens import lens_sweep
from hubstore.kernels.cpu.match import match_rank, match_ranks
from hubstore.kernels.cpu.pairs import paired_cosine
from hubstore.kernels.cpu.topk import topk_cosine

__all__ = ["lens_sweep", "match_rank", "match_ranks", "paired_cosine", "topk_cosine"]
