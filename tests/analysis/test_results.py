import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from hubstore import analysis
from hubstore.analysis.results import FIELDS
from hubstore.errors import AnalysisError, ResultWarning
from hubstore.stats.bootstrap import Bootstrap
from hubstore.store.result import encode_result
from hubstore.version import __version__
from tests.analysis.test_similarity import related
from tests.index.stores import hub_states, write_store
from tests.limits import files_of_at_most
from tests.memory_store import MemoryStore, parallel

QUICK = {"bootstrap": 20}


@pytest.fixture
def store():
    return parallel(["en", "zh", "sw"], related(layers=2, n=12, width=6, languages=3))


def forget_states(store, monkeypatch):
    def refuse(*_):
        raise AssertionError("the hidden states were read")

    monkeypatch.setattr(store, "hidden", refuse)


@pytest.mark.parametrize("name", analysis.ANALYSES)
def test_a_result_is_kept_and_read_back_without_the_states(store, name, monkeypatch):
    function = getattr(analysis, name)
    first = function(store, **QUICK)
    assert [key.split("/")[:2] for key in store.storage.files] == [["analyses", name]]
    forget_states(store, monkeypatch)
    second = function(store, **QUICK)
    assert second.equals(first)
    assert second.schema.metadata == first.schema.metadata
    with pytest.raises(AssertionError, match="were read"):
        function(store, seed=1, **QUICK)


def test_a_result_with_an_earlier_releases_variants_reads_as_the_same(store, monkeypatch):
    first = analysis.retrieval(store, **QUICK)
    (key,) = store.storage.files
    older = first["variant"].to_pylist()
    assert {"centered", "csls_centered"} <= set(older)
    older = pa.array([variant.replace("centered", "centred") for variant in older])
    place = first.column_names.index("variant")
    store.storage.files[key] = encode_result(first.set_column(place, first.schema.field(place), older))
    forget_states(store, monkeypatch)
    assert analysis.retrieval(store, **QUICK).equals(first)


def test_a_store_that_changed_is_computed_anew(store):
    first = analysis.similarity(store, **QUICK)
    store.states["1"] = store.states["1"] + torch.randn(store.states["1"].shape)
    second = analysis.similarity(store, **QUICK)
    assert len(store.storage.files) == 2
    assert not second.equals(first)
    assert analysis.metadata(first)["commits"] != analysis.metadata(second)["commits"]


def test_a_damaged_result_is_computed_anew(store):
    first = analysis.similarity(store, **QUICK)
    (key,) = store.storage.files
    store.storage.files[key] = store.storage.files[key][:100]
    assert analysis.similarity(store, **QUICK).equals(first)


def test_a_store_that_may_not_be_written_answers_all_the_same_and_a_full_disk_warns(store, monkeypatch):
    def refuse(error):
        def write(*_):
            raise error

        monkeypatch.setattr(store.storage, "write", write)

    refuse(PermissionError(13, "Permission denied"))
    assert analysis.similarity(store, **QUICK).num_rows
    refuse(OSError(28, "No space left on device"))
    with pytest.warns(ResultWarning, match=r"\.parquet: the result could not be kept \(No space left on device\)"):
        assert analysis.similarity(store, **QUICK).num_rows


@pytest.mark.parametrize("name", ["geometry", "projection"])
def test_on_a_full_disk_a_result_is_answered_and_kept_when_there_is_room(tmp_path, name):
    states = hub_states(60, 16).view(1, 60, 16)
    opened = write_store(tmp_path / "x.hub", states, languages=["en", "es", "fr"] * 20)
    function, options = getattr(analysis, name), {"method": "pca"} if name == "projection" else QUICK
    with files_of_at_most(100), pytest.warns(ResultWarning, match=r"could not be kept \(File too large\)"):
        found = function(opened, **options)
    assert list((tmp_path / "x.hub").rglob("*.partial")) == []
    assert opened.storage.list("analyses") == []
    assert function(opened, **options).equals(found)
    assert len(opened.storage.list("analyses")) == 1


def test_every_table_begins_with_the_common_columns_and_tells_how_it_was_made(store):
    tables = analysis.analyze(store, bootstrap=20, seed=7)
    assert tuple(tables) == analysis.ANALYSES
    for name, table in tables.items():
        assert list(table.schema)[: len(FIELDS)] == FIELDS
        assert set(table["analysis"].to_pylist()) == {name}
        assert set(table["layer"].to_pylist()) == {"0", "1"}
        provenance = json.loads(table.schema.metadata[b"hubstore"])
        assert provenance["seed"] == 7
        assert provenance["commits"] == store.digest
        assert provenance["version"] == __version__
        assert provenance["parameters"]["layers"] == ["0", "1"]


def test_layers_pairs_and_names_narrow_what_is_computed_and_progress_is_told(store):
    reported = []
    tables = analysis.analyze(
        store,
        ["similarity", "geometry"],
        pairs=[("en", "sw")],
        layers=[-1],
        bootstrap=0,
        progress=lambda *step: reported.append(step),
    )
    assert set(tables) == {"similarity", "geometry"}
    assert set(tables["similarity"]["y"].to_pylist()) == {"sw"}
    assert set(tables["geometry"]["x"].to_pylist()) == {"en", "sw", "*"}
    assert set(tables["geometry"]["layer"].to_pylist()) == {"1"}
    assert reported == [("similarity", 1, 1), ("geometry", 1, 1)]
    assert tables["similarity"]["low"].null_count == tables["similarity"].num_rows
    with pytest.raises(AnalysisError, match="no analysis 'hub'; choose from similarity"):
        analysis.analyze(store, ["hub"])


def test_pairs_that_share_nothing_are_skipped_and_told_when_all_are_compared():
    rows = torch.randn(15, 4, generator=torch.Generator().manual_seed(0))
    partitions = {"a": list("12345"), "b": list("12345"), "c": list("vwxyz")}
    table = analysis.similarity(MemoryStore(partitions, {"0": rows}), **QUICK)
    assert set(zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True)) == {("a", "b")}
    assert analysis.metadata(table)["notes"]["skipped_pairs"] == [["a", "c"], ["b", "c"]]


def test_the_same_seed_gives_the_same_table(store):
    for name in analysis.ANALYSES:
        tables = []
        for _ in range(2):
            store.storage.files.clear()
            tables.append(getattr(analysis, name)(store, seed=3, **QUICK))
        assert tables[0].equals(tables[1])


def test_the_bootstrap_of_a_mean_covers_it_and_is_as_wide_as_theory_says():
    rng = np.random.default_rng(0)
    hits, widths = 0, []
    for seed in range(300):
        low, high = Bootstrap(400, seed).of_means(rng.normal(1, 2, (50, 1)))[:, 0]
        hits += low <= 1 <= high
        widths.append(high - low)
    assert 0.90 <= hits / 300 <= 0.98
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 2 / 50**0.5, rel=0.05)


def test_of_equally_many_concepts_the_same_are_resampled():
    values = np.random.default_rng(1).normal(size=(30, 2))
    resampling = Bootstrap(100, 5)
    both = resampling.of_means(values)
    resampling.of_means(values[:20])
    np.testing.assert_allclose(resampling.of_means(values[:, 1:]), both[:, 1:], rtol=1e-12)
