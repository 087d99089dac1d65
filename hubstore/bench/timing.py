"""Side by side: tasks take turns, A B C A B C, so that what the machine does meanwhile falls on all of them."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a benchmark pins its threads before torch is imported
    import torch

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


def interleave(tasks: Mapping[str, Task], runs: int, warm: int = 1, *, disk: bool = True) -> dict[str, Sample]:
    """Run every task `runs` times in turn, after `warm` turns that do not count.

    Args:
        tasks: by name.
        runs: turns that count.
        warm: turns before them.
        disk: wait before each task until what others left to be written is on the disk.
    """
    values: dict[str, list[float]] = {name: [] for name in tasks}
    gc.collect()
    gc.freeze()  # what is there already is not looked through again before every task
    try:
        for turn in range(-warm, runs):
            for name, task in tasks.items():
                gc.collect()
                if disk:
                    os.sync()
                value = task()
                if turn >= 0:
                    values[name].append(value)
    finally:
        gc.unfreeze()
    return {name: Sample(tuple(measured)) for name, measured in values.items()}


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def device_seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long `work` takes on a device that was idle before: by CUDA events on a GPU, by the clock elsewhere."""
    if device.type != "cuda":
        return seconds(work)
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3
