"""One page says how much of a hub a model has; where there is none, or only what a random model has, it says no."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from hubstore.analysis import hub_page, hub_score, neighbors
from hubstore.analysis.families import FAMILIES, family_of, script_of
from hubstore.analysis.hub_score import centered
from hubstore.analysis.neighbors import pair_hits
from hubstore.analysis.subspace import _found
from hubstore.errors import AnalysisError
from tests.largest_tensor import LargestTensor
from tests.memory_store import parallel

LANGUAGES = ("en", "de", "ru", "uk", "hi")
BLOCKS = 8


def hub(strength=1.6, n=40, width=24, seed=0, apart=()):
    """A store whose middle layers hold the meaning, but for the languages in `apart`."""
    g = torch.Generator().manual_seed(seed)
    meaning = torch.randn(n, width, generator=g)
    share = torch.tensor([0.0 if one in apart else 1.0 for one in LANGUAGES])[:, None, None]
    states = {}
    for layer in [*range(BLOCKS + 1), "final"]:
        depth = 1.0 if layer == "final" else layer / BLOCKS
        bump = strength * max(0.0, 1 - 2.6 * abs(depth - 0.5))
        states[str(layer)] = bump * share * meaning + torch.randn(len(LANGUAGES), n, width, generator=g) + 3
    return parallel(LANGUAGES, states)


def test_a_hub_in_the_middle_is_found_with_its_depth_and_its_breadth():
    page = hub_page(hub_score(hub(), twin=hub(0.0, seed=1)))
    assert page["verdict"] == "yes"
    assert page["recall"]["calibrated"] > 0.6
    assert page["depth"] == {"depth": 0.5, "first": pytest.approx(0.5, abs=0.13), "last": pytest.approx(0.5, abs=0.13)}
    assert page["breadth"] == 1
    assert set(page["left"]) == {"shuffled", "random_weights"}
    assert all(abs(one["calibrated"]) < 0.05 for one in page["controls"].values())
    assert page["partitions"]["uk"]["family"] == "Slavic"
    assert set(page["families"]) == {"Germanic", "Slavic", "Indo-Aryan"}
    assert set(page["layers"]) == {*map(str, range(BLOCKS + 1)), "final"}
    assert page["layers"]["4"]["cka"] > 0.3 > abs(page["layers"]["0"]["cka"])
    assert page["n"] == 40


def test_what_the_texts_own_characters_find_is_told_beside_the_controls():
    page = hub_page(hub_score(hub(), twin=hub(0.0, seed=1)))
    assert set(page["characters"]) == {"recall", "above"}
    store = hub(0.0)
    texts = [f"number {concept} of {'abcde'[place]}" for place in range(len(LANGUAGES)) for concept in range(100, 140)]
    store.items = store.items.set_column(store.items.schema.get_field_index("text"), "text", pa.array(texts))
    found = hub_page(hub_score(store))
    assert found["characters"]["recall"]["value"] > 0.9, "the number is in every language's text"
    assert found["characters"]["above"]["value"] < -0.8
    assert set(found["left"]) == {"shuffled"}
    assert "text" not in found["layers"]


def test_languages_outside_the_hub_are_not_in_its_breadth():
    page = hub_page(hub_score(hub(apart=("hi",))))
    assert page["breadth"] == 0.8
    assert page["partitions"]["hi"]["q"] > 0.05 > max(page["partitions"][one]["q"] for one in LANGUAGES[:4])


@pytest.mark.parametrize(
    ("twin", "layers", "untested"),
    [
        (None, None, ["above random_weights"]),
        (hub(0.0, seed=1), range(1, BLOCKS + 1), ["middle less embeddings"]),
        (hub(0.0, seed=1), [0, 4], [f"middle less {end}" for end in ("first", "last", "embeddings")]),
    ],
)
def test_a_control_that_is_missing_is_not_passed(twin, layers, untested):
    page = hub_page(hub_score(hub(), twin=twin, layers=layers))
    assert (page["verdict"], page["untested"]) == ("not tested", untested)


@pytest.mark.parametrize(
    ("layers", "missing", "untested"),
    [
        (range(9), [], []),
        ([0, 2, 3, 4, 8], ["1"], ["middle less first"]),
        ([1, 2, 3, 4, 5], ["8", "0"], ["middle less last", "middle less embeddings"]),
        ([0, 1, 7, "final"], ["one of 2 to 6"], [f"middle less {end}" for end in ("first", "last", "embeddings")]),
    ],
)
def test_the_layers_that_a_store_lacks_are_named_and_no_other_stands_for_them(layers, missing, untested):
    store = hub()
    store.attributes["model"] = {**store.attributes.get("model", {}), "blocks": BLOCKS}
    page = hub_page(hub_score(store, twin=hub(0.0, seed=1), layers=list(layers)))
    assert (page["missing"], page["untested"]) == (missing, untested)
    if 4 in layers:
        assert page["depth"]["depth"] == 0.5, "of the model's depth, and not of the layers that are there"


def test_recall_of_a_twin_is_told_by_its_own_layers():
    other = hub(0.0, seed=1)
    few = parallel(LANGUAGES, {layer: other.hidden(layer).read().view(len(LANGUAGES), 40, 24) for layer in ("2", "6")})
    table = hub_score(hub(), twin=few).to_pylist()
    assert {row["layer"] for row in table if row["variant"] == "random_weights"} == {"2", "6", "held out"}


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_no_hub_and_neither_is_what_its_twin_has_too(seed):
    page = hub_page(hub_score(hub(0.0, seed=seed), bootstrap=0))
    assert (page["verdict"], page["breadth"]) == ("no", 0)
    assert abs(page["recall"]["calibrated"]) < 0.05
    page = hub_page(hub_score(hub(seed=seed), twin=hub(seed=seed + 10)))
    assert (page["verdict"], page["breadth"]) == ("no", 0)


def test_recall_is_that_of_a_plain_loop_and_a_tie_is_no_hit():
    rows = torch.randn(3, 12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    units = centered(rows)
    hits = pair_hits(units)
    for x in range(3):
        for y in range(3):
            cosines = (units[x] @ units[y].T).numpy()
            np.testing.assert_array_equal(hits[x, y], cosines.argmax(1) == np.arange(12))
    assert not pair_hits(torch.ones(2, 4, 3, dtype=torch.float64)).any()


def test_many_concepts_are_compared_some_at_a_time_and_aligned_by_a_sample(monkeypatch):
    units = centered(torch.randn(5, 200, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    whole = pair_hits(units)
    monkeypatch.setattr(neighbors, "BLOCK", 1 << 13)
    monkeypatch.setattr(sys.modules["hubstore.analysis.hub_score"], "ALIGNED_ITEMS", 50)
    with LargestTensor() as largest:
        np.testing.assert_array_equal(pair_hits(units), whole)
        _found(units)
    assert largest.elements <= 1 << 13
    table = hub_score(hub(n=200), layers=[4])
    assert {row["metric"]: row["n"] for row in table.to_pylist() if row["layer"] == "4"} == {
        "recall@1": 200, "cka": 50, "mutual_knn": 50
    }  # fmt: skip


def test_the_table_has_the_model_and_its_controls_by_layer():
    table = hub_score(hub(), twin=hub(0.0, seed=1), layers=[0, 4, "final"])
    recall = table.filter(pc.and_(pc.equal(table["metric"], "recall@1"), pc.equal(table["x"], "*")))
    assert {(row["layer"], row["variant"]) for row in recall.to_pylist() if row["variant"] == "model"} == {
        (layer, "model") for layer in ("0", "4", "final", "held out")
    }


def test_a_twin_of_other_items_is_refused():
    with pytest.raises(AnalysisError, match="is of other items than"):
        hub_score(hub(n=40), twin=hub(n=50))


def test_families_and_scripts():
    assert family_of("zh-Hans") == "Sino-Tibetan"
    assert family_of("tlh") == "tlh"
    tags = [tag for of in FAMILIES.values() for tag in of.split()]
    assert len(tags) == len(set(tags))
    for script, text in {
        "Latin": "A shark.", "Cyrillic": "Акула.", "Han": "鲨鱼", "Japanese": "サメが若者を噛んだ", "Hangul": "상어가",
        "Devanagari": "शार्क", "Arabic": "قرش", "none": "12!",
    }.items():  # fmt: skip
        assert script_of([text]) == script
