"""Side by side: tasks take turns, A B C A B C, so that what the machine does meanwhile falls on all of them."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Task = Callable[[], float]
"""Does its work once and returns what was measured, in the unit of the comparison."""


@dataclass(frozen=True)
class Sample:
    """One task's measurements, one for each turn."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle measurement."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest."""
        return min(self.values), max(self.values)

    def over(self, other: Sample) -> Sample:
        """Ratios turn by turn: what slows both tasks of a turn cancels."""
        return Sample(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))


def interleave(tasks: Mapping[str, Task], runs: int, warm: int = 1) -> dict[str, Sample]:
    """Run every task `runs` times in turn, after `warm` turns that do not count."""
    values: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(-warm, runs):
        for name, task in tasks.items():
            gc.collect()
            os.sync()  # nobody pays for what another task left to be written
            value = task()
            if turn >= 0:
                values[name].append(value)
    return {name: Sample(tuple(measured)) for name, measured in values.items()}


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
