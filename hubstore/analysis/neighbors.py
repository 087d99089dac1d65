"""Nearest neighbors of items among themselves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hubstore.kernels import topk_cosine


def nearest_others(rows: Tensor, k: int) -> npt.NDArray[np.int64]:
    """int64 [n, k]: the k rows of largest cosine to each of rows [n, width], itself excluded; k < n."""
    _, found = topk_cosine(rows, rows, k + 1)
    itself = found == torch.arange(len(rows), device=rows.device)[:, None]
    # Equal rows of smaller index may have pushed a row out of its own list: then the last one goes.
    itself[:, -1] |= ~itself.any(1)
    return np.asarray(found[~itself].reshape(len(rows), k).cpu().numpy())
