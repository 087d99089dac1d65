"""The rows that an index is trained on, and what they train."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hubstore.index import kinds
from hubstore.index.allowed import Positions
from hubstore.index.clustering import cluster
from hubstore.index.exact import LayerRows
from hubstore.index.rows import Vectors, centered, random_rotation, rotated
from hubstore.index.runs import Training
from hubstore.kernels.rows import unit_rows

BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Sample:
    """How rows are drawn.

    Args:
        kind: of the index.
        seed: of the draw.
        name: of the sample, for messages.
    """

    kind: str
    seed: int
    name: str


def drawn(rows: int, sample: Sample) -> Positions:
    """The rows, of so many, that an index is trained on, ascending."""
    count = kinds.training_rows(sample.kind, rows)
    return np.sort(np.random.default_rng(sample.seed).choice(rows, count, replace=False))


def centered_sample(states: LayerRows, sample: Sample) -> tuple[Vectors, Vectors]:
    """Centered rows to train on [n, width], and the mean [width] that they were centered by."""
    rows = states.take(drawn(len(states), sample))
    mean = unit_rows(rows, sample.name).mean(dim=0).float().numpy()
    return centered(rows, mean, sample.name), mean


def train_lists(states: LayerRows, sample: Sample, device: torch.device) -> Training:
    """What an index of lists is made by; as `centered_sample`, in blocks: of the sample only float32 rows are held."""
    positions, width = drawn(len(states), sample), states.shape[1]
    blocks = [positions[at : at + BLOCK_ROWS] for at in range(0, len(positions), BLOCK_ROWS)]
    total = torch.zeros(width, dtype=torch.float64)
    for block in blocks:
        total += unit_rows(states.take(block), sample.name).sum(0)
    mean, rotation = (total / len(positions)).float().numpy(), random_rotation(width, sample.seed)
    rows = np.empty((len(positions), width), np.float32)
    for number, block in enumerate(blocks):
        vectors = rotated(centered(states.take(block), mean, sample.name), rotation)
        rows[number * BLOCK_ROWS : number * BLOCK_ROWS + len(block)] = vectors
    centroids = cluster(rows, kinds.list_count(len(states)), sample.seed, device)
    return Training(mean, rotation, centroids, kinds.RABITQ_BITS)
