"""Each analysis gives on a GPU what it gives on the CPU."""

from __future__ import annotations

import itertools

import pytest
import torch

from hubstore import analysis
from tests.analysis.test_devices import agree
from tests.analysis.test_similarity import related
from tests.devices import DEVICES, ON_GPU, on_devices
from tests.memory_store import parallel

SIZES = [(40, 64), (700, 96)]


@pytest.mark.parametrize(
    ("name", "dtype", "size", "device"),
    on_devices(
        itertools.product(analysis.ANALYSES, [torch.float32, torch.bfloat16], SIZES),
        cpu=((name, torch.float32, SIZES[0]) for name in analysis.ANALYSES),
    ),
)
def test_an_analysis_gives_on_every_gpu_what_it_gives_on_the_cpu(name, dtype, size, device):
    n, width = size
    states = {layer: rows.to(dtype) for layer, rows in related(languages=3, n=n, width=width).items()}
    expected = analysis.analyze(parallel("abc", states), [name], bootstrap=100, device="cpu")[name]
    for place in ["cpu"] if device == "cpu" else [f"cuda:{number}" for number in range(torch.cuda.device_count())]:
        found = analysis.analyze(parallel("abc", states), [name], bootstrap=100, device=place)[name]
        agree(found, expected, ranks=0.0 if name == "similarity" else 3 / n)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=ON_GPU)])
def test_auto_is_the_gpu(device):
    states = related(n=200, width=64)
    torch.cuda.reset_peak_memory_stats()
    analysis.analyze(parallel("ab", states), ["retrieval"], bootstrap=0)
    assert torch.cuda.max_memory_allocated() >= states["0"].numel() * 4


@pytest.mark.parametrize("device", DEVICES)
def test_cross_layer_alignment_agrees(device):
    states = related(n=100, width=64)
    tables = [
        analysis.alignment(parallel("ab", states), [("a", "b")], cross_layers=True, device=place)
        for place in (device, "cpu")
    ]
    agree(*tables, ranks=0.03)
