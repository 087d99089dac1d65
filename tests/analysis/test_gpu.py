"""Each analysis gives on a GPU what it gives on the CPU."""

from __future__ import annotations

import pytest
import torch

from hubstore import analysis
from tests.analysis.test_devices import agree
from tests.analysis.test_similarity import related
from tests.memory_store import parallel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(("n", "width"), [(40, 64), (700, 96)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", analysis.ANALYSES)
def test_an_analysis_gives_on_every_gpu_what_it_gives_on_the_cpu(name, dtype, n, width):
    states = {layer: rows.to(dtype) for layer, rows in related(languages=3, n=n, width=width).items()}
    expected = analysis.analyze(parallel("abc", states), [name], bootstrap=100, device="cpu")[name]
    for number in range(torch.cuda.device_count()):
        found = analysis.analyze(parallel("abc", states), [name], bootstrap=100, device=f"cuda:{number}")[name]
        agree(found, expected, ranks=0.0 if name == "similarity" else 3 / n)


def test_auto_is_the_gpu():
    states = related(n=200, width=64)
    torch.cuda.reset_peak_memory_stats()
    analysis.analyze(parallel("ab", states), ["retrieval"], bootstrap=0)
    assert torch.cuda.max_memory_allocated() >= states["0"].numel() * 4


def test_cross_layer_alignment_agrees():
    states = related(n=100, width=64)
    tables = [
        analysis.alignment(parallel("ab", states), [("a", "b")], cross_layers=True, device=device)
        for device in ("cuda", "cpu")
    ]
    agree(*tables, ranks=0.03)
