"""A store in a notebook: what it says of itself, its items, its figures, and rows in memory as a corpus."""

from __future__ import annotations

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import hubstore
from hubstore.corpus import is_table
from hubstore.errors import AnalysisError, CorpusError, OptionError, QueryError
from hubstore.opened import notebook
from tests.client.serving import served
from tests.tiny_models import SAMPLE, tiny_language_model

LANGUAGES = ("en", "es", "zh-Hans")
COUNT = 8


@pytest.fixture(scope="module")
def model():
    return tiny_language_model("llama")


@pytest.fixture(scope="module")
def store(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("display") / "<b>x.hub"
    corpus = hubstore.corpus.read_parallel({tag: SAMPLE / f"{tag}.txt" for tag in LANGUAGES}, limit=COUNT)
    return hubstore.extract(corpus, model, path, with_lens=True, poolings=("mean", "tokens"))


@pytest.fixture(scope="module")
def remote(store):
    with served(store.path, device="cpu") as url, hubstore.connect(url) as remote:
        yield remote


def test_a_store_says_what_it_holds_and_draws_the_hub_curve_once_an_analysis_is_kept(store):
    said = repr(store)
    assert f"{COUNT * 3} items x 4 layers x 32 (float16)" in said
    assert "en 8, es 8, zh-Hans 8" in said
    assert "none: searched exactly" in said
    assert "hub curve" not in said
    table = store.analyze("similarity", bootstrap=0)["similarity"].to_pandas()
    store.index(layers=[1, 2], kind="exact")
    chosen = table[(table.metric == "difference") & (table.variant == "centered")]
    best = chosen.groupby("layer")["value"].mean().idxmax()
    assert f"at layer {best}" in repr(store)
    assert "indexes    2 layers" in repr(store)
    page = store._repr_html_()
    assert "<polyline" in page
    assert "&lt;b&gt;x.hub" in page
    assert "<b>" not in page


def test_an_item_is_had_by_its_id_with_its_states_and_its_equivalents(store, remote):
    for one in (store, remote):
        item = one["zh-Hans:3"]
        assert (item.language, item.concept, item.position) == ("zh-Hans", "3", 2 * COUNT + 2)
        assert torch.equal(item.hidden(-1).half(), store.hidden(-1)[item.position])
        assert item.hidden(2, "tokens").shape[1] == 32
        assert item.equivalents()["id"].to_pylist() == ["en:3", "es:3"]
        with pytest.raises(QueryError, match="no item with id 'en:99'"):
            one["en:99"]


ROWS = [
    {"id": "a", "text": "One.", "language": "en", "concept": "1"},
    {"id": "b", "text": "Eins.", "language": "de", "concept": "1"},
]
TABLES = {
    "dictionaries": ROWS,
    "pandas": pd.DataFrame(ROWS),
    "arrow": pa.Table.from_pylist(ROWS),
    "batch": pa.RecordBatch.from_pylist(ROWS),
    "datasets": datasets.Dataset.from_list(ROWS),
    "items": [hubstore.Item(**row) for row in ROWS],
}


@pytest.mark.parametrize("kind", TABLES)
def test_rows_in_memory_are_a_corpus_whatever_holds_them(kind, model, tmp_path):
    assert is_table(TABLES[kind])
    store = hubstore.extract(TABLES[kind], model, tmp_path / "x.hub")
    found = store.items.select(["id", "text", "language", "concept"]).to_pylist()
    assert found == ROWS
    again = hubstore.extract(TABLES[kind], model, tmp_path / "x.hub")
    assert again.extraction.extracted == 0


def test_the_same_rows_are_the_same_corpus_whatever_table_they_are_in(model, tmp_path):
    hubstore.extract(TABLES["dictionaries"], model, tmp_path / "x.hub")
    for kind in ("arrow", "datasets"):
        assert hubstore.extract(TABLES[kind], model, tmp_path / "x.hub").extraction.extracted == 0


def test_rows_in_memory_keep_the_columns_that_are_asked_for(model, tmp_path):
    frame = pd.DataFrame([{**row, "year": 1990 + n} for n, row in enumerate(ROWS)])
    store = hubstore.extract(hubstore.read_memory(frame, keep_columns="year"), model, tmp_path / "x.hub")
    assert store.items["year"].to_pylist() == [1990, 1991]
    hits = store.search(ids=["a"], where="year > 1990", layers=[2])
    assert hits["id"].to_pylist() == ["b"]


def test_rows_are_read_by_columns_and_a_bad_one_is_named():
    frame = pd.DataFrame({"english": ["One.", "Two."], "german": ["Eins.", " "]})
    with pytest.raises(CorpusError, match="rows, row 2, column 'german'"):
        list(hubstore.read_memory(frame, text={"en": "english", "de": "german"}).items())
    skipped = hubstore.read_memory(frame, text={"en": "english", "de": "german"}, on_error="skip")
    assert [item.text for item in skipped.items()] == ["One.", "Eins.", "Two."]
    with pytest.raises(CorpusError, match="give each column values of one type"):
        hubstore.read_memory([{"text": 1}, {"text": "a"}])


def test_figures_are_matplotlib_axes_of_the_callers_or_new_ones(store, remote):
    from matplotlib import pyplot

    own = pyplot.subplots()[1]
    assert store.plot.similarity(pairs=["en:es"], ax=own) is own
    assert own.get_title() == "Matched − baseline, centered: en – es"
    (line,) = own.get_lines()
    table = store.analyze("similarity", pairs=["en:es"])["similarity"].to_pandas()
    expected = table[(table.metric == "difference") & (table.variant == "centered")]["value"]
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert "mean over 2 pairs" in store.plot.similarity(pivot="en", what="cosines").get_title()
    assert len(store.plot.retrieval("en:es", metric="recall@5").get_lines()) == 5
    assert len(store.plot.map(2).collections) == len(LANGUAGES)
    assert len(store.plot.neighbors("en:1", layer=2, k=4).patches) == 4
    assert store.plot.lens("en:1", layers=[1, 2]).images
    assert remote.plot.neighbors("en:1", layer=2, k=2).get_xlabel() == "cosine"
    pyplot.close("all")


@pytest.mark.parametrize(
    ("figure", "arguments", "traces"),
    [
        ("similarity", {"pairs": ["en:es"]}, 3),
        ("retrieval", {"pairs": ["en:es"]}, 13),
        ("map", {"layer": 2}, 3),
        ("neighbors", {"item": "en:1", "layer": 1, "k": 3}, 1),
        ("lens", {"item": "en:1", "layers": [1, 2]}, 1),
    ],
)
def test_figures_are_plotlys_where_that_is_asked_for(store, figure, arguments, traces):
    drawn = getattr(store.plot, figure)(**arguments, backend="plotly")
    assert len(drawn.data) == traces
    assert drawn.layout.title.text
    with pytest.raises(OptionError, match="draw with 'matplotlib' or 'plotly'"):
        getattr(store.plot, figure)(**arguments, backend="bokeh")


def test_what_cannot_be_drawn_is_refused_with_what_can(store):
    for drawn, words in (
        (lambda: store.plot.similarity(variant="normed"), "choose from raw, centered"),
        (lambda: store.plot.similarity(what="cosine"), "choose from difference, cosines"),
        (lambda: store.plot.retrieval(metric="recall"), "choose from recall@1"),
    ):
        with pytest.raises(AnalysisError, match=words):
            drawn()
    with pytest.raises(QueryError, match="colored by language, modality, concept, and not by 'size'"):
        store.plot.map(1, color="size")


def test_a_notebook_gets_a_bar_and_a_program_none(store, monkeypatch, capsys):
    with notebook.bar("x") as drawn:
        assert drawn is None
    monkeypatch.setattr(notebook, "in_notebook", lambda: True)
    store.analyze("alignment", pairs=["en:es"], bootstrap=0)
    assert "alignment" in capsys.readouterr().err
    counted = []
    store.analyze("alignment", pairs=["en:zh-Hans"], bootstrap=0, progress=lambda *step: counted.append(step))
    assert counted[-1] == ("alignment", 4, 4)
    assert "alignment" not in capsys.readouterr().err
