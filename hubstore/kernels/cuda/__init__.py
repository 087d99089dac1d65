"""The kernels on a GPU, in Triton; it comes with PyTorch for CUDA."""

from hubstore.kernels.cuda.lens import lens_sweep
from hubstore.kernels.cuda.match import match_rank, match_ranks
from hubstore.kernels.cuda.paired import paired_cosine
from hubstore.kernels.cuda.topk import topk_cosine

__all__ = ["lens_sweep", "match_rank", "match_ranks", "paired_cosine", "topk_cosine"]
