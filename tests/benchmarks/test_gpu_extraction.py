"""The benchmark of extraction on a GPU runs, small and on the CPU, and keeps what it found."""

from __future__ import annotations

import json

import numpy as np

from benchmarks import gpu_extraction


def test_the_comparisons_of_one_device_run_small_and_are_kept(tmp_path, capsys):
    out = tmp_path / "m.json"
    arguments = ["--small", "--runs", "1", "--items", "300", "--pool", "mean,last", "--commit", "abc"]
    assert gpu_extraction.main([*arguments, "--out", str(out)]) == 0
    (suite,) = json.loads(out.read_text())["suites"].values()
    assert suite["commit"] == "abc"
    assert [result["target"] for result in suite["results"]] == [0.97, 0.97, 0.97, 1.25, 35]
    assert all(result["value"] > 0 for result in suite["results"])
    assert set(suite["results"][0]["peers"]) == {"authors' loop", "padded forward", "bare forward"}
    assert "self-check" in capsys.readouterr().out


def test_several_devices_are_compared_with_one(tmp_path):
    out = tmp_path / "m.json"
    arguments = ["--small", "--runs", "1", "--items", "300", "--gpus", "2"]
    assert gpu_extraction.main([*arguments, "--out", str(out)]) == 0
    (suite,) = json.loads(out.read_text())["suites"].values()
    assert suite["results"][0]["against"] == "hubstore on 1"
    assert suite["results"][0]["target"] == 1.9


def test_sentences_have_forty_tokens_on_average():
    texts = gpu_extraction.sentences(2000)
    lengths = [len(ids) for ids in gpu_extraction.sample_tokenizer()(texts)["input_ids"]]
    assert 37 < np.mean(lengths) < 43
    assert np.quantile(lengths, 0.99) > 80
