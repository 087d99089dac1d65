"""The benchmark of small models runs quickly on the CPU, and keeps what it found."""

from __future__ import annotations

import json

from benchmarks import gpu_texts


def test_hubstore_is_compared_with_the_forward_and_the_tokenizer(tmp_path, capsys):
    out = tmp_path / "m.json"
    arguments = ["e5", "--quick", "--runs", "1", "--items", "200", "--processes", "2", "--tokenizers", str(tmp_path)]
    assert gpu_texts.main([*arguments, "--device", "cpu", "--out", str(out)]) == 0
    (suite,) = json.loads(out.read_text())["suites"].values()
    (result,) = suite["results"]
    assert result["against"] == "limit"
    assert result["peers"]["limit"] == min(result["peers"]["bare forward"], result["peers"]["tokenizer alone"])
    assert "tokenizer alone, 2 processes" in capsys.readouterr().out
