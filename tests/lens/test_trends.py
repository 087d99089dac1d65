"""p(language given layer) from a store is what the paper's own loop computes, one text at a time."""

import json

import numpy as np
import pytest
import torch

from hubstore.analysis import metadata
from hubstore.corpus import Corpus, Item, read_sample
from hubstore.errors import LensError, QueryError
from hubstore.extraction import Settings, extract
from hubstore.lens import Lens, TokenLanguages, count_token_languages, language_mass, language_trends
from hubstore.models import Head
from hubstore.plots.stacked import HUB_LOOK, areas, language_looks, trends_png
from hubstore.store import StoreReader
from tests.lens import authors
from tests.tiny_models import tiny_language_model

LANGUAGES = ["en", "zh-Hans", "es"]
PAPERS = ("1", "2", "final")


def extracted(model, path, corpus=None, **settings):
    corpus = corpus or read_sample("ntrex", languages=LANGUAGES, limit=5)
    extract(corpus, model, path, Settings(poolings=("tokens",), layers=("all", "final"), dtype="float32", **settings))
    return StoreReader(path)


def texts(store, language):
    return store.items["text"].take(store.partition(language).positions()).to_pylist()


def by_layer(table, language, layers):
    """[layers, languages] of one input."""
    rows = [row for row in table.to_pylist() if row["x"] == language]
    return np.array([[row["value"] for row in rows if row["layer"] == layer] for layer in layers])


@pytest.fixture(scope="module")
def model():
    return tiny_language_model("llama")


@pytest.fixture(scope="module")
def lens(model):
    return Lens.of_model(model)


@pytest.fixture(scope="module")
def tokens(lens):
    return count_token_languages(read_sample("ntrex", languages=LANGUAGES, limit=60), lens)


@pytest.fixture
def store(model, tmp_path):
    return extracted(model, tmp_path / "tiny.hub")


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_trends_are_the_papers_loop(family, tmp_path):
    model = tiny_language_model(family)
    lens = Lens.of_model(model)
    tokens = count_token_languages(read_sample("ntrex", languages=LANGUAGES, limit=60), lens)
    store = extracted(model, tmp_path / "tiny.hub")
    table = language_trends(store, lens, tokens, layers=PAPERS, bootstrap=0)
    for language in LANGUAGES:
        wanted = authors.trends(model, texts(store, language), tokens.weights)
        np.testing.assert_allclose(by_layer(table, language, PAPERS), wanted.numpy(), atol=1e-4)


def test_a_word_against_its_glosses_is_the_papers(model, lens, store):
    text, place, word, glosses = texts(store, "es")[0], 4, 300, [31, 77, 140]
    wanted = authors.word_against_glosses(model, text, place, word, glosses)
    start = store.token_ranges()[store.partition("es").positions()[0], 0] + 1  # after <s>
    for layer, expected in zip(PAPERS, wanted, strict=True):
        variant = "final" if layer == "final" else "raw"
        state = store.hidden(layer).take([start + place])
        found = lens.sweep(state, variant=variant, targets=torch.tensor([[word, *glosses]])).target_log_probabilities[0]
        torch.testing.assert_close(torch.stack([found[0], found[1:].max()]).double(), expected, atol=1e-4, rtol=0)


def test_intervals_are_over_items_and_hold_the_value(lens, tokens, store):
    table = language_trends(store, lens, tokens, partitions=["es"], layers=[-1], seed=3)
    again = language_trends(store, lens, tokens, partitions=["es"], layers=[-1], seed=4)
    for row in table.to_pylist():
        assert row["low"] < row["value"] < row["high"]
        assert row["n"] == 5
        assert row["tokens"] == sum(len(lens.encode(text).ids) - 1 for text in texts(store, "es"))
    assert table["value"].to_pylist() == again["value"].to_pylist()
    assert table["low"].to_pylist() != again["low"].to_pylist()
    found = language_mass(store, lens, tokens, partitions=["es"], layers=[-1])
    draws = np.random.default_rng(0).integers(5, size=(4000, 5))
    means = found.sums["3"][draws].sum(1) / found.tokens[draws].sum(1)[:, None]
    low = np.quantile(means, 0.025, axis=0)
    np.testing.assert_allclose(table["low"].to_pylist(), low, atol=0.2 * float(np.ptp(means)))


def test_probabilities_of_all_languages_sum_to_1_where_the_unembedding_has_rows_that_are_no_token(lens, tokens, store):
    head = lens.head
    padded = Lens(Head(torch.cat([head.unembedding, head.unembedding[:40]]), head.norm), lens.vocabulary, lens.name)
    corpus = read_sample("ntrex", languages=LANGUAGES, limit=60)
    wider = language_trends(store, padded, count_token_languages(corpus, padded), layers=["2"], bootstrap=0)
    plain = language_trends(store, lens, tokens, layers=["2"], bootstrap=0)
    np.testing.assert_allclose(by_layer(wider, "es", ["2"]).sum(), 1, atol=1e-5)
    np.testing.assert_allclose(wider["value"].to_numpy(), plain["value"].to_numpy(), atol=1e-6)


def test_a_beginning_of_text_is_left_out(lens, tokens, store, tmp_path):
    found = language_mass(store, lens, tokens, layers=["0"])
    read = [len(lens.encode(text).ids) for text in store.items["text"].to_pylist()]
    assert (found.tokens == np.array(read) - 1).all()
    bare = tiny_language_model("gpt2")  # whose tokenizer adds none
    other = Lens.of_model(bare)
    assert other.vocabulary.definition != lens.vocabulary.definition
    counted = count_token_languages(read_sample("ntrex", languages=LANGUAGES, limit=9), other)
    store = extracted(bare, tmp_path / "bare.hub")
    assert language_mass(store, other, counted, layers=["0"]).tokens.tolist() == [n - 1 for n in read]
    assert store.items["tokens"].to_pylist() == [n - 1 for n in read]


def test_blocks_of_states_change_nothing(lens, tokens, store, monkeypatch):
    whole = language_mass(store, lens, tokens)
    monkeypatch.setattr("hubstore.lens.trends.BLOCK", 7 * store.width)
    parts = language_mass(store, lens, tokens)
    for layer, sums in whole.sums.items():
        np.testing.assert_allclose(parts.sums[layer], sums, atol=1e-5)


def test_a_layer_that_is_named_twice_is_read_once(lens, tokens, store):
    once, twice = (language_trends(store, lens, tokens, layers=names, bootstrap=0) for names in (["3"], ["3", -1]))
    assert once.equals(twice)


def test_a_pooled_store_is_read_by_item(model, lens, tokens, tmp_path):
    corpus = read_sample("ntrex", languages=LANGUAGES, limit=3)
    extract(corpus, model, tmp_path / "last.hub", Settings(poolings=("last",), dtype="float32"))
    store = StoreReader(tmp_path / "last.hub")
    assert language_trends(store, lens, tokens, bootstrap=0)["tokens"].to_pylist() == [3] * (4 * 3 * 3)


def test_trends_are_kept_with_what_they_were_made_from(lens, tokens, store):
    table = language_trends(store, lens, tokens, bootstrap=10)
    made_from = metadata(table)
    assert made_from["parameters"]["token_languages"]["digest"] == tokens.digest
    assert made_from["parameters"]["token_languages"]["corpus"]["sample"] == "ntrex"
    kept = list((store.path / "analyses/trends").iterdir())
    assert len(kept) == 1
    assert language_trends(store, lens, tokens, bootstrap=10).equals(table)
    other = TokenLanguages(tokens.languages, tokens.weights.flip(1), tokens.provenance)
    assert not language_trends(store, lens, other, bootstrap=10).equals(table)
    assert len(list((store.path / "analyses/trends").iterdir())) == 2


def test_tokens_of_another_tokenizer_and_partitions_that_are_not_there_are_refused(lens, tokens, store):
    other = TokenLanguages(tokens.languages, tokens.weights, {**tokens.provenance, "tokenizer": "0"})
    with pytest.raises(LensError, match="another tokenizer than that of tiny-llama"):
        language_trends(store, lens, other)
    with pytest.raises(QueryError, match="no partition 'fr'"):
        language_trends(store, lens, tokens, partitions=["fr"])


def test_the_figure_stacks_the_inputs_language_then_english_then_the_greatest(lens, tokens, store):
    table = language_trends(store, lens, tokens, bootstrap=0)
    assert trends_png(table).startswith(b"\x89PNG")
    one = table.filter([x == "es" for x in table["x"].to_pylist()])
    layers, shown, stacked = areas(one, "es")
    assert layers == ["0", "1", "2", "3", "final"]
    assert shown == ["es", "en", "zh-Hans"]
    np.testing.assert_allclose(stacked.sum(0), 1, atol=1e-5)
    many = one.to_pylist() + [
        {**row, "language": f"l{i}", "value": 0.01 * i} for row in one.to_pylist() if row["language"] == "en"
        for i in range(9)
    ]  # fmt: skip
    _, shown, stacked = areas(type(table).from_pylist(many), "es")
    assert shown == ["es", "en", "zh-Hans", "l8", "l7", "7 others"]
    assert stacked[-1] == pytest.approx(0.01 * sum(range(7)))


def test_a_language_has_one_look_in_all_panels_and_no_other_language_has_it():
    panels = [["es", "en", "de", "fr", "3 others"], ["de", "en", "es", "ru", "3 others"], ["sw", "en", "fr", "de"]]
    looks = language_looks(panels)
    assert looks.keys() == {"es", "en", "de", "fr", "ru", "sw"}
    assert len(set(looks.values())) == len(looks)
    assert looks["en"] == HUB_LOOK


def test_a_panel_begins_with_the_language_that_stands_for_the_inputs_own(lens, tokens, store):
    table = language_trends(store, lens, tokens, bootstrap=0)
    one = table.filter([x == "zh-Hans" for x in table["x"].to_pylist()])
    column = one.column_names.index("language")
    named = [{"zh-Hans": "zh"}.get(name, name) for name in one["language"].to_pylist()]
    assert areas(one.set_column(column, "language", [named]), "zh-Hans")[1] == ["zh", "en", "es"]


@pytest.mark.real
@pytest.mark.slow
def test_gemmas_trends_and_words_are_the_papers_loop(gemma, tmp_path):
    model, lens = gemma, Lens.of_model(gemma)
    tokens = count_token_languages(read_sample("ntrex", languages=LANGUAGES, limit=60), lens)
    short = {"en": "An old fish swims.", "es": "Un viejo pez nada."}
    corpus = Corpus.from_items(Item(language, text, language) for language, text in short.items())
    store = extracted(model, tmp_path / "gemma.hub", corpus)
    layers = [*map(str, range(1, model.depth)), "final"]
    table = language_trends(store, lens, tokens, layers=layers, bootstrap=0)
    word, gloss, place = lens.token(" fish"), lens.token("鱼"), 3
    for language in short:
        own = texts(store, language)
        wanted = authors.trends(model, own, tokens.weights)
        np.testing.assert_allclose(by_layer(table, language, layers), wanted.numpy(), atol=1e-4)
        expected = authors.word_against_glosses(model, own[0], place, word, [gloss])
        row = store.token_ranges()[store.partition(language).positions()[0], 0] + 1 + place
        for layer in ("1", "6", "17", "final"):
            swept = lens.sweep(store.hidden(layer).take([row]), targets=torch.tensor([[word, gloss]]))
            # Its raw logits reach 20,000, where neighboring float32 numbers are 0.002 apart.
            wanted = expected[layers.index(layer)]
            torch.testing.assert_close(swept.target_log_probabilities[0].double(), wanted, atol=1e-4, rtol=3e-6)
    made_from = json.loads(table.schema.metadata[b"hubstore"])
    assert made_from["parameters"]["lens"] == model.identity["id"]


def test_mass_on_tokens_that_were_never_counted_is_a_column_of_its_own(model, lens, tokens, store):
    table = language_trends(store, lens, tokens, layers=PAPERS, bootstrap=0)
    uncounted = torch.cat([tokens.known, 1 - tokens.known.sum(1, keepdim=True)], 1)
    for language in LANGUAGES:
        expected = authors.trends(model, texts(store, language), uncounted).numpy()  # [layers, languages + 1]
        rows = [row for row in table.to_pylist() if row["x"] == language]
        for layer, mass in zip(PAPERS, expected, strict=True):
            here = [row for row in rows if row["layer"] == layer]
            assert {row["uncounted"] for row in here} == {here[0]["uncounted"]}
            assert here[0]["uncounted"] == pytest.approx(mass[-1], abs=1e-4)
            assert [row["of_counted"] for row in here] == pytest.approx(list(mass[:-1] / mass[:-1].sum()), abs=1e-3)
            diluted = [row["of_counted"] * (1 - row["uncounted"]) + row["uncounted"] / len(here) for row in here]
            assert [row["value"] for row in here] == pytest.approx(diluted, abs=1e-4)
