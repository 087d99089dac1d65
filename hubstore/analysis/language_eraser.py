"""An eraser of the language that is fitted to a store, to be put into the model that the store is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from hubstore.analysis.erasers import Eraser, inlp, leace, lsar, orthogonal
from hubstore.analysis.pairs import check_partitions
from hubstore.analysis.shared_concepts import SharedConcepts
from hubstore.analysis.states import States, item_pooling
from hubstore.devices import resolve_device
from hubstore.errors import AnalysisError

if TYPE_CHECKING:
    from hubstore.store import StoreReader

METHODS = ("lsar", "leace", "inlp", "random")


def language_eraser(
    store: StoreReader,
    layer: str | int,
    partitions: Sequence[str] | None = None,
    *,
    method: str = "lsar",
    directions: int | None = None,
    pooling: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Eraser:
    """What takes the language out of a layer's states, fitted on half of the concepts: those that `subspace` fits on.

    Put into the running model it shows what the language's directions do, beside as many random ones:
    `Intervention(language_eraser(store, 9), [9], "erase", positions=[slice(1, None)], when="every step")`.

    Args:
        store: an opened store of parallel items.
        layer: one that it keeps.
        partitions: two or more that share concepts; None is all.
        method: "lsar" (Xie et al., 2022), "leace" (Belrose et al., 2023), "inlp" (Ravfogel et al., 2020), or "random":
            orthonormal directions, drawn by the seed.
        directions: of "lsar" and "random", at most; as many as languages less one by default.
        pooling: one row per item; None is the store's first.
        seed: of the halves, and of random directions.
        device: where it is fitted.

    Returns:
        float64, on the CPU.

    Raises:
        QueryError: a partition, layer or pooling that the store does not have.
        AnalysisError: fewer than two partitions, or they share fewer than 24 concepts; an unknown method; a number of
            directions that it has no use for.
    """
    if method not in METHODS:
        raise AnalysisError(f"there is no eraser {method!r}; use {', '.join(METHODS)}")
    if directions is not None and (directions < 1 or method not in ("lsar", "random")):
        raise AnalysisError(f"directions {directions} of {method}: give 1 or more, of lsar or random")
    name = store.layer_name(layer)
    concepts = SharedConcepts.of(store, check_partitions(store, partitions), seed)
    states = States(store, item_pooling(store, pooling), resolve_device(device))
    every = concepts.states(states, name)[:, concepts.fitted]
    languages, n, width = every.shape
    rows, labels = every.flatten(0, 1), torch.arange(languages, device=every.device).repeat_interleave(n)
    most = min(directions or languages - 1, width)
    if method == "lsar":
        fitted = lsar(every.mean(1), most)
    elif method == "leace":
        fitted = leace(rows, labels, languages)
    elif method == "inlp":
        fitted = inlp(rows, labels, languages, concepts.held(every.device).repeat(languages))
    else:
        drawn = np.random.default_rng(seed).standard_normal((width, most))
        fitted = orthogonal(torch.linalg.qr(torch.from_numpy(drawn)).Q)
    return fitted.to(torch.device("cpu"), torch.float64)
