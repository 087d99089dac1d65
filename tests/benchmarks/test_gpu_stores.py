"""The benchmark of stores runs quickly on the CPU, and keeps what it found."""

from __future__ import annotations

import json

from benchmarks import gpu_stores


def test_several_poolings_and_token_stores_are_compared_with_their_ceilings(tmp_path):
    out = tmp_path / "m.json"
    assert gpu_stores.main(["--quick", "--runs", "1", "--device", "cpu", "--out", str(out)]) == 0
    (suite,) = json.loads(out.read_text())["suites"].values()
    assert [result["against"] for result in suite["results"]][:3] == ["mean alone", "mean alone", "forward as far"]
    assert suite["results"][3]["against"] in ("raw append, 8 streams", "raw append, 16 streams")
    assert all(result["value"] > 0 and result["ratio"] > 0 for result in suite["results"])
