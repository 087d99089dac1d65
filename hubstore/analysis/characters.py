"""What is written alike: pieces of a few characters, counted."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

GRAMS, BUCKETS = 3, 2048
"""Characters of a piece of a text, and how many numbers pieces are hashed to."""


def ngrams(texts: Sequence[str], buckets: int = BUCKETS) -> Tensor:
    """float64 [n, buckets]: how often each piece of GRAMS characters is in a text, hashed."""
    counts = np.zeros((len(texts), buckets))
    bucket: dict[str, int] = {}  # texts have most of their pieces in common
    for row, text in enumerate(texts):
        pieces = [text[start : start + GRAMS] for start in range(max(1, len(text) - GRAMS + 1))]
        for piece in pieces:
            if piece not in bucket:
                bucket[piece] = zlib.crc32(piece.encode()) % buckets
        counts[row] = np.bincount([bucket[piece] for piece in pieces], minlength=buckets)
    return torch.from_numpy(counts)
