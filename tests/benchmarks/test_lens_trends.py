"""The benchmark of language trends runs, compares the same thing, and keeps what it found."""

import json
import os
import subprocess
import sys


def test_a_small_run_agrees_with_the_loop_and_is_kept(tmp_path):
    out = tmp_path / "here.json"
    command = ["benchmarks.lens_trends", "--small", "--texts", "6", "--runs", "1", "--threads", "1", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--scratch", str(tmp_path)],
        check=False, capture_output=True, text=True, env={**os.environ, "HUBSTORE_COMMIT": "abc"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = json.loads(out.read_text())["suites"]["lens_trends"]
    speeds, differences = run["results"][:2], run["results"][2:]
    assert [result["unit"] for result in speeds] == ["texts/s"] * 2
    assert all(result["ratio"] > 0 for result in speeds)
    assert len(differences) == 2
    assert all(result["met"] for result in differences)
    assert [path.name for path in tmp_path.iterdir()] == ["here.json"]
