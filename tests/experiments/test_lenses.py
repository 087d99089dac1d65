"""Lenses read what all logits of one text at a time say, at the places that the experiments are said to read."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from hubstore.corpus import Item
from hubstore.errors import AnalysisError, LensError
from hubstore.experiments import ExperimentContext
from hubstore.experiments.materials.arithmetic import expressions, number_word, sums
from hubstore.experiments.materials.chinese import chinese_words
from hubstore.experiments.materials.logical_forms import Meaning, meanings, names, roles, with_other_names
from hubstore.experiments.materials.programs import Source, programs, token_that_ends, token_that_is
from hubstore.experiments.recipes import lens_text
from hubstore.experiments.recipes.lens import ProbePosition, other_equivalents, probe
from hubstore.experiments.recipes.trends import arithmetic_pca
from hubstore.lens import Lens
from tests.experiments.readers import curve, log_probabilities, reader, states
from tests.tiny_models import tiny_language_model


@pytest.fixture
def context(tmp_path):
    return ExperimentContext(reader(), tmp_path, limit=12, bootstrap=200, device="cpu")


def token(text):
    return Lens.of_model(reader()).token(text)


def test_arithmetic_lens_is_that_of_all_logits(context):
    result = lens_text.arithmetic_lens(context)
    chosen = context.sample(expressions())
    found = np.stack([log_probabilities(reader(), states(reader(), one.question)[:, -1]) for one in chosen], 1)
    digit = np.stack([found[:, n, token(str(one.right))] for n, one in enumerate(chosen)], 1).mean(1)
    word = np.stack([found[:, n, token(f" {number_word(one.right)}")] for n, one in enumerate(chosen)], 1).mean(1)
    assert_allclose(curve(result, "digit", context.layers), digit, atol=1e-3)
    assert_allclose(curve(result, "word", context.layers), word, atol=1e-3)
    assert_allclose(curve(result, "word - digit", context.layers), word - digit, atol=1e-3)


def test_with_the_final_norm_only_the_states_before_it_are_normed(context):
    result = lens_text.arithmetic_lens(context)
    chosen, norm = context.sample(expressions()), reader().trunk.norm.weight.double().numpy()
    hidden = np.stack([states(reader(), one.question)[:, -1] for one in chosen], 1)
    eps = reader().trunk.config.rms_norm_eps
    normed = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + eps) * norm
    normed[-1] = hidden[-1]
    found = log_probabilities(reader(), normed)
    digit = np.stack([found[:, n, token(str(one.right))] for n, one in enumerate(chosen)], 1).mean(1)
    assert_allclose(curve(result, "digit, normed", context.layers), digit, atol=1e-3)


def test_words_of_several_tokens_are_refused_with_their_pieces(tmp_path):
    with pytest.raises(LensError, match="is not one token"):
        lens_text.arithmetic_lens(ExperimentContext(tiny_language_model("llama"), tmp_path, limit=4, device="cpu"))


def test_the_control_is_of_another_meaning_and_shares_no_token():
    positions = [
        ProbePosition("a", 1, 5, meaning, tokens) for meaning, tokens in (("x", (1, 2)), ("y", (2, 3)), ("z", (4,)))
    ] * 5
    for seed in range(5):
        for one, control in zip(positions, other_equivalents(positions, seed), strict=True):
            assert not set(one.equivalents) & set(control)


def test_texts_without_a_position_of_whole_tokens_are_refused(context):
    texts = [Item("a", "a cat", "en"), Item("b", "a dog", "en")]
    with pytest.raises(AnalysisError, match="pets: none of 2 positions in 2 texts is of whole tokens"):
        probe(context, "pets", "pets", texts, lambda item, tokens: iter([None]))


def test_the_plane_and_the_places_in_it(context):
    result = arithmetic_pca(context)
    unembedding = reader().head.unembedding.double().numpy()
    digits = unembedding[[token(str(n)) for n in range(10)]]
    words = unembedding[[token(f" {number_word(n)}") for n in range(10)]]
    anchors = np.concatenate([digits, words])
    values, vectors = np.linalg.eigh(np.cov(anchors.T))
    plane = vectors[:, np.argsort(values)[::-1][:2]]  # up to sign
    chosen = context.sample(sums())
    import torch

    with torch.inference_mode():
        hidden = np.stack(
            [
                torch.stack(
                    reader().trunk(
                        input_ids=torch.tensor([reader().tokenizer(one.question)["input_ids"]]),
                        output_hidden_states=True,
                    ).hidden_states
                )[:, 0, -1].double().numpy()
                for one in chosen
            ],
            axis=1,
        )  # fmt: skip
    standard = (hidden - hidden.mean(0)) / hidden.std(0)
    places = (standard - anchors.mean(0)) @ plane
    ends = [(one.mean(0) - anchors.mean(0)) @ plane for one in (digits, words)]
    axis = (ends[1] - ends[0]) / 2
    position = ((places - (ends[0] + ends[1]) / 2) @ axis / (axis @ axis)).mean(1)
    assert_allclose(curve(result, "digits (-1) to words (+1)", ("0", *context.layers)), position, atol=1e-3)
    assert_allclose(
        np.abs(curve(result, "first component", context.layers)), np.abs(places[1:, :, 0].mean(1)), atol=1e-3
    )


def test_list_commas_are_those_between_elements():
    text = 'a = ["é, ", (1, 2), [3,\n 4,], f(5, 6),\n 7]\nb = (8, 9)'
    commas = list(Source(text).list_commas())
    assert sorted(commas) == [text.index(piece) for piece in (", (1", ", [3", ",\n 4", ", f(", ",\n 7")]


def test_tokens_at_a_character():
    text = "range(x, y)"
    encoded = Lens.of_model(reader()).encode(text)
    for place, wanted in ((text.index(","), ","), (text.index("("), "(")):
        found = token_that_ends(encoded, place)
        if found is not None:
            assert text[slice(*encoded.offsets[found])].endswith(wanted)
    comma = token_that_is(text, encoded, text.index(","), ",")
    assert comma is None or text[slice(*encoded.offsets[comma])].strip() == ","


def test_code_lens_and_is_that_of_all_logits(context):
    result = lens_text.code_lens_and(context)
    expected = []
    for program in context.sample(programs()):
        text = "\n".join((program.code, *program.tests))
        encoding = reader().tokenizer(text, return_offsets_mapping=True)
        found = log_probabilities(reader(), states(reader(), text))
        for comma in Source(text).list_commas():
            for place, (start, stop) in enumerate(encoding["offset_mapping"]):
                if start <= comma < stop and text[start:stop].strip(" ") == ",":
                    nexts = encoding["input_ids"][place + 1]
                    expected.append(found[:, place, [token(" and"), token(" or"), token(" not"), nexts]])
    assert result.n == len(expected) > 10
    for column, quantity in enumerate(("and", "or", "not", "next token")):
        mean = np.mean([one[:, column] for one in expected], axis=0)
        assert_allclose(curve(result, quantity, context.layers), mean, atol=1e-3)


def test_arguments_have_their_parameters_names():
    text = "def area(width, height):\n    return width * height\narea(3, (4))\n"
    text += "sorted(z, key=k)\nrange(9)\nlen(z)\narea(*z, 5)"
    found = [(text[slice(*one.span)], one.parameter, text[one.opening]) for one in Source(text).arguments()]
    assert found == [("3", "width", "("), ("4", "height", ","), ("z", "iterable", "(")]


def test_code_lens_roles_reads_before_the_argument(context):
    program = "def area(width, height):\n    return width * height\nx = area(y, n)\n"
    encoded = context.lens.encode(program)
    item = Item("p", program, "x-python")
    found = [lens_text.argument_position(context, item, encoded, argument) for argument in Source(program).arguments()]
    positions = [one for one in found if one is not None]
    assert [one.meaning for one in positions] == ["width", "height"]
    for one, opening, argument in zip(positions, "(,", "yn", strict=True):
        assert program[slice(*encoded.offsets[one.place])].endswith(opening)
        assert program[slice(*encoded.offsets[one.place + 1])].strip() == argument
        assert one.surface == encoded.ids[one.place + 1]
    assert positions[1].equivalents[0] == context.lens.vocabulary.pieces(" height")[0]
    assert lens_text.code_lens_roles(context).n > 5


def test_chinese_positions_are_words_of_one_token_and_the_state_is_that_before(context):
    text = "中国经济的猫"
    encoded = context.lens.encode(text)
    words = list(chinese_words(text))
    assert [word for word, _ in words] == ["中国", "经济", "的", "猫"]
    dictionary = {"中国": (1,), "经济": (7, 8), "猫": (9,)}
    found = list(lens_text.chinese_positions(Item("t", text, "zh-Hans"), encoded, dictionary))
    assert len(found) == len(words)
    for position in (one for one in found if one is not None):
        start, stop = encoded.offsets[position.place + 1]
        assert text[start:stop] == position.meaning
        assert position.surface == encoded.ids[position.place + 1]
        assert position.equivalents == dictionary[position.meaning]
        assert start > 0  # before the first word there is no text


def test_chinese_lens_takes_the_most_probable_gloss(context, tmp_path):
    (tmp_path / "zh.txt").write_text("我在中国的经济。\n猫在中国。\n狗的中国，的经济\n", encoding="utf-8")
    (tmp_path / "cedict.txt").write_text(
        "中國 中国 [Zhong1 guo2] /cat/\n中國 中国 [x] /dog/\n的 的 [de5] /agent/\n在 在 [zai4] /theme/\n"
        "經濟 经济 [jing1 ji4] /and/\n", encoding="utf-8",
    )  # fmt: skip
    here = ExperimentContext(reader(), tmp_path / "out", data=tmp_path, bootstrap=200, device="cpu")
    result = lens_text.chinese_lens(here)
    glosses = {"中国": (" cat", " dog"), "的": (" agent",), "在": (" theme",), "经济": (" and",)}
    expected = []
    for text in (tmp_path / "zh.txt").read_text(encoding="utf-8").splitlines():
        encoding = reader().tokenizer(text, return_offsets_mapping=True)
        places = {offset: place for place, offset in enumerate(encoding["offset_mapping"]) if offset != (0, 0)}
        found = log_probabilities(reader(), states(reader(), text))
        for word, span in chinese_words(text):
            place = places.get(span)
            if place is not None and place > 1 and word in glosses:
                best = np.max([found[:, place - 1, token(gloss)] for gloss in glosses[word]], axis=0)
                expected.append((found[:, place - 1, encoding["input_ids"][place]], best))
    assert result.n == len(expected) > 3
    surface, gloss = np.mean(expected, axis=0)
    assert_allclose(curve(result, "Chinese word", here.layers), surface, atol=1e-3)
    assert_allclose(curve(result, "English gloss", here.layers), gloss, atol=1e-3)


def test_names_are_replaced_by_others_in_sentences_that_are_not_in_the_corpus():
    every = [one for one in meanings() if names(one.form)][:300]
    renamed = with_other_names(every, 0)
    given = {one.sentence for one in every}
    for old, new in zip(every, renamed, strict=True):
        assert new.sentence not in given
        assert not set(names(old.form)) & set(names(new.form))
        assert list(roles(old.form).values()) == list(roles(new.form).values())
    assert renamed == with_other_names(every, 0)
    assert renamed != with_other_names(every, 1)


def test_roles_are_read_before_names_that_do_not_begin_the_sentence(context):
    form = "hand . agent ( x _ 1 , Emma ) AND hand . recipient ( x _ 1 , Liam ) AND hand . theme ( x _ 1 , x _ 4 )"
    one = Meaning("Emma handed Liam a cake .", form)
    encoded = context.lens.encode(one.sentence)
    (position,) = lens_text.role_positions("s", one, encoded)
    assert position.meaning == "recipient"
    assert one.sentence[slice(*encoded.offsets[position.place])].endswith("ed")
    assert one.sentence[slice(*encoded.offsets[position.place + 1])] == " Liam"


def test_confusion_is_the_mean_by_role_less_the_column_mean(context):
    rng = np.random.default_rng(0)
    found, own = rng.normal(size=(40, 3)), rng.integers(3, size=40)
    found[np.arange(40), own] += 2
    known = ("agent", "recipient", "theme")
    rows = {row["quantity"]: row for row in lens_text.confusion_rows(context, "1", found, own, known)}
    for role, word in np.ndindex(3, 3):
        cell = found[own == role][:, word].mean()
        column = np.mean([found[own == other][:, word].mean() for other in range(3)])
        row = rows[f"{known[word]!r} before {known[role]}"]
        assert row["value"] == pytest.approx(cell - column)
        assert row["n"] == (own == role).sum()
    matrix = np.array([[found[own == role][:, word].mean() for word in range(3)] for role in range(3)])
    headline = np.trace(matrix) / 3 - (matrix.sum() - np.trace(matrix)) / 6
    assert rows[lens_text.ROLE]["value"] == pytest.approx(headline)
    drawn = []
    for _ in range(1000):
        again = rng.integers(40, size=40)
        means = np.array([[found[again][own[again] == r][:, w].mean() for w in range(3)] for r in range(3)])
        drawn.append(np.trace(means) / 3 - (means.sum() - np.trace(means)) / 6)
    low, high = np.quantile(drawn, [0.025, 0.975])
    row = rows[lens_text.ROLE]
    assert row["high"] - row["low"] == pytest.approx(high - low, rel=0.25)


def test_semantics_lens_runs_whole(tmp_path):
    result = lens_text.semantics_lens(ExperimentContext(reader(), tmp_path, limit=40, bootstrap=200, device="cpu"))
    assert result.n > 5
    assert any(note.split()[0] == str(result.n) for note in result.notes)
