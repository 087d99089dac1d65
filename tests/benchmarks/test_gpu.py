"""The GPU benchmarks run, small and on the CPU, and what they hold the kernels to is true."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import gpu, gpu_cases, gpu_peers, ground_truth, table
from benchmarks.head_to_head import Bench, contest
from benchmarks.record import Result
from hubstore.bench.states import unit_states
from hubstore.kernels import reference
from tests.interpreter import hasten

CPU = torch.device("cpu")


def states(rows: int, seed: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return unit_states(rows, 16, dtype=dtype, device=CPU, seed=seed)


@pytest.mark.slow
def test_every_case_runs_small_and_is_kept(tmp_path, capsys):
    hasten()
    out = tmp_path / "m.json"
    assert gpu.main(["--small", "--device", "cpu", "--runs", "1", "--commit", "abc", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert list(content["suites"]) == list(gpu_cases.CASES)
    assert {suite["commit"] for suite in content["suites"].values()} == {"abc"}
    for suite in content["suites"].values():
        assert suite["results"]
    (one,) = content["suites"]["one-query"]["results"]
    assert one["recall"] == 1.0
    assert one["peers"]["torch"] > 0
    ranks = [result for result in content["suites"]["match-rank"]["results"] if "share" in result["case"]]
    assert [result["value"] for result in ranks] == [1.0]
    (error,) = (result for result in content["suites"]["lens"]["results"] if result["unit"] == "nats")
    assert error["value"] < 1e-4
    assert "topk_cosine" in {result["work"] for result in content["suites"]["topk"]["results"]}
    assert "| product 256² x 64, bfloat16 |" in table.tables({"m": content})
    assert "failed" not in capsys.readouterr().out


def test_a_case_that_fails_is_told_and_the_others_still_run(monkeypatch, capsys):
    def broken(bench):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu, "CASES", {"broken": (broken,), "ceilings": gpu_cases.CASES["ceilings"]})
    assert gpu.main(["--small", "--device", "cpu", "--runs", "1"]) == 1
    out = capsys.readouterr().out
    assert "failed: broken: RuntimeError: no such kernel" in out
    assert "copy on the device" in out


def test_an_unknown_case_is_refused(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["nothing"])
    assert "the cases are ceilings, topk" in capsys.readouterr().err


def test_a_peer_that_fails_or_is_left_out_is_missing_with_its_reason():
    def broken():
        raise ImportError("not installed")

    peers = {"a": broken, "b": lambda: lambda: 1, "c": lambda: lambda: 2}
    held = contest(Bench(CPU, runs=2, without=frozenset("c")), lambda: 0, peers, lambda seconds: seconds)
    assert held.missing == {"a": "ImportError: not installed", "c": "left out"}
    assert held.outputs == {"hubstore": 0, "b": 1}
    assert {name: len(sample.values) for name, sample in held.samples.items()} == {"hubstore": 2, "b": 2}


def test_targets_hold_for_full_sizes_on_a_gpu():
    assert Bench(torch.device("cuda")).target(5) == 5
    assert Bench(torch.device("cuda"), small=True).target(5) is None
    assert Bench(CPU).target(5) is None


def test_the_true_answers_are_the_reference_s(monkeypatch):
    monkeypatch.setattr(ground_truth, "PIECE", 40)
    queries, rows = states(9, 1), states(95, 0)
    assert torch.equal(ground_truth.nearest(queries, rows, 5), reference.topk_cosine(queries, rows, 5)[1])
    x = states(95, 2)
    ranks = ground_truth.match_ranks(x, rows, 12)
    unit_x, unit_rows = (torch.nn.functional.normalize(part.double(), dim=1) for part in (x, rows))
    scores = unit_x @ unit_rows.T
    assert ranks.tolist() == (scores > scores.diagonal()[:, None]).sum(1)[:12].tolist()
    expected = (queries.double() @ rows.double().T).log_softmax(1)
    torch.testing.assert_close(ground_truth.log_probabilities(queries, rows), expected)


def test_recall_is_the_share_of_the_true_rows_found():
    assert ground_truth.recall(torch.tensor([[1, 2], [9, 4], [0, 0]]), torch.tensor([[2, 1], [3, 4]])) == 0.75


@pytest.mark.parametrize("name", ["torch", "FAISS"])
def test_peers_of_the_search_find_the_nearest(name, monkeypatch):
    monkeypatch.setattr(gpu_peers, "SCORES", 200)
    monkeypatch.setattr(gpu_peers, "QUERIES", 4)
    of = gpu_peers.Searching(states(10, 1, torch.float32), states(170, 0, torch.float32), 3)
    found = gpu_peers.SEARCHES[name](of)()
    assert ground_truth.recall(found, ground_truth.nearest(of.queries, of.rows, 3)) > 0.9


def test_peers_of_the_ranks_and_the_lens_agree_with_float64():
    x, y = states(50, 0), states(50, 1)
    forward, backward = gpu_peers.torch_match_rank(x, y, tile=16)()
    assert (forward - ground_truth.match_ranks(x, y, 50)).abs().max() <= 2
    assert (backward - ground_truth.match_ranks(y, x, 50)).abs().max() <= 2
    targets = torch.randint(50, (50, 2))
    (wanted, ranks, values, tokens), *_ = gpu_peers.torch_lens(x.float(), y.float(), targets, 4)()
    true = ground_truth.log_probabilities(x, y)
    torch.testing.assert_close(wanted, true.gather(1, targets).float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(values, true.gather(1, tokens).float(), atol=1e-5, rtol=0)
    assert ranks.shape == (50, 2)


def test_a_gpu_s_file_and_its_table_are_named_after_it():
    machine = {"gpu": "NVIDIA H200", "gpus": 1, "gpu_memory_gb": 150.1, "driver": "580.1", "cuda": "13.0"}
    host = {"cpu": "Xeon", "cores": 16, "memory_gb": 137.0}
    assert gpu.machine_name(machine) == "nvidia-h200"
    assert gpu.machine_name({**machine, "gpus": 4}) == "nvidia-h200-x-4"
    found = Result(
        "topk_cosine",
        "1M x 1024",
        "TFLOP/s",
        600.0,
        5,
        (590.0, 610.0),
        {"torch": 200.0},
        target=560.0,
        target_of="value",
        recall=0.9995,
        recall_target=0.999,
        peer_recalls={"torch": 0.97},
    )
    suite = {"date": "2026-11-24", "commit": "abc", "versions": {}, "results": [found.to_json()]}
    text = table.tables({"m": {"machine": {**machine, **host}, "suites": {"topk": suite}}})
    assert "On NVIDIA H200 of 150.1 GB, driver 580.1, CUDA 13.0 (Xeon, 16 cores, 137 GB)" in text
    row = "| 1M x 1024, recall 0.9995 | 600 (590 to 610) | TFLOP/s | torch 200 (recall 0.97) |  |"
    assert f"{row} ≥ 560 TFLOP/s, recall ≥ 0.999 met |" in text
