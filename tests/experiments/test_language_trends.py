"""The verdict on language trends says yes to states that read as English, and no to what only looks like it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hubstore.errors import AnalysisError
from hubstore.experiments import ExperimentContext, run_experiment
from hubstore.experiments.recipes import trends
from hubstore.lens import LanguageMass, languages
from tests.lens import authors
from tests.tiny_models import tiny_language_model


@pytest.fixture
def here(tmp_path):
    return ExperimentContext(tiny_language_model("llama"), tmp_path / "out", limit=3, bootstrap=200, device="cpu")


@pytest.fixture(autouse=True)
def few_words(monkeypatch):
    monkeypatch.setattr(languages, "WORDS", 100)


def values(result, quantity):
    return {row["layer"]: row["value"] for row in result.table.to_pylist() if row["quantity"] == quantity}


def rigged(monkeypatch, middle):
    """Every middle layer reads as `middle(own, languages)` says, the last as the input's own language."""

    def read(store, lens, tokens, *, layers, variant, progress):
        known = list(tokens.languages)
        positions = np.arange(len(store))
        own = [known.index(one) for one in store.items["language"].to_pylist()]
        noise = np.random.default_rng(0).uniform(0.9, 1.1, len(own))[:, None]
        at_last = np.eye(len(known))[own] * 10
        between = np.stack([middle(one, known) for one in own]) * 10
        sums = {layer: (at_last if layer == "final" else between * noise) for layer in layers}
        return LanguageMass(positions, np.full(len(own), 10), sums, sums)

    monkeypatch.setattr(trends, "language_mass", read)
    monkeypatch.setattr(trends, "trends_png", lambda table: b"")


def english(own, languages):
    return np.eye(len(languages))[languages.index("en")] * 0.8


def nothing_counted(own, languages):
    return np.full(len(languages), 1 / len(languages))


def english_and_german(own, languages):
    return (np.eye(len(languages))[languages.index("en")] + np.eye(len(languages))[languages.index("de")]) * 0.45


@pytest.mark.parametrize(
    ("middle", "shown", "languages"),
    [
        (english, True, "yes in 13 of 13"),
        (nothing_counted, False, "yes in 0 of 13"),
        (english_and_german, False, "yes in 1 of 13: de (layer 1)"),
    ],
)
def test_only_english_itself_counts_as_shown(here, monkeypatch, middle, shown, languages):
    rigged(monkeypatch, middle)
    result = trends.language_trends(replace(here, limit=24))  # its controls read as English too
    assert result.shown is shown
    assert result.n == 24 * 13
    assert values(result, trends.OVER_LAST)["1"] > 0
    found = [note for note in result.notes if note.startswith("by language, ")]
    assert len(found) == 2
    assert all(languages in note for note in found)


def test_a_real_reading_sums_to_1_and_is_kept_with_its_figure(here):
    result = run_experiment("language-trends", here)
    rows = [row for row in result.table.to_pylist() if row["quantity"] == trends.EACH]
    assert len(rows) == 3 * 14 * (14 + 1)  # with what is not counted
    for layer in ("1", "2", "final"):
        sums = [sum(r["value"] for r in rows if (r["layer"], r["x"]) == (layer, x)) for x in {r["x"] for r in rows}]
        np.testing.assert_allclose(sums, 1, atol=1e-5)
    folder = here.out / "language-trends"
    for name in trends.AREAS.values():
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "result.json").read_text())["shown"] is result.shown


def test_nothing_is_counted_on_what_is_read(here):
    sides = trends.trend_sources(here)
    read, counted = ({row["text"] for b in side.batches() for row in b.to_pylist()} for side in sides)
    assert len(read) == 3 * 14
    assert len(counted) > 14 * 100
    assert not read & counted


def test_texts_of_the_user_are_read_and_counted(tmp_path):
    data = tmp_path / "data"
    data.mkdir()

    def write(name, texts):
        lines = [json.dumps({"id": f"{i}", "text": t, "language": language}) for i, (language, t) in enumerate(texts)]
        (data / name).write_text("\n".join(lines) + "\n")

    write("read.jsonl", [("es", "el gato"), ("es", "la casa"), ("en", "the cat")])
    write("counted.jsonl", [("es", "que la que el"), ("en", "the house of the")])
    model = tiny_language_model("llama")
    with pytest.raises(AnalysisError, match="counted in es and en; count them in a third language"):
        run_experiment("language-trends", ExperimentContext(model, tmp_path / "out", data, bootstrap=100, device="cpu"))
    write("counted.jsonl", [("es", "que la que el"), ("en", "the house of the"), ("de", "der die das")])
    result = run_experiment(
        "language-trends", ExperimentContext(model, tmp_path / "out", data, bootstrap=100, device="cpu")
    )
    assert result.n == 2
    context = ExperimentContext(model, tmp_path, data)
    counts = {"with_words": True, "smoothed": True}
    known = trends.count_token_languages(trends.trend_sources(context)[1], context.lens, **counts).known
    expected = authors.trends(model, ["el gato", "la casa"], torch.cat([known, 1 - known.sum(1, keepdim=True)], 1))
    rows = [r for r in result.table.to_pylist() if r["x"] == "es" and r["quantity"] == trends.EACH]
    found = [[row["value"] for row in rows if row["layer"] == layer] for layer in ("1", "2", "final")]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert {row["language"] for row in result.table.to_pylist() if row["language"]} == {"es", "en", "de", "not counted"}
    write("read.jsonl", [("en", "the cat"), ("en", "the house")])
    with pytest.raises(AnalysisError, match="all texts are in 'en'"):
        run_experiment("language-trends", ExperimentContext(model, tmp_path / "out", data, bootstrap=100, device="cpu"))
