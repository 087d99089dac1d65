"""The command line, as a newcomer types it: every verb on a small real store, and errors of one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import hubstore
from hubstore.cli import app
from tests.command_line import fail
from tests.tiny_models import SAMPLE, save_tiny_model

runner = CliRunner()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model("llama", tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def store(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("stores") / "x.hub"
    parallel = [f"{tag}={SAMPLE / f'{tag}.txt'}" for tag in ("en", "es", "ar")]
    run("extract", "--parallel", *parallel, "--model", model, "--out", path, "--limit", 20, "--pooling", "mean,last")
    return path


def run(*arguments, code=0):
    result = runner.invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if code == 0 and result.exception:
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def test_help_and_info_load_no_library_of_models(store):
    script = (
        "import sys; from hubstore.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "print(*{'numpy', 'pyarrow', 'torch', 'transformers', 'zarr', 'pandas', 'faiss', 'numba'} & {*sys.modules})"
    )
    for arguments, loaded in ((["--help"], set()), (["info", str(store)], {"numpy", "pyarrow"})):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
        assert {*done.stdout.splitlines()[-1].split()} == loaded, arguments


def test_an_id_is_looked_for_without_the_library_of_models(store):
    script = (
        "import sys; from hubstore.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "print({'transformers', 'datasets', 'hubstore.extraction.pipeline'} & {*sys.modules})"
    )
    arguments = ["query", str(store), "--id", "en:3", "--layer", "2"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_extract_from_parallel_files_says_what_it_did_and_what_to_type_next(tmp_path, model):
    parallel = [f"{tag}={SAMPLE / f'{tag}.txt'}" for tag in ("en", "zh-Hans")]
    path = tmp_path / f"my {'long ' * 30}x.hub"
    out = run("extract", "--parallel", *parallel, "-m", model, "-o", path, "--limit", 10)
    assert re.search(r"apart from that: loading the model .* s, planning .* s, self-check .* s", out)
    assert "20 items x 4 layers x 32 (float16), pooling mean" in out
    assert f"next: hubstore index '{path}'; hubstore query '{path}' --id ID; hubstore report '{path}'\n" in out
    again = run("extract", "--parallel", *parallel, "-m", model, "-o", path, "--limit", 10)
    assert "is complete already: 20 items" in again


def test_extract_from_a_table_with_a_column_for_each_language(tmp_path, model):
    (tmp_path / "t.csv").write_text("german,english\nHallo Welt,hello world\nein Satz,a sentence\n")
    columns = ("--text-column", "de=german", "--text-column", "en=english")
    out = run("extract", tmp_path / "t.csv", *columns, "-m", model, "-o", tmp_path / "x.hub", "--json")
    assert min(json.loads(out)["stages"][stage] for stage in ("loading", "planning", "checking")) > 0
    assert json.loads(out)["partitions"] == {"de": 2, "en": 2}


def test_extract_from_several_tables_as_they_are_written_says_how_many_rows_it_read(tmp_path, model):
    (tmp_path / "a.csv").write_text('id;text\n001;"Stop\n002;a" line\n')
    (tmp_path / "b.csv").write_text("id;text\n003;c\n004;\n")
    files = (tmp_path / "a.csv", tmp_path / "b.csv", "--language-tag", "en", "-m", model, "-o", tmp_path / "x.hub")
    assert "give one character" in fail("extract", *files, "--delimiter", ";;")
    assert "a.csv, row 1: " in fail("extract", *files, "--delimiter", ";")
    options = ("--delimiter", ";", "--no-quotes", "--on-error", "skip")
    out = run("extract", *files, *options)
    assert "4 rows read from a.csv and 1 more" in out
    assert "1 rows were skipped" in out
    assert hubstore.open(tmp_path / "x.hub").items["id"].to_pylist() == ["001", "002", "003"]
    (tmp_path / "c.tsv").write_text('id\ttext\n005\t"d\n')
    out = run("append", tmp_path / "x.hub", tmp_path / "c.tsv", "--no-quotes", "--language-tag", "en", "--json")
    assert (json.loads(out)["rows_read"], json.loads(out)["items"]) == (1, 4)


def test_append_index_and_query_see_the_new_items(tmp_path, model):
    path = tmp_path / "x.hub"
    run("extract", "sample:ntrex", "-m", model, "-o", path, "--limit", 3)
    run("index", path)
    (tmp_path / "more.jsonl").write_text(
        json.dumps({"id": "new", "text": "A new sentence.", "language": "en", "concept": "new"}) + "\n"
    )
    assert json.loads(run("append", path, tmp_path / "more.jsonl", "--json"))["items"] == 43
    indexed = json.loads(run("index", path, "--json"))
    assert {one["rows"] for one in indexed} == {43}
    hits = json.loads(run("query", path, "--text", "A new sentence.", "--layer", "-1", "-k", 1, "--json"))
    assert hits[0]["id"] == "new"
    assert hits[0]["score"] > 0.999


def test_query_by_id_excludes_the_item_and_its_language(store):
    hits = json.loads(run("query", store, "--id", "en:3", "--exclude-same-language", "-k", 5, "--json"))
    assert {hit["layer"] for hit in hits} == {"0", "1", "2", "3"}
    assert len(hits) == 20
    assert {hit["language"] for hit in hits} <= {"es", "ar"}
    table = run("query", store, "--id", "en:3", "--layer", 2, "-k", 2)
    assert "en:3, layer 2" in table


def test_query_by_text_finds_the_text_itself_first_at_every_layer(store):
    text = hubstore.open(store).items["text"][30].as_py()
    hits = json.loads(run("query", store, "--text", text, "-k", 1, "--json"))
    assert [hit["id"] for hit in hits] == [hubstore.open(store).items["id"][30].as_py()] * 4


def test_query_by_vector(store, tmp_path):
    np.save(tmp_path / "v.npy", hubstore.open(store).hidden(2).take([7]).float().numpy())
    hits = json.loads(run("query", store, "--vector", tmp_path / "v.npy", "--layer", 2, "-k", 1, "--json"))
    assert hits[0]["id"] == hubstore.open(store).items["id"][7].as_py()


def test_analyze_prints_tables_and_json_with_what_it_was_made_from(store):
    out = run("analyze", store, "similarity", "--pair", "en:es", "--bootstrap", 50, "--device", "cpu")
    assert "similarity, centered: one comparison, 95 % interval" in out
    found = json.loads(run("analyze", store, "--pivot", "en", "--bootstrap", 20, "--json"))
    assert set(found) == {"similarity", "retrieval", "clustering", "alignment", "geometry"}
    assert found["retrieval"]["made_from"]["parameters"]["seed"] == 0
    assert {row["layer"] for row in found["retrieval"]["rows"]} == {"0", "1", "2", "3"}


def test_project_prints_the_variance_shown_and_keeps_the_map(store):
    out = run("projection", store, "--layers", "0,-1", "--points", 30, "--device", "cpu")
    assert "30 of 60 items: variance shown" in out
    kept = pq.read_table(out.splitlines()[-1].strip())
    assert kept.num_rows == 60
    found = json.loads(run("projection", store, "--layers", "0,-1", "--points", 30, "--language", "en", "--json"))
    assert found["made_from"]["items"] == 20
    assert {row["language"] for row in found["rows"]} == {"en"}
    assert "choose from pca, umap" in fail("projection", store, "--method", "tsne")


def test_report_info_and_verify(store, tmp_path):
    page = run("report", store, "--pair", "en:es", "--bootstrap", 20, "--out", tmp_path / "report").strip()
    assert page.endswith("report.html")
    facts = json.loads(run("info", store, "--json"))
    assert facts["items"] == 60
    assert facts["complete"]
    assert "60 in 1 shard, complete" in run("info", store)
    assert "are as they were written" in run("verify", store)


def test_verify_names_a_flipped_byte_and_exits_with_1(tmp_path, model):
    run("extract", "sample:ntrex", "-m", model, "-o", tmp_path / "x.hub", "--limit", 2)
    target = tmp_path / "x.hub/hidden/mean/2/c/0/0"
    data = bytearray(target.read_bytes())
    data[100] ^= 4
    target.write_bytes(data)
    out = run("verify", tmp_path / "x.hub", code=1)
    assert "hidden/mean/2/c/0/0: its bytes do not match the checksum of its commit" in out


@pytest.mark.parametrize("format", ["npy", "safetensors", "parquet"])
def test_export_writes_rows_in_the_order_of_the_items(store, tmp_path, format):
    run("export", store, "--out", tmp_path, "--layers", "1,3", "--partition", "ar", "--format", format)
    items = pq.read_table(tmp_path / "items.parquet")
    opened = hubstore.open(store)
    expected = opened.hidden(3).take(opened.partition("ar").positions()).numpy()
    assert items["language"].to_pylist() == ["ar"] * 20
    path = tmp_path / f"layer-3.{format}"
    if format == "npy":
        found = np.load(path, allow_pickle=False)
    elif format == "safetensors":
        found = load_file(path)["layer-3"].numpy()
    else:
        found = np.stack(pq.read_table(path)["hidden"].to_numpy())
    np.testing.assert_array_equal(found, expected)
    assert (tmp_path / f"layer-1.{format}").exists()


def test_errors_are_one_line_with_the_remedy_and_exit_status_1(store, tmp_path):
    missing = fail("query", store, "--id", "en:999")
    assert len(missing.strip().splitlines()) == 1
    assert "has no item with id 'en:999'" in missing
    assert "is not a hubstore store" in fail("info", tmp_path)
    assert "has no layer '9'; it keeps 0, 1, 2, 3" in fail("query", store, "--id", "en:1", "--layer", "9")
    assert "--parallel 'en' is not LANGUAGE=VALUE" in fail(
        "extract", "--parallel", "en", "-m", "x", "-o", tmp_path / "y"
    )
    assert "could not be loaded as a model" in fail(
        "extract", "sample:ntrex", "-m", tmp_path / "no-model", "-o", tmp_path / "y"
    )


def test_a_stopped_extraction_says_so_in_one_line_whatever_its_workers_are_at(tmp_path, model):
    """Ctrl-C reaches a terminal's whole process group; a worker spends its first seconds importing."""
    lines = (json.dumps({"id": str(i), "text": "a word " * 30, "language": "en"}) for i in range(6000))
    (tmp_path / "long.jsonl").write_text("\n".join(lines))
    arguments = ("extract", tmp_path / "long.jsonl", "-m", model, "-o", tmp_path / "x.hub", "--memory", "0.0001")
    command = [sys.executable, "-m", "hubstore", *map(str, arguments), "--device", "cpu,cpu"]
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are deaf to it
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, heard)
    with process:
        while process.poll() is None and not has_worker(process.pid):
            time.sleep(0.02)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("stopped; what was committed is kept")
    assert "Traceback" not in said


def has_worker(process):
    """Whether a process that is to import the worker's code has been started by this one."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return any(b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)


def test_help_needs_no_torch_and_names_every_verb():
    code = "import sys; from hubstore.cli import app; import hubstore; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
    text = run("--help")
    for verb in (
        "extract",
        "append",
        "index",
        "query",
        "analyze",
        "projection",
        "report",
        "info",
        "verify",
        "export",
        "bench",
        "lens",
        "trends",
        "steer",
        "experiment",
    ):
        assert verb in text
        assert "Usage" in run(verb, "--help")


def test_the_same_verbs_in_python(store, tmp_path, model):
    made = hubstore.extract("sample:ntrex", model, tmp_path / "x.hub", layers=("2",), poolings=("last",))
    assert isinstance(made, hubstore.Store)
    made.index()
    assert made.search(ids=["en:1"], k=3).num_rows == 3
    assert made.search(texts=["hello"], k=2, layers=[2]).num_rows == 2
    assert made.verify() == []
    assert set(dir(hubstore)) == set(hubstore.__all__)
    for name in hubstore.__all__:
        assert getattr(hubstore, name) is not None


def test_plan_says_what_an_extraction_would_take_and_writes_nothing(tmp_path, model, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = (
        "plan",
        "sample:ntrex",
        "--model",
        model,
        "--limit",
        5,
        "--pooling",
        "mean,tokens",
        "-o",
        tmp_path / "x.hub",
    )
    out = run(*asked)
    assert "70 items, 7,139 tokens through tiny: 4 layers x 32 (float16), pooling mean, tokens" in out
    assert "1 shard of at most 8,192 items" in out
    assert "an index of one layer, 70 rows" in out
    ahead = json.loads(run(*asked, "--json"))
    assert (ahead["items"], ahead["tokens"], ahead["tokens_error"], ahead["shards"]) == (70, 7139, 0, 1)
    assert ahead["seconds"]["low"] < ahead["seconds"]["high"]
    assert [need["fits"] for need in ahead["needs"]] == [True, True]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_compare_says_how_alike_two_poolings_are_and_writes_tables_and_maps(store, tmp_path):
    folder = tmp_path / "out"
    asked = ("compare", store, "--pooling", "mean", "--pooling", "last", "--measure", "cka", "--permutations", 9)
    said = run(*asked, "--partition", "en", "--out", folder)
    assert "x, mean and x, last: partition en, n = 20" in said
    assert {path.name for path in folder.iterdir()} == {"compare.csv", "compare.parquet", "compare-cka.png"}
    table = pq.read_table(folder / "compare.parquet")
    assert set(table["metric"].to_pylist()) == {"cka"}
    assert json.loads(run(*asked, "--json", "--partition", "en"))["rows"] == table.to_pylist()
    assert "name another store" in fail("compare", store)
    rows = json.loads(run(*asked, "--same-layers", "--json"))["rows"]
    assert {row["layer_y"] for row in rows if row["layer"] == "best"} == {"best"}
    run(*asked, "--same-layers")


def test_analyze_calibrated_takes_its_measures_and_permutations(store):
    asked = ("analyze", "calibrated", "--pair", "en:es", "--layers", "0,1", "--permutations", 4, "--json")
    said = json.loads(run(asked[0], store, *asked[1:], "--measure", "rsa", "--measure", "svcca", "--cross-layers"))
    rows = said["calibrated"]["rows"]
    assert {(row["metric"], row["layer"], row["layer_y"]) for row in rows} == {
        (metric, x, y) for metric in ("rsa", "svcca") for x in "01" for y in "01"
    }
    assert all(row["p_value"] * 5 == pytest.approx(round(row["p_value"] * 5)) for row in rows)


def test_analyze_subspace_and_probe_show_what_is_of_all_partitions_too(tmp_path, model):
    path, languages = tmp_path / "x.hub", ("en", "es")
    parallel = [f"{tag}={SAMPLE / f'{tag}.txt'}" for tag in languages]
    run("extract", "--parallel", *parallel, "--model", model, "--out", path, "--limit", 30, "--layers", "1")
    said = run("analyze", path, "subspace", "probe")
    for shown in (
        "subspace, lsar: mean of 2",
        "directions_for_90%",
        "subspace, leace",
        "probe, language",
        "probe, length",
    ):
        assert shown in said
    assert "no column 'topic'" in fail("analyze", path, "probe", "--label", "topic")


def test_hub_score_is_one_page_as_tables_json_and_a_figure(tmp_path, model):
    path, folder = tmp_path / "x.hub", tmp_path / "out"
    parallel = [f"{tag}={SAMPLE / f'{tag}.txt'}" for tag in ("en", "es", "ar")]
    run("extract", "--parallel", *parallel, "--model", model, "--out", path, "--limit", 30)
    said = run("hub-score", path, "--out", folder)
    for shown in ("recall@1, held out", "above shuffled", "Semitic", "of one script", "breadth"):
        assert shown in said
    assert {one.name for one in folder.iterdir()} == {"hub-score.json", "hub-score.parquet", "hub-score.png"}
    page = json.loads(run("hub-score", path, "--twin", path, "--json"))
    assert page["left"]["random_weights"]["value"] == 0
    assert page["verdict"] == "no"
    assert page["partitions"].keys() == {"en", "es", "ar"}
