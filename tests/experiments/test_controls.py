"""A "yes" needs more than shuffled states and random weights give, and each of them says no by itself."""

import json
import zlib
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from hubstore.analysis import characters
from hubstore.corpus import Corpus, Item
from hubstore.errors import ResourceError
from hubstore.experiments import ExperimentContext, controls, run, run_experiment
from hubstore.experiments.claims import CHOSEN, FROM_FIRST, FROM_LAST, cross_validated, judge, middle, middle_layers
from hubstore.experiments.context import RANDOM_WEIGHTS, SHUFFLED
from hubstore.experiments.controls import compare, leads, not_done, with_controls, without_controls
from hubstore.experiments.recipes import lens_text, surface
from hubstore.experiments.recipes.lens import ProbePosition, other_equivalents
from hubstore.experiments.shuffled import ShuffledStore, clashes, others
from hubstore.experiments.significance import ClusterValues, mean_rows
from hubstore.experiments.twin import random_twin
from hubstore.models.loading import weights_digest
from hubstore.stats.bootstrap import Bootstrap
from hubstore.stats.verdicts import NO, TOO_FEW, YES
from tests.experiments.readers import reader

LAYERS = tuple(map(str, range(1, 12)))
TINY = {"arithmetic-lens": 60, "multilingual-similarity": 30, "code-lens-roles": 30}
LONGER = {"arithmetic-similarity": 60, "arithmetic-pca": 60, "semantics-similarity": 30, "code-lens-and": 30}


@pytest.fixture
def context(tmp_path):
    return ExperimentContext(reader(), tmp_path / "out", limit=12, bootstrap=100, device="cpu")


def judged(means, n=60, seed=0, noise=1.0):
    """The result of one headline whose mean by layer is given."""
    context = SimpleNamespace(
        model=SimpleNamespace(depth=12), intermediate=LAYERS, seed=0, resampling=Bootstrap(100, 0)
    )
    rng = np.random.default_rng(seed)
    base = rng.normal(size=n)
    rows = [
        row
        for layer, mean in zip((*LAYERS, "final"), means, strict=True)
        for row in mean_rows(layer, {"more": mean + noise * (base + rng.normal(size=n))}, context.resampling)
    ]
    return context, rows, judge(context, rows, ("more",), ())


def hub(height):
    return [0.0, 0.0, *[height] * 7, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", [*TINY, *(pytest.param(name, marks=pytest.mark.slow) for name in LONGER)])
def test_a_model_with_random_weights_and_shuffled_states_show_nothing(name, tmp_path):
    context = ExperimentContext(reader(), tmp_path, limit={**TINY, **LONGER}[name], bootstrap=100, device="cpu")
    result = run_experiment(name, context)
    assert result.verdict != YES
    assert {one.name for one in result.controls} == {SHUFFLED, RANDOM_WEIGHTS}
    for control in ("shuffled-states", "random-weights"):
        found = json.loads((tmp_path / name / control / "result.json").read_text())
        assert found["verdict"] != YES
        assert found["made_from"]["control"] == control.replace("-", " ")


def test_a_control_counts_by_each_headline_where_it_is_greatest_and_not_where_another_is_low():
    def found(first, second, seed):
        context, rows, _ = judged(first, seed=seed)
        _, others, _ = judged(second, seed=seed + 1)
        renamed = [{**row, "quantity": "other"} for row in others]
        return judge(context, [*rows, *renamed], ("more", "other"), ())

    own = found(hub(2.0), hub(2.0), 0)
    # As much of the first at the middle layers, but less than nothing of the second; a little of both at a late one.
    control = found([*hub(2.0)[:10], 0.2, 0.0], [-3.0] * 10 + [0.2, 0.0], 4)
    judged_by = compare("shuffled states", own, control, 0)
    assert own.verdict == YES
    assert judged_by.verdicts == (NO,)
    assert judged_by.words[0].startswith("more ")
    assert "; other " in judged_by.words[0]


def test_a_claim_is_shown_where_the_model_leads_every_control():
    own, nothing, as_much = (judged(hub(height), seed=seed)[2] for height, seed in ((2.0, 0), (0.0, 1), (2.0, 2)))
    assert own.verdict == YES
    led, not_led = compare("random weights", own, nothing, 0), compare("shuffled states", own, as_much, 0)
    assert led.verdicts == (YES,)
    assert not_led.verdicts == (NO,)
    assert with_controls(own, [led]).verdict == YES
    both = with_controls(own, [led, not_led])
    assert both.verdict == NO
    assert both.controls == (led, not_led)
    assert any(note.startswith("control shuffled states (the model does not lead it): more ") for note in both.notes)
    assert with_controls(own, [not_done("random weights", own, "no program")]).verdict == YES


def test_controls_of_too_few_texts_in_common_say_nothing():
    own, few = judged(hub(2.0))[2], judged(hub(0.0), n=10, seed=1)[2]
    assert compare("random weights", own, few, 0).verdicts == (TOO_FEW,)


def test_a_control_is_led_text_by_text_whatever_texts_a_difference_has(monkeypatch):
    def rows(value, *ids):
        return [{"clusters": ClusterValues(np.array(one), value + np.array(one, float))} for one in ids]

    seen = []
    monkeypatch.setattr(
        controls, "sign_flip_test", lambda stacked, seed: seen.append(stacked) or SimpleNamespace(verdict=YES)
    )
    leads(rows(2.0, [0, 1, 2], [1, 3]), rows(1.5, [1, 2, 4], [0, 1, 3]), 0)
    np.testing.assert_array_equal(seen[0][:, 0], [[0.5, 0.5], [0.5, np.nan], [np.nan, 0.5]])


def test_without_controls_nothing_counts_as_shown(context):
    assert without_controls(judged(hub(2.0))[2]).verdict == NO
    alone = run_experiment("arithmetic-pca", ExperimentContext(reader(), context.out, limit=12, controls=False))
    assert alone.controls == ()
    assert alone.notes[0].startswith("done without controls; by its own rule alone: ")


def test_a_fault_of_the_machine_in_a_control_is_no_answer_and_no_result(context, monkeypatch):
    def done(of, chosen):
        if of.control:
            raise ResourceError("the disk is full")
        return judged(hub(2.0))[2], {}

    monkeypatch.setattr(run, "_done", done)
    with pytest.raises(ResourceError, match="the disk is full"):
        run_experiment("arithmetic-pca", context)
    assert not list(context.out.rglob("result.json"))


def test_a_hub_is_above_the_first_layer_and_the_last():
    assert middle_layers(judged(hub(1.0))[0]) == tuple(map(str, range(3, 10)))
    verdicts = {}
    for name, means in {"hub": hub(2.0), "early": [2.0] * 9 + [0.0] * 3, "late": [0.0] * 2 + [2.0] * 10}.items():
        context, rows, _ = judged(means)
        found, (words,) = middle(context, rows, ("more",))
        verdicts[name] = words.split(": ")[1].split(";")[0]
        assert [row["quantity"] for row in found] == [f"more, {FROM_FIRST}", f"more, {FROM_LAST}"]
        assert found[0]["layer"] == "3 to 9"
    assert verdicts == {"hub": YES, "early": NO, "late": NO}


def test_at_the_layer_that_other_items_choose_noise_is_no_difference():
    best, held = [], []
    for seed in range(12):
        context, rows, result = judged([0.0] * 12, n=40, seed=seed)
        best.append(result.readings[0].rows[0]["value"])
        (row,) = cross_validated(context, rows, ("more",))[0]
        assert row["quantity"] == f"more, {CHOSEN}"
        held.append(row["value"])
    assert np.mean(held) < np.mean(best) - 0.1
    context, rows, _ = judged(hub(2.0))
    (row,), (words,) = cross_validated(context, rows, ("more",))
    assert row["low"] > 1
    assert words.startswith("held-out items in 5 folds, layers ")


def test_a_twin_has_the_configuration_and_other_weights_the_same_for_a_seed():
    import copy

    own = reader()
    before = weights_digest(own.trunk)
    state = torch.random.get_rng_state()
    one, same, other = (random_twin(copy.deepcopy(own), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert weights_digest(own.trunk) == before
    assert one.identity["weights"] == same.identity["weights"] != other.identity["weights"]
    assert one.identity["id"] == "tiny-reader with random weights, seed 0"
    assert one.trunk.config.to_dict() == own.trunk.config.to_dict()
    assert float(one.head.unembedding.std()) == pytest.approx(own.trunk.config.initializer_range, rel=0.1)
    assert torch.equal(one.head.unembedding, same.head.unembedding)
    ids = torch.tensor([own.tokenizer("a cat")["input_ids"]])
    with torch.inference_mode():
        last = []
        hook = one.blocks[-1].register_forward_hook(lambda module, given, out: last.append(out))
        final = one.trunk(input_ids=ids).last_hidden_state
        hook.remove()
    state = last[0][0] if isinstance(last[0], tuple) else last[0]
    torch.testing.assert_close(one.head.norm(state), final)


def test_shuffled_items_have_states_of_others_of_their_partition_and_concepts_come_apart(context):
    items = [
        Item(f"{language}:{n}", f"{language} {n}", language, str(n)) for n in range(20) for language in ("en", "de")
    ]
    plain = context.store("pairs", Corpus.from_items(items, "pairs"))
    mixed = context.as_control(SHUFFLED, head=False).store("pairs", Corpus.from_items(items, "pairs"))
    assert isinstance(mixed, ShuffledStore)
    assert mixed.path == plain.path
    assert mixed.digest != plain.digest
    concepts = []
    for name in ("en", "de"):
        positions = plain.partition(name).positions()
        own, exchanged = (store.hidden("2").take(positions) for store in (plain, mixed))
        of = (exchanged[:, None] == own[None]).all(-1).nonzero()[:, 1]
        assert sorted(of.tolist()) == list(range(20))
        assert (of != torch.arange(20)).all()
        concepts.append(of)
    assert (concepts[0] == concepts[1]).float().mean() < 0.3
    hidden = mixed.hidden("2")
    assert torch.equal(hidden.read(3, 9), hidden.take(np.arange(3, 9)))


def test_what_is_often_meant_is_often_the_control_too():
    """A control drawn among meanings has rare words where positions have frequent ones."""
    often = {"the": 40, "of": 30, "cat": 20, "axolotl": 10, "ibex": 8}
    positions = [
        ProbePosition(f"{meaning} {n}", 1, 5, meaning, (token,))
        for token, (meaning, count) in enumerate(often.items())
        for n in range(count)
    ]
    controls = other_equivalents(positions, 0)
    assert Counter(controls) == Counter(one.equivalents for one in positions)
    assert all(control != one.equivalents for control, one in zip(controls, positions, strict=True))


def test_where_no_permutation_will_do_the_rest_is_drawn_as_it_comes():
    labels = [frozenset("a")] * 8 + [frozenset("b")] * 2
    drawn = others(labels, np.random.default_rng(0))
    assert not clashes(labels, drawn)
    alone = [frozenset("a")] * 3
    assert clashes(alone, others(alone, np.random.default_rng(0))) == [0, 1, 2]


def test_where_one_kind_is_most_of_all_each_place_is_looked_at_a_few_times():
    class Counted(frozenset):
        compared = 0

        def __and__(self, other):
            Counted.compared += 1
            return super().__and__(other)

    labels = [Counted("a")] * 1900 + [Counted("b")] * 100
    assert not clashes(labels, others(labels, np.random.default_rng(0)))
    assert Counted.compared < 30 * len(labels)


class Pairs:
    """A store of two partitions whose states are given."""

    def __init__(self, texts, states):
        size = len(next(iter(texts.values())))
        every = [text for several in texts.values() for text in several]
        concepts, tokens = [*map(str, range(size))] * 2, [len(text.split()) for text in every]
        self.items = pa.table({"text": every, "concept": concepts, "tokens": tokens})
        self._states = torch.cat([states[name] for name in texts])
        self._positions = {name: np.arange(size) + size * place for place, name in enumerate(texts)}

    def partition(self, name):
        return SimpleNamespace(positions=lambda: self._positions[name])

    def hidden(self, layer):
        return SimpleNamespace(take=lambda rows: self._states[torch.as_tensor(rows)])


def test_texts_that_are_near_for_their_quotation_marks_are_not_near_once_all_end_alike(tmp_path):
    context = ExperimentContext(reader(), tmp_path, bootstrap=100, device="cpu")
    drawn = torch.Generator().manual_seed(0)
    ends = ['"' if n % 5 == 0 else "." for n in range(60)]
    texts = {"en": [f"a{n} {end}" for n, end in enumerate(ends)], "de": [f"b{n} {end}" for n, end in enumerate(ends)]}
    quoted = torch.tensor([[4.0 if end == '"' else 0.0] + [0.0] * 31 for end in ends])
    states = {name: quoted + torch.randn(60, 32, generator=drawn) for name in texts}
    rows, notes = surface.compare_form(context, Pairs(texts, states), "en", "de")
    found = {row["quantity"]: row for row in rows if row["layer"] == "1"}
    assert notes[0].startswith("of 60 pairs both texts end as most do in 48, 60 end as another pair does")
    x, y = (states[name] / states[name].norm(dim=1, keepdim=True) for name in texts)
    cosines = x @ y.T
    by_ending = float(cosines.diagonal().mean() - (cosines.sum() - cosines.trace()) / (60 * 59))
    assert by_ending > 0.05
    assert found[surface.ONE_ENDING]["clusters"].ids.tolist() == [n for n, end in enumerate(ends) if end == "."]
    like = found[surface.LIKE_ENDINGS]["clusters"]
    assert like.ids.tolist() == list(range(60))
    units = [side.double() / side.double().norm(dim=1, keepdim=True) for side in states.values()]
    strata = [[n for n, end in enumerate(ends) if end == one] for one in '".']
    shares = dict(zip(np.concatenate(strata).tolist(), surface.within(*units, strata), strict=True))
    np.testing.assert_allclose(like.values, [shares[n] for n in range(60)], atol=1e-6)
    for quantity in (surface.ONE_ENDING, surface.LIKE_ENDINGS):
        assert found[quantity]["low"] < 0.02
        assert abs(found[quantity]["value"]) < by_ending / 2


def test_nearness_within_endings_is_matched_minus_mismatched_of_each():
    drawn = torch.Generator().manual_seed(1)
    x, y = torch.randn(9, 4, generator=drawn), torch.randn(9, 4, generator=drawn)
    strata = [[0, 2, 4], [1, 3, 5, 7]]
    cosines = (x @ y.T).numpy()
    expected = []
    for members in strata:
        block = cosines[np.ix_(members, members)]
        k = len(members)
        expected += [np.trace(block) / k - (block.sum() - np.trace(block)) / (k * (k - 1))] * k
    assert surface.within(x, y, strata).mean() == pytest.approx(np.mean(expected), abs=1e-6)


def test_pieces_of_texts_are_counted_in_the_buckets_of_their_checksums():
    texts = ["abcabc", "ab", "", "日本語の文"]
    counts = characters.ngrams(texts)
    for row, text in zip(counts, texts, strict=True):
        expected = torch.zeros(characters.BUCKETS, dtype=torch.float64)
        for start in range(max(1, len(text) - 2)):
            expected[zlib.crc32(text[start : start + 3].encode()) % characters.BUCKETS] += 1
        assert torch.equal(row, expected)


def test_what_the_tokenizer_alone_decides_is_made_once_for_a_model_and_its_controls(context):
    made = []
    for one in (context, *(context.as_control(name, head=True) for name in (SHUFFLED, RANDOM_WEIGHTS))):
        assert one.once("languages", lambda: made.append(1) or "found") == "found"
    assert made == [1]


def test_roles_that_the_word_before_says_are_nothing_beyond_it(context):
    rng = np.random.default_rng(0)
    before, texts = rng.integers(4, size=400), np.arange(400)
    own = np.where(rng.random(400) < 0.8, before % 2, 1 - before % 2)  # mostly said by the word before
    by_word = np.eye(2)[before % 2] * 3 + rng.normal(size=(400, 2))
    by_name = np.eye(2)[own] * 3 + rng.normal(size=(400, 2))
    rows = {}
    for name, found in (("word", by_word), ("name", by_name)):
        (rows[name],) = lens_text.rows_beyond(context, "1", found, own, before, texts)
        (led,) = lens_text.confusion_rows(context, "1", found, own, ("agent", "theme"))[:1]
        assert led["low"] > 0
    assert rows["word"]["low"] < 0 < rows["word"]["high"]
    assert rows["name"]["low"] > 0
    (none,) = lens_text.rows_beyond(context, "1", by_word, np.zeros(400, int), before, texts)
    assert (none["value"], none["n"]) == (0, 0)


def test_what_a_comma_gained_is_counted_from_its_embedding(context):
    result = lens_text.code_lens_and(context)
    rows = {(row["layer"], row["quantity"]): row["value"] for row in result.table.to_pylist()}
    for quantity in ("and - or", "and - not, normed"):
        plain, _, normed = quantity.partition(",")
        gained = f"{plain}{lens_text.FROM_EMBEDDING}{',' + normed if normed else ''}"
        base = [rows[layer, quantity] - rows[layer, gained] for layer in context.layers]
        assert base == pytest.approx([base[0]] * len(base)), "the same at every layer: what the embedding says"
        assert gained in {name for plot in result.plots for name in plot.quantities}
