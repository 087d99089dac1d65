"""Benchmarks compare turn by turn, keep what they found, and the README's tables are made of it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest

from benchmarks import experiments, table
from benchmarks.record import ROOT, Result, compare, machine, machine_name, save
from hubstore.bench.timing import Sample, interleave
from tests.tiny_models import save_tiny_language_model


def result(**changes) -> Result:
    samples = {"hubstore": Sample((9.0, 18.0, 28.0)), "bare": Sample((10.0, 20.0, 30.0))}
    return compare("store", "write", "MB/s", samples, **{"against": "bare", "target": 0.9, **changes})


def test_tasks_take_turns_and_warm_turns_do_not_count():
    calls = []

    def task(name):
        return lambda: calls.append(name) or float(len(calls))

    samples = interleave({"a": task("a"), "b": task("b")}, runs=2, warm=1)
    assert calls == ["a", "b"] * 3
    assert samples["a"].values == (3.0, 5.0)
    assert samples["b"].values == (4.0, 6.0)


def test_the_ratio_is_the_median_of_the_turns_and_decides_whether_the_target_is_met():
    found = result()
    assert (found.value, found.spread, found.runs) == (18.0, (9.0, 28.0), 3)
    assert found.ratio == pytest.approx(0.9)
    assert found.ratio_spread == pytest.approx((0.9, 28 / 30))
    assert found.met
    assert not result(target=0.95).met
    assert result(target=2.0, better="lower").met
    assert not result(target=0.5, better="lower").met
    assert result(against=None).met is None


def test_a_target_may_be_of_the_value_and_a_recall_has_its_own():
    assert result(target=18.0, target_of="value").met
    assert not result(target=18.5, target_of="value").met
    assert result(recalls={"hubstore": 0.999, "bare": 0.9}, recall_target=0.999).met
    assert not result(recalls={"hubstore": 0.998}, recall_target=0.999).met
    assert not result(recall_target=0.999).met
    found = result(recalls={"hubstore": 0.5, "bare": 0.25})
    assert (found.recall, found.peer_recalls) == (0.5, {"bare": 0.25})
    assert "| write, recall 0.5 |" in table.suite_table([found])


def test_the_commit_may_be_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HUBSTORE_COMMIT", "abc")
    save(tmp_path / "m.json", machine(tmp_path), "store", 1.0, [result()])
    save(tmp_path / "m.json", machine(tmp_path), "index", 1.0, [result()], measured="def")
    suites = json.loads((tmp_path / "m.json").read_text())["suites"]
    assert {name: suite["commit"] for name, suite in suites.items()} == {"store": "abc", "index": "def"}


def test_a_peer_that_did_not_run_is_kept_as_null_with_the_reason():
    found = result(missing={"nnsight": "ImportError: not installed"})
    assert found.to_json()["peers"] == {"bare": 20.0, "nnsight": None}
    assert "nnsight did not run: ImportError: not installed" in found.notes
    assert "nnsight did not run" in table.suite_table([found])


def test_a_suite_run_again_replaces_its_own_results_and_no_others(tmp_path):
    path, here = tmp_path / "m.json", machine(tmp_path, 0)
    save(path, here, "store", 1.0, [result()])
    save(path, here, "index", 1.0, [result(target=None)])
    save(path, here, "store", 2.0, [result(), result()])
    suites = json.loads(path.read_text())["suites"]
    assert {name: len(suite["results"]) for name, suite in suites.items()} == {"store": 2, "index": 1}
    assert suites["store"]["seconds"] == 2.0
    kept = Result.from_json(suites["store"]["results"][0])
    assert kept.met
    assert kept.to_json() == result().to_json()


def test_a_machine_s_file_name_is_its_cpu_and_cores():
    assert machine_name({"cpu": "AMD EPYC (Zen 4)", "cores": 2}) == "amd-epyc-zen-4-2-cores"


@pytest.fixture
def pages(tmp_path):
    """The pages that have tables, each with a place for its own and something around it."""
    for name, place in table.PLACES.items():
        page = tmp_path / place
        page.parent.mkdir(parents=True, exist_ok=True)
        above = page.read_text() if page.exists() else "# Name\n\n"
        page.write_text(f"{above}<!-- {name}:begin -->\nold\n<!-- {name}:end -->\n\nafter\n")
    return tmp_path


def test_check_holds_the_pages_to_the_results(pages, capsys):
    results = pages / "results"
    save(results / "m.json", machine(pages, 0), "store", 1.0, [result()])
    model = dataclasses.replace(result(), case="model: exact")
    save(results / table.SCALING / "m.json", machine(pages, 0), "scale", 1.0, [model])
    assert table.main(["--check"], pages, results) == 1
    assert table.main(["--write"], pages, results) == 0
    assert table.main(["--check"], pages, results) == 0
    text = {name: (pages / place).read_text() for name, place in table.PLACES.items()}
    for page in text.values():
        assert page.startswith("# Name\n")
        assert page.endswith("\n\nafter\n")
        assert "old" not in page
    row = "| write | 18.0 (9.00 to 28.0) | MB/s | bare 20.0 (x 0.90) | 0.90 of bare | ≥ 0.9 met |"
    assert row in text["benchmarks"]
    assert "| model: exact | 18.0" in text["scaling"]
    assert "**scale**" not in text["benchmarks"]
    assert "**store**" not in text["scaling"]
    save(results / "m.json", machine(pages, 0), "store", 1.0, [result(target=0.99)])
    assert table.main(["--check"], pages, results) == 1
    (pages / table.PLACES[table.SUMMARY]).write_text("# Name\n\nno place\n")
    assert table.main(["--check"], pages, results) == 1
    assert "README.md: there is no place for the tables" in capsys.readouterr().err


def test_the_summary_shows_the_headlines_that_were_measured_and_leaves_out_the_others(tmp_path, monkeypatch):
    save(tmp_path / "m.json", machine(tmp_path, 0), "store", 1.0, [result()])
    files = {"m": json.loads((tmp_path / "m.json").read_text())}
    monkeypatch.setattr(table, "HEADLINES", (("m", "store", "wri", "bare"), ("m", "other", "wri", "bare")))
    shown = table.summary_table(files).splitlines()
    assert shown[2:] == [next(line for line in shown if line.startswith("| write |"))]
    assert shown[2].endswith("| 18.0 MB/s | 0.90 of bare |")


def test_experiments_are_recorded_and_shown_with_their_verdicts(tmp_path, capsys):
    folder = save_tiny_language_model("llama", tmp_path / "tiny")
    arguments = ["--model", str(folder), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert experiments.main([*arguments, "--limit", "12", "--device", "cpu", "--only", "arithmetic-similarity"]) == 0
    record = json.loads((tmp_path / "out/tiny.json").read_text())
    (line,) = record["experiments"]
    assert line["shown"] == (line["verdict"] == "yes")
    shown = table.experiment_tables({"tiny": record})
    assert f"| {table._verdict(line)} | {line['figure']}; {table.MIDDLE}" in shown
    for control in line["controls"]:
        assert f"| {table.LED[control['verdicts'][0]]}: {control['words'][0]} |" in shown
    assert f"{int(line['shown'])} of 1 claims shown" in shown
    assert (tmp_path / "out/tiny-arithmetic-similarity.png").read_bytes()[:4] == b"\x89PNG"
    failed = {**line, "shown": None, "verdict": None, "figure": None, "n": None, "error": "no | head", "notes": []}
    failed["controls"] = []
    shown = table.experiment_tables({"tiny": {**record, "experiments": [line, failed]}})
    assert r"| not done | no \| head |  |" in shown
    assert "of 1 claims shown" in shown
    unled = {key: value for key, value in {**line, "shown": True}.items() if key != "controls"}
    shown = table.experiment_tables({"tiny": {**record, "experiments": [line, unled]}})
    assert "claims shown, 1 of them by the first edition's rules and without controls." in shown


def test_a_verdict_that_changed_says_why():
    led = {"name": "random weights", "verdicts": ["yes"], "words": ["0"]}
    not_led = {"name": "shuffled states", "verdicts": ["no"], "words": ["as much"]}
    first = {"shown": True}
    line = {"shown": False, "verdict": "no", "before": experiments._before(first), "controls": [not_led, led]}
    assert table._changed(line) == " (was yes; shuffled states **not led**)"
    assert table._changed({**line, "controls": [led]}) == " (was yes; by the test of all layers)"
    assert table._changed({**line, "before": "no"}) == ""
    assert table._changed(first) == " (first edition, no controls)"
    assert table._control(line, "shuffled states") == "**not led**: as much"
    assert experiments._before(line) == "yes"
    assert experiments._before({"shown": None}) is None


PRINTED = {5.037: "5.04", 61.24: "61.2", 1234.5: "1,230", 99.96: "100", 0.5: "0.50", 3.14e-5: "3.1e-05", 0.0: "0.00"}


@pytest.mark.parametrize("value", PRINTED)
def test_numbers_are_printed_with_three_digits(value):
    assert table.number(value) == PRINTED[value]


def test_a_pinned_process_and_its_children_have_one_cpu_and_one_thread():
    code = (
        "from benchmarks.pinning import pin; cpu = pin(); import os, torch; "
        "assert os.sched_getaffinity(0) == {cpu}; assert torch.get_num_threads() == 1"
    )
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


def test_a_suite_may_be_pinned_to_two_cpus_after_another_had_one():
    code = (
        "import os; cpus = sorted(os.sched_getaffinity(0)); from benchmarks.pinning import pin; pin(); pin(2); "
        "assert sorted(os.sched_getaffinity(0)) == cpus[-2:]; assert os.environ['OMP_NUM_THREADS'] == '2'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_suites_run_small_and_every_reader_agrees(tmp_path):
    out, suites = tmp_path / "m.json", ("store", "index", "kernels_cpu")
    command = [sys.executable, "-m", "benchmarks.cpu", *suites, "--small", "--scratch", tmp_path, "--out", out]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for suite in suites:
        results = json.loads(out.read_text())["suites"][suite]["results"]
        assert len(results) >= 3
        assert all(result["runs"] and result["ratio"] > 0 for result in results)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_imports_nothing_of_the_tests(path):
    assert not re.findall(r"^ *(?:from|import) tests\b", path.read_text(), re.MULTILINE)
