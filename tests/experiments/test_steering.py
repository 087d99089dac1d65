"""Steering in experiments: where it is done, what counts as a success, and verdicts of yes and of no."""

from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hubstore.errors import AnalysisError, CorpusError, SteeringError
from hubstore.experiments import ExperimentContext
from hubstore.experiments.materials.arithmetic import Expression, sums
from hubstore.experiments.materials.programs import Source, range_arguments, ranges
from hubstore.experiments.materials.sentiment import LANGUAGES, read_lexicon
from hubstore.experiments.recipes import steering, steering_sentiment, steering_text
from hubstore.experiments.significance import mean_rows
from hubstore.stats.bootstrap import Bootstrap
from hubstore.steer import Continuation, Decoding, Intervention, difference_of_texts, generate
from tests.experiments.readers import reader
from tests.tiny_models import tiny_language_model

SUM = Expression("+", 5, 3, 8)


@pytest.fixture
def context(tmp_path):
    return ExperimentContext(reader(), tmp_path / "out", limit=8, bootstrap=200, device="cpu")


@pytest.fixture
def words(monkeypatch):
    """Two words that are one token each to the tiny model."""
    monkeypatch.setattr(steering_sentiment, "WORDS", (" cat", " dog"))


def said(prompt, text):
    return Continuation(prompt, text, (), (), 0, False)


def saying(monkeypatch, module, text_of):
    """Let continuations be what `text_of` a prompt and a condition says, in place of a model's."""

    def continue_prompts(context, prompts, layer, directions, chosen, *more):
        return {one: [said(prompt, text_of(prompt, one)) for prompt in prompts] for one in chosen}

    monkeypatch.setattr(module, "continue_prompts", continue_prompts)


def cell(result, quantity, strength):
    (row,) = [row for row in result.table.to_pylist() if row["quantity"] == quantity and row["strength"] == strength]
    return row["value"]


@pytest.mark.parametrize(
    ("text", "success"),
    [("2+1", True), (" 2 + 1\n", True), ("2+12", False), ("3", False), ("12+1", False), ("2", False)],
)
def test_a_sum_is_a_success_where_one_less_is_followed_by_one_more(text, success):
    assert steering_text.is_success(SUM, text) is success


def test_the_number_that_a_continuation_begins_with_is_the_whole_of_it():
    assert steering_text.begins_with(3, "3\n")
    assert not steering_text.begins_with(3, "30")


def test_phrases_say_the_result_and_the_left_operand():
    assert steering_text.phrase(SUM) == "eight equals to five plus"
    assert steering_text.phrase(SUM, 1) == "eight equals to six plus"


def test_another_sum_is_one_of_another_left_operand():
    every = sums()
    others = steering_text.other_sums(every, 0)
    assert all(every[other].left != one.left for one, other in zip(every, others, strict=True))
    with pytest.raises(AnalysisError, match="one left operand"):
        steering_text.other_sums([SUM, SUM], 0)


def test_layers_are_as_deep_as_the_papers():
    assert [steering.as_deep_as(25, SimpleNamespace(depth=depth)) for depth in (32, 16, 3, 1)] == [25, 12, 2, 1]
    places = steering_text.places_of(SimpleNamespace(depth=32))
    assert [(one.taken, one.added) for one in places] == [(17, 17), (25, 25), (25, 26)]
    assert all(one.added <= 1 for one in steering_text.places_of(SimpleNamespace(depth=1)))


def test_a_sum_is_steered_by_the_difference_of_its_own_phrases(context, monkeypatch):
    seen = []
    real = steering_text.continue_prompts
    monkeypatch.setattr(steering_text, "continue_prompts", lambda *given: seen.append(given) or real(*given))
    steering_text.arithmetic_steering(context)
    _, prompts, added, directions, *_ = seen[-1]
    one = next(one for one in sums() if one.question == prompts[0])
    taken = steering_text.places_of(reader())[-1].taken
    alone = difference_of_texts(reader(), steering_text.phrase(one, 1), steering_text.phrase(one), taken).vector
    torch.testing.assert_close(directions["its own sum"][0], alone, atol=1e-4, rtol=1e-4)
    assert added == steering_text.places_of(reader())[-1].added


def test_conditions_are_those_of_single_runs(context):
    prompts, vector = ["8=5+", "range(a, b", "8=5+"], torch.randn(32, generator=torch.Generator().manual_seed(0)) * 3
    many = torch.randn(3, 32, generator=torch.Generator().manual_seed(1)) * 3
    decoding = Decoding(4)
    chosen = [steering.UNSTEERED, *steering.conditions(("one", "many"), (1.0, -2.0))]
    found = steering.continue_prompts(context, prompts, 2, {"one": vector, "many": many}, chosen, decoding)
    assert list(found) == chosen
    for (name, strength), continuations in found.items():
        for n, prompt in enumerate(prompts):
            direction = {"": vector, "one": vector, "many": many[n]}[name]
            intervention = Intervention(direction, [2], strength=strength, positions="last")
            (alone,) = generate(reader(), [prompt], [intervention], decoding=decoding)
            assert continuations[n].token_ids == alone.token_ids
    assert found["one", -2.0][0].token_ids != found[steering.UNSTEERED][0].token_ids


def test_random_directions_are_as_long_and_not_the_same():
    drawn = steering.random_directions(torch.full((32,), 2.0), 5, 0)
    torch.testing.assert_close(drawn.norm(dim=1), torch.full((5,), 2 * 32**0.5))
    assert (drawn[0] @ drawn[1]).abs() < 0.9 * drawn[0].norm() ** 2
    assert torch.equal(drawn, steering.random_directions(torch.full((32,), 2.0), 5, 0))


@pytest.mark.parametrize(("own", "control", "shown"), [(1, 0, True), (0, 0, False), (1, 1, False), (0, 1, False)])
def test_arithmetic_is_shown_where_its_own_direction_does_more_than_another(
    context, few_clusters, monkeypatch, own, control, shown
):
    by_prompt = {one.question: one for one in sums()}

    def text(prompt, condition):
        works = {"": False, "its own sum": own, "another sum's": control}[condition[0]] and condition[1] == 2.0
        right = by_prompt[prompt].right
        return f"{right - 1}+1" if works else str(right)

    saying(monkeypatch, steering_text, text)
    result = steering_text.arithmetic_steering(context)
    assert result.shown is shown
    assert "unsteered, 8 of 8 sums are completed with the right number" in result.notes
    layer = result.plots[0].quantities[0].split("layer ")[1]
    assert cell(result, f"one less, then +1, layer {layer}", 2.0) == own
    assert cell(result, f"unchanged, layer {layer}", 2.0) == 1 - own
    assert cell(result, f"unchanged, layer {layer}", 0.0) == 1
    if shown:
        assert "strength 2" in result.figure


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("n):\n    x", ("n",)),
        ("0,  len(a) - 1): f(2)", ("0", "len(a) - 1")),
        ("f(a, (b, c)), 2, -1)", ("f(a, (b, c))", "2", "-1")),
        ("s.count(')'), 3)", ("s.count(')')", "3")),
        (")", ()),
        ("len(a", None),
        ("START = 0)", ()),
        ("START = 0, 1)", None),
        ("1 2)", None),
        ("\0)", None),
    ],
)
def test_arguments_are_those_up_to_the_parenthesis_that_closes_range(text, found):
    assert range_arguments(text) == found


def test_a_start_is_given_by_two_arguments_or_three():
    given = {"n)": False, "0, n)": True, "0, n, 2)": True, "0, n, 2, 3)": False, "0, n": False}
    assert {text: steering_text.gives_start(text) for text in given} == given
    named = {"start_index, n)": True, "0, start)": False, "start)": False}
    assert {text: steering_text.names_start(text) for text in named} == named
    assert steering_text.is_same_end("len( a )):", "0, len(a)):")
    assert not steering_text.is_same_end("len(a))", "1, len(a))")


def test_prompts_end_with_the_parenthesis_of_ranges_that_have_one_argument():
    text = "for é in range (n): range(1, 2); range(*a); range(range(3))"
    found = [text[: place + 1] for place in Source(text).range_openings()]
    assert (
        sorted(found, key=len)
        == [
            text[: text.index(piece) + len(piece)]
            for piece in ("range (", "; range(", "range(*a); range(", "range(range(")
        ]
        or len(found) == 4
    )
    assert all(one.endswith("(") for one in found)
    assert not any(one.endswith("(n): range(") for one in found)


@pytest.mark.parametrize(
    ("toward", "opposite", "random", "shown"),
    [
        ("0, n)", "n)", "n)", True),
        ("n)", "n)", "n)", False),
        ("0, n)", "0, n)", "n)", False),
        ("0, n)", "n)", "1, 2)", False),
    ],
)
def test_code_is_shown_where_starts_come_with_its_direction_alone(
    context, few_clusters, monkeypatch, toward, opposite, random, shown
):
    said_by = {"": "n)", "toward start": toward, "toward end": opposite, "random directions": random}
    saying(monkeypatch, steering_text, lambda prompt, one: said_by.get(one[0], "n)"))
    monkeypatch.setattr(steering_text, "difference_of_tokens", lambda *given: SimpleNamespace(vector=torch.ones(32)))
    result = steering_text.code_steering(context)
    assert result.shown is shown
    assert result.n == 8
    assert cell(result, "0 and the same end", 0.25) == (toward == "0, n)")


def test_ranges_that_have_a_start_unsteered_are_left_out(context, monkeypatch):
    monkeypatch.setattr(steering_text, "difference_of_tokens", lambda *given: SimpleNamespace(vector=torch.ones(32)))
    saying(monkeypatch, steering_text, lambda prompt, one: "n)" if len(prompt) % 2 else "0, n)")
    prompts = [one.prompt for one in context.sample(list(ranges()))]
    assert steering_text.code_steering(context).n == sum(len(one) % 2 for one in prompts)
    saying(monkeypatch, steering_text, lambda prompt, one: "0, n)")
    with pytest.raises(AnalysisError, match="gives none of 8 ranges one argument"):
        steering_text.code_steering(context)


def test_the_words_states_are_added_where_the_words_stand(words):
    direction, place = steering_sentiment.activation_addition(reader(), 2)
    assert place == 1  # after <s>
    assert torch.equal(direction.vector, difference_of_texts(reader(), " cat", " dog", 2).vector)


def test_words_that_differ_by_several_tokens_are_refused(monkeypatch):
    monkeypatch.setattr(steering_sentiment, "WORDS", ("Good day", "Bad night"))
    with pytest.raises(SteeringError, match="differ by more than a token"):
        steering_sentiment.activation_addition(tiny_language_model("llama"), 2)


def test_prompts_are_the_first_words_after_the_papers_sentence():
    spanish, chinese, english = LANGUAGES
    assert spanish.prompt("uno dos tres cuatro cinco seis siete ocho nueve") == (
        "Todo el texto siguiente está en español. uno dos tres cuatro cinco seis siete ocho"
    )
    assert chinese.prompt("一二三四五六七八九十一二三四") == "接下来的文字全部是中文的。一二三四五六七八九十一二"
    assert english.prompt("A cat.") == "A cat."


@pytest.mark.parametrize(("good", "random", "shown"), [(1, 0, True), (0, 0, False), (-1, 0, False), (1, 1, False)])
def test_sentiment_is_shown_in_both_languages_or_not(tmp_path, few_clusters, monkeypatch, words, good, random, shown):
    context = ExperimentContext(reader(), tmp_path / "out", limit=24, bootstrap=200, device="cpu")
    texts = {1: "bueno 美好 good", 0: "", -1: "terrible 糟糕 bad"}

    def text(prompt, condition):
        by_name = {"Good - Bad": good, "random directions": random, "the language's own words": 0, "": 0}
        return texts[int(by_name[condition[0]] * np.sign(condition[1]))]

    saying(monkeypatch, steering_sentiment, text)
    monkeypatch.setattr(steering_sentiment, "perplexity", lambda model, prompts, texts: [1.0] * len(texts))
    result = steering_sentiment.multilingual_steering(context)
    assert result.shown is shown
    assert np.sign(cell(result, "toward Good - toward Bad, zh-Hans", 5.0)) == good
    assert cell(result, "Good - Bad, es", 0.0) == 0


def test_the_languages_own_words_stand_beside_and_count_for_nothing(tmp_path, monkeypatch, words):
    context = ExperimentContext(reader(), tmp_path / "out", limit=24, bootstrap=200, device="cpu")
    saying(monkeypatch, steering_sentiment, lambda p, one: "bueno" if one[0] == steering_sentiment.LOCAL else "其他")
    result = steering_sentiment.multilingual_steering(context)
    assert not result.shown
    assert cell(result, "the language's own words, es", 5.0) > cell(result, "Good - Bad, es", 5.0)
    assert cell(result, "letters of the language's script, es", 5.0) == 0
    assert cell(result, "letters of the language's script, the language's own words, es", 5.0) == 1
    for control in ("random directions", "the language's own words"):
        assert cell(result, f"log-perplexity, {control}, zh-Hans", 5.0) > 0


def test_doses_of_different_directions_are_as_long():
    one, other = torch.randn(5, 8), 3 * torch.randn(5, 8)
    found = steering.as_long_as(other, one)
    torch.testing.assert_close(found.norm(dim=1), one.norm(dim=1))
    torch.testing.assert_close(torch.cosine_similarity(found, other), torch.ones(5))


def test_sums_are_steered_by_another_sums_direction_of_the_same_length(context, monkeypatch):
    seen = []
    real = steering_text.continue_prompts
    monkeypatch.setattr(steering_text, "continue_prompts", lambda *given: seen.append(given) or real(*given))
    result = steering_text.arithmetic_steering(context)
    own, other = seen[-1][3].values()
    torch.testing.assert_close(own.norm(dim=1), other.norm(dim=1))
    quantities = set(result.table["quantity"].to_pylist())
    place = result.plots[0].quantities[0].split("layer ")[1]
    for quantity in ("no number", "log-perplexity, its own sum", "log-perplexity, another sum's"):
        assert f"{quantity}, layer {place}" in quantities, "what steering breaks stands beside what it does"


def test_one_language_alone_shows_nothing(tmp_path, monkeypatch, words):
    context = ExperimentContext(reader(), tmp_path / "out", limit=24, bootstrap=200, device="cpu")
    saying(monkeypatch, steering_sentiment, lambda p, one: "bueno" if one[0] == "Good - Bad" and one[1] > 0 else "")
    monkeypatch.setattr(steering_sentiment, "perplexity", lambda model, prompts, texts: [1.0] * len(texts))
    assert not steering_sentiment.multilingual_steering(context).shown


def test_multilingual_steering_is_drawn_again_the_same_and_relevance_is_the_users(tmp_path, words):
    from tests.tiny_models import save_tiny_model

    data = tmp_path / "data"
    data.mkdir()
    (data / "embedder.txt").write_text(f"{save_tiny_model('bert', tmp_path / 'bert')}\npassage: {{text}}\n")
    (data / "es.txt").write_text("Un gato.\nUn perro negro.\n", encoding="utf-8")
    (data / "sentiment.es.tsv").write_text("a\t2\n")
    given = {"limit": 10, "bootstrap": 100, "device": "cpu", "data": data}
    first, again = (
        steering_sentiment.multilingual_steering(ExperimentContext(reader(), tmp_path / name, **given))
        for name in ("x", "y")
    )
    assert first.table.equals(again.table)
    assert first.notes == again.notes
    quantities = set(first.table["quantity"].to_pylist())
    assert {"relevance, en", "log-perplexity, zh-Hans"} <= quantities
    other = steering_sentiment.multilingual_steering(
        ExperimentContext(reader(), tmp_path / "z", **{**given, "data": None})
    )
    assert "relevance, en" not in other.table["quantity"].to_pylist()
    assert other.notes[0].startswith("relevance is left out")
    assert all("relevance" not in name for plot in other.plots for name in plot.quantities)


def test_files_of_the_user_that_say_too_little_are_refused(tmp_path):
    context = ExperimentContext(reader(), tmp_path / "out", data=tmp_path, device="cpu")
    (tmp_path / "es.txt").write_text("Un gato.\n\n")
    with pytest.raises(AnalysisError, match="in es give two or more"):
        steering_sentiment.multilingual_steering(context)
    (tmp_path / "embedder.txt").write_text("\n")
    with pytest.raises(CorpusError, match="names an embedding model"):
        steering_sentiment.multilingual_steering(context)


def test_shipped_lexicons_know_good_from_bad_and_say_where_they_are_from(context):
    said = [("Es excelente.", "Es terrible."), ("这很完美。", "这很可怕。"), ("It is good.", "It is bad.")]
    for language, texts in zip(LANGUAGES, said, strict=True):
        better, worse = read_lexicon(context, language.tag)(texts)
        assert better > 0 > worse
    readme = (files("hubstore.experiments.materials") / "sentiment/README.md").read_text(encoding="utf-8")
    assert "License" in readme
    assert "Source" in readme


def test_a_share_of_zero_of_every_prompt_is_not_clear_and_the_clearest_layer_and_strength_are_named():
    def at(layer, values):
        return [{**row, "strength": 1.0} for row in mean_rows(layer, {"q": values}, Bootstrap(100, 0))]

    rows = at("1", np.zeros(30))
    assert not steering.clearest(rows, ["q"]).shown
    best = steering.clearest([*rows, *at("2", np.tile([0.0, 1.0], 15))], ["q"])
    assert best.shown
    assert "at layer 2, strength 1" in best.words()


@pytest.mark.real
@pytest.mark.slow
def test_gemma_writes_starts_when_it_is_steered_toward_start(real_model, tmp_path, monkeypatch):
    monkeypatch.setattr(steering_text, "LENGTHS", (0.25,))
    monkeypatch.setattr(steering_text, "MULTIPLES", (10.0,))
    context = ExperimentContext(real_model("gemma-3-270m"), tmp_path, limit=4, bootstrap=100, device="cpu")
    result = steering_text.code_steering(context)
    assert cell(result, "toward start", 0.0) == 0
    assert cell(result, "toward start", 0.25) > 0
