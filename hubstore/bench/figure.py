"""A measured figure beside the ceiling that it is a share of, and what all figures of a run hold for."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from hubstore.bench.timing import Sample

HUBSTORE = "hubstore"


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Args:
        work: what was done, with its sizes.
        value: hubstore's median.
        unit: of `value`, `spread` and `ceiling_value`.
        spread: hubstore's least and greatest.
        runs: measurements behind the median.
        ceiling: what the machine was asked to do beside it.
        ceiling_value: its median, measured in the same turns.
        share: of the ceiling's speed, the median over the turns; 1 is as fast.
    """

    work: str
    value: float
    unit: str
    spread: tuple[float, float]
    runs: int
    ceiling: str
    ceiling_value: float
    share: float


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Args:
        of: what was measured: search, store, lens or extract.
        machine: the device and the versions that the figures hold for.
        settings: the sizes.
        figures: the measurements.
        notes: what else a reader must know.
    """

    of: str
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def figure(
    work: str,
    unit: str,
    samples: Mapping[str, Sample],
    ceiling: str,
    *,
    better: Literal["higher", "lower"] = "higher",
    scale: float = 1.0,
) -> Figure:
    """A figure of interleaved samples.

    Args:
        work: what was done.
        unit: of the samples, scaled.
        samples: by name; `HUBSTORE` and the ceiling among them.
        ceiling: which sample to compare with.
        better: whether the samples are speeds or times.
        scale: by which to multiply all of them.
    """
    own, best = (Sample(tuple(scale * value for value in samples[name].values)) for name in (HUBSTORE, ceiling))
    share = own.over(best) if better == "higher" else best.over(own)
    return Figure(work, own.median, unit, own.spread, len(own.values), ceiling, best.median, share.median)


def machine_of(device: torch.device) -> dict[str, Any]:
    """What figures measured on `device` hold for."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads",
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
