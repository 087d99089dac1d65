"""The benchmark of opening a store of many commits runs small and keeps what it found."""

from __future__ import annotations

import json

from benchmarks import opening


def test_a_store_of_made_up_commits_opens_sooner_from_its_log(tmp_path):
    out = tmp_path / "m.json"
    opening.main(["--commits", "1100", "--runs", "1", "--work", str(tmp_path), "--out", str(out)])
    results = json.loads(out.read_text())["suites"]["opening"]["results"]
    assert [result["case"].partition(" a store")[0] for result in results] == [
        "open",
        "processor time to open",
        "memory resident at most while opening",
    ]
    assert results[1]["value"] < results[1]["peers"]["without its log"]
