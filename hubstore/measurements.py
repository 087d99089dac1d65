"""Numbers that were measured on this machine, kept in the user's cache so that they are not measured every time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from hubstore.files import put

Measure = Callable[[], float]


class MeasurementCache:
    """Numbers by name under one key; a cache that cannot be read or written is no loss.

    Args:
        key: JSON-able; what the numbers hold for: `machine`, and whatever else they depend on.
        refresh: forget what is kept.
    """

    def __init__(self, key: Mapping[str, Any], *, refresh: bool = False) -> None:
        written = json.dumps(key, sort_keys=True, default=str)
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hubstore/speed"
        self._path = folder / f"{hashlib.sha256(written.encode()).hexdigest()[:32]}.json"
        self._key = json.loads(written)
        self._values: dict[str, float] = {}
        if not refresh:
            with contextlib.suppress(OSError, ValueError, KeyError):
                self._values = json.loads(self._path.read_text())["values"]

    def value(self, name: str, measure: Measure) -> float:
        """What is kept, or what is measured now, which then is."""
        if name not in self._values:
            self._values[name] = measure()
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                put(self._path, json.dumps({"of": self._key, "values": self._values}, indent=2).encode())
        return self._values[name]


def machine() -> dict[str, Any]:
    """What a measurement holds for: this host, its processor, torch and its threads."""
    return {
        "host": platform.node(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
