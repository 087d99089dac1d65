"""Concepts put into other prompts: what counts as said in the target's language, and what does not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hubstore.errors import AnalysisError, CorpusError
from hubstore.experiments import ExperimentContext
from hubstore.experiments.claims import by_language
from hubstore.experiments.materials.translations import (
    SOURCE_INTO,
    SOURCES,
    SPOKEN,
    TARGET_FROM,
    TARGETS,
    Translation,
    concepts,
)
from hubstore.experiments.recipes import patching
from hubstore.experiments.significance import best_layer, mean_rows
from hubstore.stats.bootstrap import Bootstrap
from hubstore.stats.verdicts import NO, YES
from hubstore.steer import Patched, last_states, patch
from tests.experiments.readers import reader

LANGUAGES = (*SOURCES, SOURCE_INTO, TARGET_FROM, *TARGETS)


@pytest.fixture
def data(tmp_path):
    """Thirty concepts whose words are tokens of the tiny model."""
    tokens = sorted(token for token in reader().tokenizer.get_vocab() if token.isascii() and token.isalpha())
    drawn = np.random.default_rng(0).choice(tokens, (30, len(LANGUAGES)), replace=False)
    (tmp_path / "data").mkdir()
    lines = ["\t".join(LANGUAGES), *("\t".join(row) for row in drawn.tolist())]
    (tmp_path / "data" / "words.tsv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "data"


@pytest.fixture
def here(tmp_path, data):
    return ExperimentContext(reader(), tmp_path / "out", data, bootstrap=100, device="cpu")


def saying(monkeypatch, says):
    """A state holds the number of its concept; what it makes a model say, `says` of layer and target's language."""
    tested = []

    def source_states(context, shown, concepts, layers, *, whole):
        tested[:] = concepts
        numbers = torch.arange(len(concepts), dtype=torch.float32)
        return numbers[None, :, None, None].expand(len(SOURCES), -1, len(layers), 32)

    def patched(model, prompts, states, tokens, *, layers, **more):
        vocabulary = patching.ExperimentContext(model, None).lens.vocabulary
        found = torch.full((len(prompts), len(layers), len(tokens)), 0.01)
        for row, prompt in enumerate(prompts):
            into = next(name for name in TARGETS if prompt.endswith(f'{SPOKEN[name]}: "'))
            words = tested[int(states[row, 0, 0])]
            for place, layer in enumerate(layers):
                language = says(layer, into)
                token = vocabulary.pieces(words[language])[0] if language else None
                if token in tokens:
                    found[row, place, tokens.index(token)] = 0.3 + 0.1 * torch.rand(())
        nothing = torch.zeros(len(prompts), len(layers), 1)
        return Patched(tuple(layers), found.log(), nothing.long(), nothing)

    torch.manual_seed(0)
    monkeypatch.setattr(patching, "source_states", source_states)
    monkeypatch.setattr(patching, "patch", patched)


@pytest.mark.parametrize(
    ("says", "verdict"),
    [
        (lambda layer, into: into if layer == 2 else None, YES),
        (lambda layer, into: SOURCE_INTO if layer == 2 else None, NO),
        (lambda layer, into: into if layer == 3 else None, NO),
        (lambda layer, into: None, NO),
    ],
    ids=["in the target's language", "in the source's language", "at the last layer alone", "nothing"],
)
def test_only_a_concept_said_in_the_targets_language_in_the_middle_counts(here, monkeypatch, says, verdict):
    saying(monkeypatch, says)
    result = patching.concept_patching(here)
    assert result.verdict == verdict
    assert [one.name for one in result.readings] == [patching.ONE, patching.SEVERAL, patching.AT_WORD]
    (note,) = [note for note in result.notes if note.startswith("by language")]
    expected = "yes in 3 of 3: es (layer 2), zh (layer 2), ja (layer 2)" if verdict == YES else "yes in 0 of 3"
    assert expected in note


def test_what_any_state_makes_a_model_say_does_not_count(here, monkeypatch):
    saying(monkeypatch, lambda layer, into: into)
    told = patching.patch

    def whatever(model, prompts, states, tokens, **more):
        half = len(prompts) // 2  # the controls follow, with the sources' own states
        return told(model, prompts, torch.cat([states[:half], states[:half]]), tokens, **more)

    monkeypatch.setattr(patching, "patch", whatever)
    assert patching.concept_patching(here).verdict == NO


def test_random_weights_say_no_concept_and_the_table_is_what_patching_gives(here):
    here = replace(here, limit=10)
    result = patching.concept_patching(here)
    assert result.verdict != YES
    shown, tested = patching.drawn_concepts(here)
    model, into = here.language_model, Translation(TARGET_FROM, "zh", shown)
    trials = patching.trials_of(here, into, tested)
    sources = [Translation("de", SOURCE_INTO, shown).prompt(tested[one.source]) for one in trials]
    states = last_states(model, sources, [2])
    tokens = [one.tokens[0] for one in trials]
    found = patch(model, [one.prompt for one in trials], states, tokens, layers=[2], restart=False)
    expected = float(found.log_probabilities[:, 0].diagonal().exp().mean())
    quantity = patching.called(patching.SAID, patching.ONE, "zh")
    (row,) = [r for r in result.table.to_pylist() if (r["layer"], r["quantity"]) == ("2", quantity)]
    assert row["value"] == pytest.approx(expected, rel=1e-4)
    assert row["n"] == len(trials)


def test_concepts_that_cannot_be_told_apart_or_could_be_copied_are_left_out(here):
    shown, tested = patching.drawn_concepts(here)
    into = Translation(TARGET_FROM, "es", shown)
    before = {one.source for one in patching.trials_of(here, into, tested)}
    tested[0] = {**tested[0], "es": tested[0]["it"]}
    tested[1] = {**tested[1], "es": tested[1]["nl"]}
    trials = patching.trials_of(here, into, tested)
    assert before - {one.source for one in trials} >= {0, 1}
    for one in trials:
        assert one.tokens[0] not in one.tokens[1:]
        assert one.source not in (one.target, one.control)
    for seed in range(12):
        drawn = patching.trials_of(replace(here, seed=seed), into, tested)
        assert all(one.control not in (one.source, one.target) for one in drawn)


def test_a_prompt_shows_translations_and_ends_where_one_is_to_come():
    cat, dog = {"fr": "chat", "es": "gato"}, {"fr": "chien", "es": "perro"}
    into = Translation("fr", "es", [cat])
    assert into.prompt(dog) == 'Français: "chat" - Español: "gato"\nFrançais: "chien" - Español: "'
    assert into.beginning(dog) == 'Français: "chat" - Español: "gato"\nFrançais: "chien'


def test_words_of_ones_own_need_every_language(here, data):
    assert len(concepts(here)) == 30
    (data / "words.tsv").write_text("de\tnl\nKatze\tkat\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"words.tsv has no column pt, sv, it, fr, es, zh, ja; its first line names"):
        concepts(here)
    (data / "words.tsv").write_text("\t".join(LANGUAGES) + "\n" + "\t".join("abcdefghi"), encoding="utf-8")
    with pytest.raises(AnalysisError, match="1 concepts have one word in each of"):
        patching.drawn_concepts(here)


def test_concepts_that_ship_have_a_word_in_every_language(tmp_path):
    found = concepts(ExperimentContext(reader(), tmp_path))
    assert sum(len(words) == len(LANGUAGES) for words in found.values()) > 50
    assert all(word.isalpha() for words in found.values() for word in words.values())


def test_of_languages_those_count_that_few_would_be_among_by_chance():
    context = SimpleNamespace(intermediate=("1", "2", "3"), seed=0)
    rng = np.random.default_rng(0)
    means = {"a": 3.0, "b": 0.3, **{f"n{number}": 0.0 for number in range(8)}, "few": 3.0}
    rows = [
        row
        for layer in context.intermediate
        for language, mean in means.items()
        for row in mean_rows(
            layer, {language: rng.normal(mean, size=10 if language == "few" else 60)}, Bootstrap(100, 0)
        )
    ]
    (note,) = by_language(context, rows, {name: [name] for name in [*means, "absent"]}, "raised")
    assert note.startswith("by language, raised, with false discoveries in mind: yes in ")
    yes, rest = note.split("; no: ")
    assert "a (layer" in yes
    assert not any(f"n{number} " in yes for number in range(8))
    assert rest.endswith("; too few to say: few")
    assert "absent" not in note
    assert by_language(context, rows, {"absent": ["absent"]}) == ()


def test_a_language_of_which_the_rule_says_no_is_not_shown_for_want_of_others():
    context, rng = SimpleNamespace(intermediate=("1", "2"), seed=0), np.random.default_rng(12)
    rows = [
        row
        for layer in context.intermediate
        for row in mean_rows(layer, {"a": rng.normal(0.25, 1, 40)}, Bootstrap(100, 0))
    ]
    found = best_layer(rows, ("a",), context.intermediate)
    assert 0.025 < found.test.p_by_layer[found.place] < 0.05
    assert found.verdict == NO
    (note,) = by_language(context, rows, {"a": ["a"]})
    assert "yes in 0 of 1; no: a (q " in note
