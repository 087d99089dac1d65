"""Another name or number in a sentence, and romanized texts: what stays near is what is said."""

import numpy as np
import pytest
import torch

from hubstore.corpus import Item
from hubstore.experiments import ExperimentContext
from hubstore.experiments.recipes import rewritten, surface
from hubstore.experiments.recipes.cosines import REMOVED
from hubstore.experiments.recipes.similarity import multilingual_similarity
from tests.experiments.readers import curve, reader

TEXTS = [
    "In 1984 he met Anna in Paris.",
    "They paid 25 for it, and Peter paid 7.",
    "When he saw Maria, he left.",
    "Nothing is named here.",
    "London calls.",
]


@pytest.fixture
def here(tmp_path):
    return ExperimentContext(reader(), tmp_path / "out", limit=12, bootstrap=100, device="cpu")


class Given:
    """A context whose stores hold states by the items' texts, at one layer."""

    def __init__(self, context, state_of):
        self.context, self.state_of = context, state_of
        self.made = {}

    def __getattr__(self, name):
        return getattr(self.context, name)

    def store(self, name, corpus):
        items = list(corpus.items())
        self.made[name] = [item.text for item in items]
        return Stored(items, torch.stack([self.state_of(item.text) for item in items]))

    def over_layers(self, what, find):
        return find("1")


class Stored:
    def __init__(self, items, states):
        self.places = {item.id: place for place, item in enumerate(items)}
        self.states = states

    def positions(self, ids):
        return np.array([self.places[one] for one in ids])

    def hidden(self, layer):
        return self

    def take(self, rows):
        return self.states[torch.as_tensor(rows)]


def items_of(language, texts):
    return [Item(f"{language}:{n}", text, language, str(n)) for n, text in enumerate(texts)]


def test_one_number_or_else_one_name_becomes_another_of_its_kind():
    for seed in range(20):
        changed = rewritten.near_duplicates(TEXTS, seed)
        assert changed[3] is None, "there is neither"
        assert changed[4] is None, "a word that begins a sentence may be no name"
        for old, new, is_number in zip(TEXTS[:3], changed[:3], (True, True, False), strict=True):
            ((before, after),) = [pair for pair in zip(old.split(), new.split(), strict=True) if pair[0] != pair[1]]
            assert before[0].isdigit() is after[0].isdigit() is is_number
            assert len(before) == len(after) or not is_number
        assert changed[2].split()[3].strip(",") in {"Anna", "Paris", "Peter"}
    assert rewritten.near_duplicates(TEXTS, 3) == rewritten.near_duplicates(TEXTS, 3)


def test_topic_alone_is_as_near_to_another_name_and_what_is_said_is_nearer(here):
    drawn = torch.Generator().manual_seed(0)
    n = 40
    topics, names = torch.randn(n, 16, generator=drawn), torch.randn(1000, 16, generator=drawn)
    y = items_of("en", [f"topic{chr(97 + k // 26)}{chr(97 + k % 26)} is {100 + k}" for k in range(n)])
    x = items_of("zh", [f"话题{k}" for k in range(n)])
    store_of = {}

    def state(text, by_name):
        noise = 0.3 * torch.randn(16, generator=drawn)
        if text.startswith("话题"):
            k = int(text[2:])
            number = 100 + k
        else:
            word, _, digits = text.split()
            k, number = (ord(word[-2]) - 97) * 26 + ord(word[-1]) - 97, int(digits)
        return topics[k] + by_name * names[number] + noise

    for by_name in (0.0, 1.0):
        given = Given(here, lambda text, by_name=by_name: state(text, by_name))
        store = Stored([*x, *y], torch.stack([state(item.text, by_name) for item in (*x, *y)]))
        rows, notes = rewritten._nearer(given, store, x, y)
        store_of[by_name] = {row["quantity"]: row for row in rows}
        assert notes == ("40 of 40 en texts have a name or a number to put another for",)
        assert len(given.made["near-duplicates"]) == 40
    for quantity in (rewritten.NEARER, rewritten.NEARER + REMOVED):
        assert store_of[0.0][quantity]["low"] < 0.02
        assert store_of[1.0][quantity]["low"] > 0.2
        assert store_of[1.0][quantity]["clusters"].ids.tolist() == list(range(40))


def test_romanized_texts_are_of_one_script_and_those_that_are_already_are_left(here):
    given = Given(here, lambda text: torch.randn(8, generator=torch.Generator().manual_seed(len(text))))
    x, y = items_of("zh", ["猫坐在垫子上", "狗在叫", "下雨了"]), items_of("en", ["A cat.", "A dog.", "It rains."])
    rows, (note,) = rewritten._romanized(given, x, y)
    assert given.made["romanized"] == ["MaoZuoZaiDianZiShang", "GouZaiJiao", "XiaYuLe", "A cat.", "A dog.", "It rains."]
    assert note == "romanized, the first text is 'MaoZuoZaiDianZiShang'"
    assert {row["quantity"] for row in rows} == {rewritten.ROMANIZED, rewritten.ROMANIZED + REMOVED}
    assert rewritten._romanized(given, y, y) == ([], ())


def test_without_the_table_romanized_texts_are_left_out_with_a_note(here, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "anyascii", None)
    rows, (note,) = rewritten._romanized(here, items_of("zh", ["猫"] * 3), items_of("en", ["cat"] * 3))
    assert rows == []
    assert note.startswith("romanized texts are left out: ")
    assert 'pip install "hubstore[experiments]"' in note


def test_the_multilingual_experiment_has_rewritten_texts_beside_its_claim(here):
    result = multilingual_similarity(here)
    for quantity in (*rewritten.REWRITTEN, surface.LIKE_LENGTHS):
        assert len(curve(result, quantity, here.layers)) == len(here.layers)
    assert {"near-duplicates", "romanized"} <= {name.rsplit("-", 1)[0] for name in here.stores}


def test_pairs_of_like_lengths_are_compared_among_themselves():
    kinds = surface.of_like_lengths([np.arange(20), np.arange(20)[::-1] * 3])
    assert sorted(place for kind in kinds for place in kind) == list(range(20))
    assert [len(kind) for kind in kinds] == [10, 10]
    assert max(kinds[0]) > max(kinds[1]), "the longest English texts are short together with their matches"
    assert surface.of_like_lengths([np.array([1]), np.array([2])]) == []
