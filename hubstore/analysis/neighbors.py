"""What items' nearest neighbors have in common on two sides, or with the items themselves, and what each item adds.

Neighbors are weighted edges (`hubstore.kernels.neighbor_weights`): one that shares the last places counts in part.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hubstore.kernels import Edges, Neighbors

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Flags = npt.NDArray[np.bool_]

BLOCK = 1 << 22  # cosines at a time
JACKKNIFED = 3 / 8
"""Weight of the jackknife's log variance in that of a mean over neighbors."""


def tie_seed(layer: str, partition: str) -> int:
    """The seed with which a side draws among its ties: two sides draw on their own."""
    return zlib.crc32(f"{layer} {partition}".encode())


def pair_hits(units: Tensor) -> Flags:
    """Whether each item's match is nearer than all others.

    Args:
        units: float64 [partitions, n, width], unit rows in one order of concepts.

    Returns:
        bool [asking, answering, n].
    """
    partitions, n, _ = units.shape
    hits = torch.empty(partitions, partitions, n, dtype=torch.bool, device=units.device)
    for asking, found in zip(units, hits, strict=True):
        for own in torch.split(torch.arange(n, device=units.device), max(1, BLOCK // (partitions * n))):
            cosines = asking[own] @ units.mT  # [answering, asking, answers]
            places = own - own[0]
            matched = cosines[:, places, own].clone()
            cosines[:, places, own] = -torch.inf
            found[:, own] = matched > cosines.amax(2)
    return np.asarray(hits.cpu().numpy())


def overlaps(x: Neighbors, y: Neighbors, n: int, k: int) -> Floats:
    """The share of each of n items' k neighbors that two sides have in common: float64 [n].

    Where both sides break their ties at random it is what they share on average: Σⱼ xᵢⱼ yᵢⱼ / k.
    """
    shared, _ = product(x.edges, y.edges, n)
    return np.asarray(shared / k)


def tempered(own: Floats, added: Floats) -> Floats:
    """What each item adds to a mean over neighbors, of a variance between two that are known to be wrong: float64 [n].

    With neighbors kept, as if only `own` varied, intervals are too narrow; those of the jackknife are too wide, for it
    counts what k + 1 items bring about together as often as there are items in it (Efron and Stein, 1981). Between the
    two, nearer the first, intervals cover; where is found by simulation, not derived (`benchmarks/coverage.py`).

    Args:
        own: float64 [n], each item's own value.
        added: float64 [n], what it adds by the jackknife.
    """
    centered = added - added.mean()
    jackknife = float(centered.var())
    scale = (float(own.var()) / jackknife) ** ((1 - JACKKNIFED) / 2) if jackknife > 0 else 1.0
    return np.asarray(centered * scale)


def jackknifed_overlap(x: Neighbors, y: Neighbors, n: int, k: int) -> tuple[Floats, Floats]:
    """`overlaps` and what each item adds to their mean, as the jackknife has it: both float64 [n].

    An item that goes takes its own overlap with it, and changes those of the items that had it as a neighbor: its
    weight passes on to its heirs. With x and y the weights and u and v the heirs', item i's overlap changes by
    -xᵢⱼyᵢⱼ + yᵢⱼ Σxv + xᵢⱼ Σuy + xᵢⱼyᵢⱼ Σuv where j goes (Efron and Stein, 1981, for the jackknife).
    """
    own, (rows, columns, weights) = product(x.edges, y.edges, n)
    with_y_heirs, _ = product(x.edges, y.heirs, n)
    with_x_heirs, _ = product(x.heirs, y.edges, n)
    of_heirs, _ = product(x.heirs, y.heirs, n)
    changes = np.bincount(columns, weights * (of_heirs[rows] - 1), n)
    for edges, gained in ((y.edges, with_y_heirs), (x.edges, with_x_heirs)):
        rows, columns, weights = (part.cpu().numpy() for part in (edges.rows, edges.columns, edges.weights))
        changes += np.bincount(columns, weights * gained[rows], n)
    return own / k, (own - changes) / k


def shared_labels(neighbors: Neighbors, labels: Ints, k: int) -> Floats:
    """The share of each item's k neighbors that have its own of `labels` int64 [n]: float64 [n]."""
    rows, columns = neighbors.edges.rows.cpu().numpy(), neighbors.edges.columns.cpu().numpy()
    same = labels[rows] == labels[columns]
    return np.asarray(np.bincount(rows, same * neighbors.edges.weights.cpu().numpy(), len(labels)) / k)


def occurrences(neighbors: Neighbors, n: int) -> Floats:
    """How often each of n items is among the neighbors of others: float64 [n]."""
    columns, weights = neighbors.edges.columns.cpu().numpy(), neighbors.edges.weights.cpu().numpy()
    return np.bincount(columns, weights, n).astype(np.float64)


def product(x: Edges, y: Edges, n: int) -> tuple[Floats, tuple[Ints, Ints, Floats]]:
    """Σⱼ xᵢⱼ yᵢⱼ of each of n rows, float64 [n], and the rows, columns and weights of the edges that both have."""
    keys_x, keys_y = ((edges.rows * n + edges.columns).cpu().numpy() for edges in (x, y))
    keys, in_x, in_y = np.intersect1d(keys_x, keys_y, assume_unique=True, return_indices=True)
    weights = x.weights.cpu().numpy()[in_x] * y.weights.cpu().numpy()[in_y]
    rows, columns = np.divmod(keys, n)
    return np.bincount(rows, weights, n).astype(np.float64), (rows, columns, weights)
