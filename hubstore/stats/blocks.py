"""Sums over fixed blocks of rows: the same to the last digit however many threads or processes share the work.

Blocks have a fixed number of rows and begin with a selection's first, wherever the store lies. Each is worked on by
one thread alone, and what it gives is joined in the order of the blocks. How a layer is cut depends on nothing else,
and layers know nothing of one another, so that a layer is the part that a process is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from hubstore.kernels.cpu.threads import in_threads

T = TypeVar("T")
CPU = torch.device("cpu")


def map_blocks(work: Callable[..., T], *blocks: Iterable[Any]) -> list[T]:
    """`work` of each block, or of the blocks of several iterables side by side, in their order.

    On a CPU as many threads as torch has take the blocks, each with one torch thread; on a GPU they queue up there.
    """
    drawn = iter(zip(*blocks, strict=True))
    first = next(drawn, None)
    if first is None:
        return []
    tasks = chain([first], drawn)
    if getattr(first[0], "device", CPU).type != "cpu":
        return [work(*task) for task in tasks]
    found: dict[int, T] = {}

    def run(task: tuple[int, tuple[Any, ...]]) -> None:
        number, arguments = task
        found[number] = work(*arguments)

    in_threads(run, enumerate(tasks))
    return [found[number] for number in range(len(found))]


def sum_blocks(work: Callable[..., Tensor], *blocks: Iterable[Any]) -> Tensor:
    """The sum of the `map_blocks`, one after the other."""
    first, *others = map_blocks(work, *blocks)
    total = first.clone()
    for other in others:
        total += other
    return total


def concat_blocks(work: Callable[..., Tensor], *blocks: Iterable[Any]) -> Tensor:
    """The `map_blocks`, one below the other."""
    return torch.cat(map_blocks(work, *blocks))


def mean(values: Tensor) -> float:
    """Of float64 [n], added up in one order: numpy does so on one thread."""
    return float(values.cpu().numpy().mean())
