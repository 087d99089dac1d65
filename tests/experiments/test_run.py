"""Results are reused while nothing changes, and one that fails does not take the others with it."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hubstore import experiments
from hubstore.api import Store
from hubstore.cli import app
from hubstore.errors import AnalysisError, CorpusError, MissingDependencyError, ModelError, QueryError
from hubstore.experiments import (
    EXPERIMENTS,
    ExperimentContext,
    find_experiment,
    registry,
    run_experiment,
    run_experiments,
)
from hubstore.experiments.context import package_version
from tests.experiments.readers import reader, save_reader
from tests.tiny_models import save_tiny_model, tiny_model

runner = CliRunner()


@pytest.fixture
def here(tmp_path):
    return ExperimentContext(reader(), tmp_path / "out", limit=6, bootstrap=100, device="cpu")


@pytest.fixture
def runs(monkeypatch):
    """How often the experiment is done, its controls beside."""
    counted = []
    run = find_experiment("arithmetic-similarity").run

    def counting(context):
        if context.control is None:
            counted.append(1)
        return run(context)

    instead(monkeypatch, "arithmetic-similarity", counting)
    return counted


def instead(monkeypatch, name, run):
    monkeypatch.setitem(registry.REGISTERED, name, replace(find_experiment(name), run=run))


@pytest.mark.parametrize("one", EXPERIMENTS, ids=lambda one: one.name)
def test_every_experiment_is_a_function_that_says_when_its_claim_is_shown(one):
    assert one.run.__name__ == one.name.replace("-", "_")
    assert "Shown:" in one.run.__doc__


def test_a_name_of_an_earlier_release_is_found_with_a_warning():
    with pytest.warns(FutureWarning, match="vision-lens-colour is called vision-lens-color now"):
        assert find_experiment("vision-lens-colour").name == "vision-lens-color"
    with pytest.warns(DeprecationWarning, match="Lab is called ExperimentContext now"):
        assert experiments.Lab is ExperimentContext


def test_a_result_is_kept_with_all_that_it_was_made_from_and_comes_back_the_same(here, runs):
    first = run_experiment("arithmetic-similarity", here)
    again = run_experiment("arithmetic-similarity", here)
    assert len(runs) == 1
    assert again.table.equals(first.table)
    assert (again.shown, again.figure, again.n, again.plots, again.notes) == (
        first.shown, first.figure, first.n, first.plots, first.notes,
    )  # fmt: skip
    folder = here.out / "arithmetic-similarity"
    controls = ["random-weights", "shuffled-states"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["figure.png", *controls, "result.json", "table.parquet"]
    )
    for control in controls:
        assert sorted(path.name for path in (folder / control).iterdir()) == ["result.json", "table.parquet"]
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    made_from = json.loads(pq.read_table(folder / "table.parquet").schema.metadata[b"hubstore"])
    result = json.loads((folder / "result.json").read_text())
    assert made_from == {**result["made_from"], "stores": result["stores"], "notes": result["notes"]}
    (name, store), twin = result["stores"].items()
    assert twin[1]["model"]["id"] == "tiny-reader with random weights, seed 0"
    assert Store(here.out / "stores" / name).digest == store["commits"]
    assert store["corpus"]["sha256"]
    assert made_from["model"]["weights"] == reader().identity["weights"]
    assert (made_from["seed"], made_from["limit"], made_from["bootstrap"]) == (0, 6, 100)


@pytest.mark.parametrize("change", [{"seed": 1}, {"limit": 7}, {"bootstrap": 101}])
def test_a_change_does_it_again(here, runs, change):
    run_experiment("arithmetic-similarity", here)
    given = {"limit": 6, "bootstrap": 100, "seed": 0, **change}
    run_experiment("arithmetic-similarity", ExperimentContext(reader(), here.out, device="cpu", **given))
    assert len(runs) == 2


@pytest.mark.parametrize("name", ["result.json", "table.parquet"])
def test_what_is_damaged_is_made_again(here, runs, name):
    run_experiment("arithmetic-similarity", here)
    path = here.out / "arithmetic-similarity" / name
    path.write_bytes(path.read_bytes()[:40])
    run_experiment("arithmetic-similarity", here)
    assert len(runs) == 2


def test_changed_files_of_the_user_do_it_again(tmp_path):
    (tmp_path / "en.txt").write_text("A cat.\nA dog.\nA bird.\n")
    (tmp_path / "zh-Hans.txt").write_text("猫。\n狗。\n鸟。\n", encoding="utf-8")
    there = ExperimentContext(reader(), tmp_path / "out", data=tmp_path, bootstrap=100, device="cpu")
    first = run_experiment("multilingual-similarity", there)
    (tmp_path / "en.txt").write_text("A cat.\nA dog.\nTwo birds.\n")
    assert not run_experiment("multilingual-similarity", there).table.equals(first.table)


def test_a_store_is_extracted_once_and_another_corpus_gets_another(here):
    from hubstore.corpus import Corpus, Item

    one = Corpus.from_items([Item("a", "a cat", "en"), Item("b", "a dog", "en")])
    first = here.store("pets", one)
    stamp = first.path.stat().st_mtime_ns
    assert here.store("pets", one).path == first.path
    assert first.path.stat().st_mtime_ns == stamp
    other = Corpus.from_items([Item("a", "a cat", "en"), Item("b", "two dogs", "en")])
    assert here.store("pets", other).path != first.path
    assert first.layers == ("0", "1", "2", "3", "final")
    assert str(first.dtype) == "torch.float32"


def test_a_sample_is_the_seeds_and_in_order(tmp_path):
    drawn = [ExperimentContext("m", tmp_path, limit=10, seed=seed).sample(range(100)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == sorted(set(drawn[0]))
    assert len(drawn[0]) == 10
    assert ExperimentContext("m", tmp_path).sample(range(3)) == [0, 1, 2]


def test_the_summary_keeps_what_earlier_runs_found_and_an_error_stops_nothing(here, monkeypatch):
    def refuse(context):
        raise AnalysisError("nothing to compare")

    run_experiments(["arithmetic-pca"], here)
    instead(monkeypatch, "arithmetic-lens", refuse)
    done = run_experiments(["arithmetic-lens", "arithmetic-similarity"], here)
    assert [one.result is None for one in done] == [True, False]
    summary = json.loads((here.out / "summary.json").read_text())["experiments"]
    assert [one["experiment"] for one in summary] == ["arithmetic-pca", "arithmetic-lens", "arithmetic-similarity"]
    assert [one["error"] for one in summary] == [None, "nothing to compare", None]
    assert [one["shown"] is None for one in summary] == [False, True, False]


def test_what_cannot_be_done_is_refused(tmp_path):
    with pytest.raises(QueryError, match="there is no experiment 'arithmetic'; there are cross-modal, "):
        find_experiment("arithmetic")
    with pytest.raises(AnalysisError, match="use 100 or more"):
        ExperimentContext("m", tmp_path, bootstrap=0)
    with pytest.raises(AnalysisError, match="use 2 or more"):
        ExperimentContext("m", tmp_path, limit=1)
    with pytest.raises(CorpusError, match="is no folder"):
        ExperimentContext("m", tmp_path, data=tmp_path / "nothing")
    with pytest.raises(ModelError, match="without its head"):
        run_experiment("arithmetic-lens", ExperimentContext(tiny_model("llama"), tmp_path, device="cpu"))


def test_a_package_that_is_not_installed_is_named_with_what_to_type():
    with pytest.raises(MissingDependencyError, match=r'pip install "hubstore\[experiments\]"'):
        package_version("no_such_package_of_words")


def test_an_encoder_has_similarities_and_no_lens(tmp_path):
    model = str(save_tiny_model("bert", tmp_path / "bert"))
    done = run_experiments(
        ["arithmetic-similarity", "arithmetic-lens"],
        ExperimentContext(model, tmp_path / "out", limit=6, bootstrap=100, device="cpu"),
    )
    assert done[0].result is not None
    assert isinstance(done[1].error, ModelError)


def test_the_command_lists_runs_and_sums_up(tmp_path):
    listed = json.loads(runner.invoke(app, ["experiment", "--list", "--json"]).stdout)
    assert [one["name"] for one in listed] == [one.name for one in EXPERIMENTS]
    model, out = str(save_reader(tmp_path / "reader")), str(tmp_path / "out")
    common = ["--model", model, "--out", out, "--limit", "6", "--bootstrap", "100", "--device", "cpu"]
    shown = runner.invoke(app, ["experiment", "arithmetic-lens", *common], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    for words in ("claim: ", "here: word - digit", "does this model show it?", "arithmetic-lens"):
        assert words in shown.stdout
    result = runner.invoke(app, ["experiment", "arithmetic-lens", *common, "--json"])
    (found,) = json.loads(result.stdout)
    assert found["experiment"] == "arithmetic-lens"
    assert {"layer", "quantity", "value", "low", "high", "n"} <= set(found["rows"][0])


def test_the_command_without_a_model_says_what_to_type():
    result = runner.invoke(app, ["experiment", "arithmetic-lens"])
    assert isinstance(result.exception, QueryError)
    assert "hubstore experiment NAME --model MODEL --out FOLDER" in str(result.exception)


@pytest.mark.real
@pytest.mark.slow
def test_gemma_reads_the_experiments(real_model, tmp_path):
    """Translations and words of numbers are matched by a pretrained model, as by no random one."""
    there = ExperimentContext(real_model("gemma-3-270m"), tmp_path, limit=30, bootstrap=200, device="cpu")
    for name in ("multilingual-similarity", "arithmetic-similarity"):
        rows = run_experiment(name, there).table.to_pylist()
        quantity = {"multilingual-similarity": "matched - baseline", "arithmetic-similarity": "exact match - all pairs"}
        middle = [row for row in rows if row["quantity"] == quantity[name] and row["layer"] in ("13", "16")]
        assert all(row["low"] > 0 for row in middle)
