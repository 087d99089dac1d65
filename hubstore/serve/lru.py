"""A cache that drops what has not been used for longest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def _one(_: object) -> int:
    return 1


class LRUCache(Generic[K, V]):
    """The values used last.

    Args:
        most: what all values may weigh together. One that weighs more than that by itself is not kept.
        weigh: the weight of a value; 1 by default.
    """

    def __init__(self, most: int, weigh: Callable[[V], int] = _one) -> None:
        self._most = most
        self._weigh = weigh
        self._weight = 0
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value of `key`; None where it is not kept."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: K, value: V) -> V:
        """Keep `value` under `key`, and return it."""
        if key in self._values:
            self._weight -= self._weigh(self._values.pop(key))
        weight = self._weigh(value)
        if weight <= self._most:
            self._values[key] = value
            self._weight += weight
        while self._weight > self._most:
            self._weight -= self._weigh(self._values.popitem(last=False)[1])
        return value
