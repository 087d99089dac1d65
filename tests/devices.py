"""Devices that a test runs on: a GPU where there is one, and the CPU, so that a test that rots fails everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=ON_GPU)]


def on_devices(cases: Iterable[tuple[Any, ...]], *, cpu: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Parameters (*case, device): all cases on a GPU, and the few of `cpu` on the CPU."""
    return [*((*case, "cpu") for case in cpu), *(pytest.param(*case, "cuda", marks=ON_GPU) for case in cases)]
