"""The hidden states an analysis reads: each partition's items of a layer read once and kept while they fit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from hubstore.analysis.pairs import Selection
from hubstore.errors import AnalysisError, NonFiniteError
from hubstore.kernels.rows import unit_rows
from hubstore.stats import blocks

if TYPE_CHECKING:
    from hubstore.store import StoreReader

T = TypeVar("T")
BUDGET = 1 << 29  # bytes of states and what is made of them that are kept
BLOCK = 1 << 21  # elements that are float64 at a time
CPU = torch.device("cpu")
VARIANTS = ("raw", "centered")
WEIGHTED = "weighted"
"""Pooling that analyses make of the states of all tokens: their mean, weighted by their places."""


class BudgetedCache:
    """Values by key, made when first asked for; the ones longest unused go when they outgrow `budget` bytes.

    Several threads may use one.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._bytes_held = 0
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def __call__(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value under `key`, from `make` where it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                found: T = self._values[key][0]
                return found
        value = make()  # by two threads at once, if they ask at once: it comes out the same
        size = _bytes(value)
        with self._lock:
            self._bytes_held += size - self._values.pop(key, (None, 0))[1]
            self._values[key] = (value, size)
            while self._bytes_held > self._budget and len(self._values) > 1:
                self._bytes_held -= self._values.popitem(last=False)[1][1]
        return value


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if hasattr(value, "__dataclass_fields__"):
        return sum(_bytes(getattr(value, name)) for name in value.__dataclass_fields__)
    return int(getattr(value, "nbytes", 0))


class States:
    """Hidden states of selected items under one pooling.

    Args:
        store: where they are.
        pooling: one row per item.
        device: where they are once read, and where what is made of them is computed.
    """

    def __init__(self, store: StoreReader, pooling: str, device: torch.device = CPU) -> None:
        self._store = store
        self._pooling = pooling
        self.device = device
        self.cached = BudgetedCache()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype they are stored in."""
        return self._store.dtype

    def rows(self, layer: str, selection: Selection, variant: str = "raw") -> Tensor:
        """float32 [n, width]: as stored, or with their mean removed where `variant` is "centered".

        Raises:
            NonFiniteError: an item's state holds NaN or infinity.
        """
        if variant == "raw":
            return self.cached((layer, selection), lambda: self._read(layer, selection))
        return self.cached((layer, selection, variant), lambda: self._centered(layer, selection))

    def mean(self, layer: str, selection: Selection) -> Tensor:
        """float64 [width]."""

        def make() -> Tensor:
            return blocks.sum_blocks(lambda block: block.sum(0), self.blocks(layer, selection)) / len(selection)

        return self.cached(("mean", layer, selection), make)

    def blocks(self, layer: str, selection: Selection, variant: str = "raw") -> Iterator[Tensor]:
        """The same rows as `rows`, in float64 pieces [b, width] that are centered in float64."""
        for start in range(0, len(selection), self._step):
            make = partial(self._block, layer, selection, variant, start)
            yield self.once(("block", layer, selection, variant), selection, make)

    def units(self, layer: str, selection: Selection, variant: str = "raw") -> Iterator[Tensor]:
        """The unit rows of `blocks`, float64 [b, width]."""
        for block in self.blocks(layer, selection, variant):
            yield self.once(("unit", layer, selection, variant), selection, partial(unit_rows, block))

    def unit_sum(self, layer: str, selection: Selection, variant: str = "raw") -> Tensor:
        """The sum of the unit rows, float64 [width]."""
        return self.cached(
            ("unit sum", layer, selection, variant),
            lambda: blocks.sum_blocks(lambda unit: unit.sum(0), self.units(layer, selection, variant)),
        )

    def pieces(self, values: Tensor) -> tuple[Tensor, ...]:
        """What belongs to each of `blocks`, of values [n] of a selection's items."""
        return torch.split(values, self._step)

    def once(self, key: Hashable, selection: Selection, make: Callable[[], T]) -> T:
        """What `make` makes of a block: kept where it is the selection's only one, else made anew each time."""
        return self.cached(key, make) if len(selection) <= self._step else make()

    @property
    def _step(self) -> int:
        return max(1, BLOCK // self._store.width)

    def _block(self, layer: str, selection: Selection, variant: str, start: int) -> Tensor:
        block = self.rows(layer, selection)[start : start + self._step].to(torch.float64)
        return block - self.mean(layer, selection) if variant == "centered" else block

    def _read(self, layer: str, selection: Selection) -> Tensor:
        if self._pooling == WEIGHTED:
            rows = weighted_means(self._store, layer, selection)
        else:
            rows = self._store.hidden(layer, self._pooling).take(selection.positions).to(torch.float32)
        finite = torch.isfinite(rows).all(1)
        if not bool(finite.all()):
            position = int(selection.positions[int(torch.nonzero(~finite)[0])])
            raise NonFiniteError(
                f"item {self._store.items['id'][position].as_py()!r} (position {position}) of {self._store.path} "
                f"holds NaN or infinity at layer {layer}; `hubstore verify` tells whether the store is whole"
            )
        return rows.to(self.device)

    def _centered(self, layer: str, selection: Selection) -> Tensor:
        return blocks.concat_blocks(lambda block: block.to(torch.float32), self.blocks(layer, selection, "centered"))


def weighted_means(store: StoreReader, layer: str, selection: Selection) -> Tensor:
    """float32 [n, width]: the mean of each item's token states, the i-th of which counts i times.

    Later tokens of a causal model have seen more of the text (Muennighoff, 2022; MEXA, Kargaran et al., 2024).
    """
    hidden, ranges = store.hidden(layer, "tokens"), store.token_ranges()[selection.positions]
    means = []
    for start, stop in ranges.tolist():
        weights = torch.arange(1, stop - start + 1, dtype=torch.float64)
        means.append((weights / weights.sum()) @ hidden.read(start, stop).to(torch.float64))
    return torch.stack(means).to(torch.float32)


def item_pooling(store: StoreReader, pooling: str | None) -> str:
    """`pooling`, or the store's first that has one row per item; "weighted" of a store that keeps every token.

    Raises:
        QueryError: the store does not keep it.
        AnalysisError: it has a row for each token.
    """
    whole = [name for name in store.poolings if name != "tokens"]
    if pooling == WEIGHTED and "tokens" in store.poolings:
        return WEIGHTED
    if pooling is None and whole:
        return whole[0]
    if pooling is None or pooling == "tokens":
        raise AnalysisError(
            f"analyses compare items, and pooling 'tokens' of {store.path} has a row for each token; "
            f"use {', '.join([*whole, WEIGHTED])} (weighted: the mean of an item's tokens, the i-th counted i times)"
        )
    return store.pooling_name(pooling)
