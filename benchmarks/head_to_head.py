"""One piece of work by hubstore and by its peers, in turns on one device; what each found, and what it takes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.record import reason
from hubstore.bench.timing import Sample, device_seconds, interleave

Work = Callable[[], Any]
"""Does the work once, on the current stream of the device."""

MakeReady = Callable[[], Work]
"""Imports a peer and gives it its data, in the form that it wants; raises where it cannot run."""


@dataclass(frozen=True)
class Bench:
    """How all contests of a run are held.

    Args:
        device: where.
        small: small sizes, to see that everything runs; there are no targets then.
        runs: turns that count.
        without: peers to leave out.
    """

    device: torch.device
    small: bool = False
    runs: int = 7
    without: frozenset[str] = frozenset()

    def size(self, full: int, small: int) -> int:
        """One of the two."""
        return small if self.small else full

    def target(self, value: float) -> float | None:
        """`value`, which holds for full sizes on a GPU."""
        return None if self.small or self.device.type != "cuda" else value


@dataclass(frozen=True)
class Contest:
    """What a contest gave.

    Args:
        samples: by contestant, hubstore first.
        outputs: what the first call of each returned.
        missing: peers that could not run, and why.
    """

    samples: Mapping[str, Sample]
    outputs: Mapping[str, Any]
    missing: Mapping[str, str]


def contest(
    bench: Bench,
    hubstore: Work,
    peers: Mapping[str, MakeReady],
    measure: Callable[[float], float],
    *,
    runs: int | None = None,
) -> Contest:
    """Let everyone do it once, unmeasured, then in turns.

    Args:
        bench: how.
        hubstore: its work.
        peers: the others'.
        measure: what is reported of a time in seconds.
        runs: turns, where they are not the bench's.
    """
    works, outputs, missing = {"hubstore": hubstore}, {"hubstore": hubstore()}, {}
    for name, make_ready in peers.items():
        if name in bench.without:
            missing[name] = "left out"
            continue
        try:
            work = make_ready()
            outputs[name] = work()
            _synchronize(bench.device)
        except Exception as error:  # whatever a tool of others breaks with, the rest is still worth measuring
            missing[name] = reason(error)
        else:
            works[name] = work
        free(bench.device)
    tasks = {name: partial(_measured, work, measure, bench.device) for name, work in works.items()}
    samples = interleave(tasks, runs or bench.runs, disk=False)
    return Contest(samples, outputs, missing)


def _measured(work: Work, measure: Callable[[float], float], device: torch.device) -> float:
    return measure(device_seconds(work, device))


def peak_memory(work: Work, device: torch.device) -> int | None:
    """Bytes allocated at once during `work`, beyond what was there before; None where nobody counts them."""
    if device.type != "cuda":
        return None
    free(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    _synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def free(device: torch.device) -> None:
    """Give back what torch keeps for later: FAISS allocates beside it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
