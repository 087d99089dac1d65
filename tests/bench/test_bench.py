"""`hubstore bench` measures hubstore beside a ceiling of the same machine, and leaves nothing behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hubstore.bench import ceilings, extract, states, store
from hubstore.bench.figure import HUBSTORE, figure
from hubstore.bench.timing import Sample, device_seconds
from hubstore.cli import app
from hubstore.store import StoreReader, verify
from tests.command_line import fail, typed
from tests.tiny_models import save_tiny_model

CPU = torch.device("cpu")
SMALL = {
    "search": ["--rows", "3000", "--width", "32", "--queries", "20", "--device", "cpu"],
    "store": ["--rows", "9000", "--width", "7", "--layers", "2", "--taken", "50"],
    "lens": ["--states", "20", "--width", "32", "--vocabulary", "300", "--device", "cpu"],
    "extract": ["--lines", "1", "--device", "cpu"],
}


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("store", "--layers", "99999999999999999999"),
        ("store", "--taken", "99999999999999999999"),
        ("search", "--rows", "2000000000", "--device", "cpu"),
        ("search", "-k", "99999999999999999999", "--rows", "9", "--device", "cpu"),
        ("lens", "--vocabulary", "10000000000", "--device", "cpu"),
    ],
    ids=" ".join,
)
def test_sizes_that_no_memory_holds_are_one_line_before_anything_is_made(arguments):
    assert "GB of memory, and" in fail("bench", *arguments)


@pytest.mark.parametrize("what", SMALL)
def test_every_figure_has_its_unit_runs_spread_and_share_of_a_ceiling_and_leaves_nothing_behind(
    what, tmp_path, monkeypatch
):
    monkeypatch.setattr(extract, "SMALL", extract.TINY)
    monkeypatch.setattr(extract, "VOCABULARY", 500)
    scratch = ["--scratch", str(tmp_path)] if what in ("store", "extract") else []
    report = json.loads(run(what, *SMALL[what], *scratch, "--runs", "2", "--json"))
    assert report["of"] == what
    assert report["machine"]["device"].startswith("CPU")
    assert report["settings"]
    assert report["figures"]
    for one in report["figures"]:
        assert one["unit"]
        assert one["runs"] == 2
        assert one["spread"][0] <= one["value"] <= one["spread"][1]
        assert one["ceiling"]
        assert one["ceiling_value"] > 0
        assert one["share"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("what", "dtype"), [("search", "float32"), ("lens", "float16"), ("store", "bfloat16")])
def test_the_table_of_another_dtype_than_the_usual_says_the_share_of_the_ceiling(what, dtype, monkeypatch):
    monkeypatch.setattr("hubstore.cli.output.out.width", 200, raising=False)
    text = run(what, *SMALL[what], "--dtype", dtype, "--runs", "1")
    assert f"{what} on CPU" in text
    assert dtype in text
    assert "%" in text


def test_a_model_of_one_s_own_is_measured(tmp_path):
    folder = save_tiny_model("bert", tmp_path / "tiny")
    report = json.loads(run("extract", "--model", str(folder), *SMALL["extract"], "--runs", "1", "--json"))
    assert report["settings"]["model"] == "tiny"
    assert report["settings"]["sentences"] == 14
    per_sentence = report["settings"]["tokens"] / 14
    sentences, tokens = report["figures"]
    assert tokens["value"] == pytest.approx(sentences["value"] * per_sentence)


def test_a_gpu_that_is_not_there_is_an_error_of_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, said = typed("bench", "search", "--device", "cuda")
    assert (status, said.count("\n")) == (1, 1)
    assert "no CUDA device; use --device cpu" in said


def test_a_share_is_of_speed_whether_speeds_or_times_were_measured():
    samples = {HUBSTORE: Sample((2.0, 4.0, 6.0)), "best": Sample((4.0, 8.0, 12.0))}
    assert figure("x", "GB/s", samples, "best").share == 0.5
    assert figure("x", "ms", samples, "best", better="lower").share == 2.0
    scaled = figure("x", "ms", samples, "best", better="lower", scale=1e3)
    assert (scaled.value, scaled.spread, scaled.ceiling_value, scaled.runs) == (4000, (2000, 6000), 8000, 3)


def test_unit_states_have_norm_1_and_are_the_same_for_the_same_seed():
    made = states.unit_states(100, 48, dtype=torch.float32, device=CPU, seed=3)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(100))
    assert torch.equal(made, states.unit_states(100, 48, dtype=torch.float32, device=CPU, seed=3))
    assert not torch.equal(made, states.unit_states(100, 48, dtype=torch.float32, device=CPU, seed=4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cosines_of_near_parallel_states_lie_near_1_and_no_two_rows_are_equal(dtype):
    made = states.near_parallel_states(200, 64, dtype=dtype, device=CPU)
    assert made.isfinite().all()
    assert len(made.unique(dim=0)) == 200
    unit = torch.nn.functional.normalize(made.double(), dim=1)
    assert (unit @ unit.T).min() > 0.999


def test_ceilings_are_positive_rates():
    assert ceilings.copying(CPU, 1 << 16)() > 0
    assert ceilings.reading(torch.ones(3, 5, dtype=torch.float16))() > 0
    assert ceilings.multiplying(8, 8, 8, dtype=torch.float32, device=CPU)() > 0
    assert ceilings.fastest_dtype(CPU, 64) in (torch.float32, torch.bfloat16)
    assert device_seconds(lambda: None, CPU) >= 0


def test_the_store_that_is_measured_is_a_whole_store_and_the_raw_file_has_its_bytes(tmp_path):
    sizes = store.StoreSizes(rows=9000, width=5, layers=2)
    shards, items = store.made_up(sizes)
    store.write_store(tmp_path / "x.hub", sizes.layout, shards, items)
    opened = StoreReader(tmp_path / "x.hub")
    assert len(opened) == 9000
    assert verify(opened.storage) == []
    store.append_raw(tmp_path / "raw", shards)
    assert (tmp_path / "raw/raw").stat().st_size == sizes.nbytes
    assert torch.equal(opened.hidden(1).read(), torch.cat([shard[1] for shard in shards]))


def test_the_total_counts_every_byte():
    data = np.arange(21, dtype=np.uint8)
    changed = data.copy()
    changed[-1] += 1
    assert store.total([data]) != store.total([changed])
    assert store.total([data[:8], data[8:16]]) == store.total([data[:16]])
