"""Lenses read what all logits of one text at a time say, at the places that the experiments are said to read."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from hubstore.errors import LensError
from hubstore.experiments import (
    Lab,
    arithmetic_lens,
    arithmetic_pca,
    chinese_lens,
    code_lens_and,
    code_lens_roles,
    semantics_lens,
)
from hubstore.experiments.arithmetic import expressions, number_word
from hubstore.experiments.data import Meaning, meanings, programs
from hubstore.experiments.programs import Source, token_that_ends, token_that_is
from hubstore.experiments.sites import Site, other_equivalents
from hubstore.lens import Lens
from tests.experiments.readers import curve, log_probabilities, reader, states
from tests.tiny_models import tiny_language_model


@pytest.fixture
def lab(tmp_path):
    return Lab(reader(), tmp_path, limit=12, bootstrap=200, device="cpu")


def token(text):
    return Lens.of_model(reader()).token(text)


def test_arithmetic_lens_is_that_of_all_logits(lab):
    outcome = arithmetic_lens.run(lab)
    chosen = lab.sample(expressions())
    found = np.stack([log_probabilities(reader(), states(reader(), one.question)[:, -1]) for one in chosen], 1)
    digit = np.stack([found[:, n, token(str(one.right))] for n, one in enumerate(chosen)], 1).mean(1)
    word = np.stack([found[:, n, token(f" {number_word(one.right)}")] for n, one in enumerate(chosen)], 1).mean(1)
    assert_allclose(curve(outcome, "digit", lab.layers), digit, atol=1e-3)
    assert_allclose(curve(outcome, "word", lab.layers), word, atol=1e-3)
    assert_allclose(curve(outcome, "word - digit", lab.layers), word - digit, atol=1e-3)


def test_with_the_final_norm_only_the_states_before_it_are_normed(lab):
    outcome = arithmetic_lens.run(lab)
    chosen, norm = lab.sample(expressions()), reader().trunk.norm.weight.double().numpy()
    hidden = np.stack([states(reader(), one.question)[:, -1] for one in chosen], 1)
    eps = reader().trunk.config.rms_norm_eps
    normed = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + eps) * norm
    normed[-1] = hidden[-1]
    found = log_probabilities(reader(), normed)
    digit = np.stack([found[:, n, token(str(one.right))] for n, one in enumerate(chosen)], 1).mean(1)
    assert_allclose(curve(outcome, "digit, normed", lab.layers), digit, atol=1e-3)


def test_words_of_several_tokens_are_refused_with_their_pieces(tmp_path):
    with pytest.raises(LensError, match="is not one token"):
        arithmetic_lens.run(Lab(tiny_language_model("llama"), tmp_path, limit=4, device="cpu"))


def test_the_control_is_of_another_meaning_and_shares_no_token():
    sites = [Site("a", 1, 5, meaning, tokens) for meaning, tokens in (("x", (1, 2)), ("y", (2, 3)), ("z", (4,)))] * 5
    for seed in range(5):
        for site, control in zip(sites, other_equivalents(sites, seed), strict=True):
            assert not set(site.equivalents) & set(control)


def test_the_plane_and_the_places_in_it(lab):
    outcome = arithmetic_pca.run(lab)
    unembedding = reader().head.unembedding.double().numpy()
    digits = unembedding[[token(str(n)) for n in range(10)]]
    words = unembedding[[token(f" {number_word(n)}") for n in range(10)]]
    anchors = np.concatenate([digits, words])
    values, vectors = np.linalg.eigh(np.cov(anchors.T))
    plane = vectors[:, np.argsort(values)[::-1][:2]]  # up to sign
    sums = lab.sample([one for one in expressions() if one.operator == "+"])
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
                for one in sums
            ],
            axis=1,
        )  # fmt: skip
    standard = (hidden - hidden.mean(0)) / hidden.std(0)
    places = (standard - anchors.mean(0)) @ plane
    ends = [(one.mean(0) - anchors.mean(0)) @ plane for one in (digits, words)]
    axis = (ends[1] - ends[0]) / 2
    position = ((places - (ends[0] + ends[1]) / 2) @ axis / (axis @ axis)).mean(1)
    assert_allclose(curve(outcome, "digits (-1) to words (+1)", ("0", *lab.layers)), position, atol=1e-3)
    assert_allclose(np.abs(curve(outcome, "first component", lab.layers)), np.abs(places[1:, :, 0].mean(1)), atol=1e-3)


def test_list_commas_are_those_between_elements():
    text = 'a = ["é, ", (1, 2), [3,\n 4,], f(5, 6),\n 7]\nb = (8, 9)'
    commas = list(code_lens_and.list_commas(Source(text)))
    assert sorted(commas) == [text.index(piece) for piece in (", (1", ", [3", ",\n 4", ", f(", ",\n 7")]


def test_tokens_at_a_character():
    text = "range(x, y)"
    encoded = Lens.of_model(reader()).encode(text)
    for place, wanted in ((text.index(","), ","), (text.index("("), "(")):
        found = token_that_ends(encoded, place)
        if found is not None:
            assert text[slice(*encoded.offsets[found])].endswith(wanted)
    comma = token_that_is(Source(text), encoded, text.index(","), ",")
    assert comma is None or text[slice(*encoded.offsets[comma])].strip() == ","


def test_code_lens_and_is_that_of_all_logits(lab):
    outcome = code_lens_and.run(lab)
    expected = []
    for program in lab.sample(programs()):
        text = "\n".join((program.code, *program.tests))
        encoding = reader().tokenizer(text, return_offsets_mapping=True)
        found = log_probabilities(reader(), states(reader(), text))
        for comma in code_lens_and.list_commas(Source(text)):
            for place, (start, stop) in enumerate(encoding["offset_mapping"]):
                if start <= comma < stop and text[start:stop].strip(" ") == ",":
                    nexts = encoding["input_ids"][place + 1]
                    expected.append(found[:, place, [token(" and"), token(" or"), token(" not"), nexts]])
    assert outcome.n == len(expected) > 10
    for column, quantity in enumerate(("and", "or", "not", "next token")):
        mean = np.mean([one[:, column] for one in expected], axis=0)
        assert_allclose(curve(outcome, quantity, lab.layers), mean, atol=1e-3)


def test_arguments_have_their_parameters_names():
    text = "def area(width, height):\n    return width * height\narea(3, (4))\n"
    text += "sorted(z, key=k)\nrange(9)\nlen(z)\narea(*z, 5)"
    found = [
        (text[slice(*one.span)], one.parameter, text[one.opening]) for one in code_lens_roles.arguments(Source(text))
    ]
    assert found == [("3", "width", "("), ("4", "height", ","), ("z", "iterable", "(")]


def test_code_lens_roles_reads_before_the_argument(lab):
    program = "def area(width, height):\n    return width * height\nx = area(y, n)\n"
    encoded = lab.lens.encode(program)
    sites = [
        site
        for argument in code_lens_roles.arguments(Source(program))
        if (site := code_lens_roles._site(lab, "p", Source(program), encoded, argument)) is not None
    ]
    assert [site.meaning for site in sites] == ["width", "height"]
    for site, opening, argument in zip(sites, "(,", "yn", strict=True):
        assert program[slice(*encoded.offsets[site.place])].endswith(opening)
        assert program[slice(*encoded.offsets[site.place + 1])].strip() == argument
        assert site.surface == encoded.ids[site.place + 1]
    assert sites[1].equivalents[0] == lab.lens.vocabulary.pieces(" height")[0]
    assert code_lens_roles.run(lab).n > 5


def test_chinese_sites_are_words_of_one_token_and_the_state_is_that_before(lab):
    text = "中国经济的猫"
    encoded = lab.lens.encode(text)
    words = list(chinese_lens._words(text))
    assert [word for word, _ in words] == ["中国", "经济", "的", "猫"]
    dictionary = {"中国": (1,), "经济": (7, 8), "猫": (9,)}
    for site in chinese_lens._sites("t", encoded, words, dictionary):
        start, stop = encoded.offsets[site.place + 1]
        assert text[start:stop] == site.meaning
        assert site.surface == encoded.ids[site.place + 1]
        assert site.equivalents == dictionary[site.meaning]
        assert start > 0  # before the first word there is no text


def test_chinese_lens_takes_the_most_probable_gloss(lab, tmp_path):
    (tmp_path / "zh.txt").write_text("我在中国的经济。\n猫在中国。\n狗的中国，的经济\n", encoding="utf-8")
    (tmp_path / "cedict.txt").write_text(
        "中國 中国 [Zhong1 guo2] /cat/\n中國 中国 [x] /dog/\n的 的 [de5] /agent/\n在 在 [zai4] /theme/\n"
        "經濟 经济 [jing1 ji4] /and/\n", encoding="utf-8",
    )  # fmt: skip
    here = Lab(reader(), tmp_path / "out", data=tmp_path, bootstrap=200, device="cpu")
    outcome = chinese_lens.run(here)
    glosses = {"中国": (" cat", " dog"), "的": (" agent",), "在": (" theme",), "经济": (" and",)}
    expected = []
    for text in (tmp_path / "zh.txt").read_text(encoding="utf-8").splitlines():
        encoding = reader().tokenizer(text, return_offsets_mapping=True)
        places = {offset: place for place, offset in enumerate(encoding["offset_mapping"]) if offset != (0, 0)}
        found = log_probabilities(reader(), states(reader(), text))
        for word, span in chinese_lens._words(text):
            place = places.get(span)
            if place is not None and place > 1 and word in glosses:
                best = np.max([found[:, place - 1, token(gloss)] for gloss in glosses[word]], axis=0)
                expected.append((found[:, place - 1, encoding["input_ids"][place]], best))
    assert outcome.n == len(expected) > 3
    surface, gloss = np.mean(expected, axis=0)
    assert_allclose(curve(outcome, "Chinese word", here.layers), surface, atol=1e-3)
    assert_allclose(curve(outcome, "English gloss", here.layers), gloss, atol=1e-3)


def test_names_are_replaced_by_others_in_sentences_that_are_not_in_the_corpus():
    every = [one for one in meanings() if semantics_lens.names(one.form)][:300]
    renamed = semantics_lens.with_other_names(every, 0)
    given = {one.sentence for one in every}
    for old, new in zip(every, renamed, strict=True):
        assert new.sentence not in given
        assert not set(semantics_lens.names(old.form)) & set(semantics_lens.names(new.form))
        assert list(semantics_lens.roles(old.form).values()) == list(semantics_lens.roles(new.form).values())
    assert renamed == semantics_lens.with_other_names(every, 0)
    assert renamed != semantics_lens.with_other_names(every, 1)


def test_roles_are_read_before_names_that_do_not_begin_the_sentence(lab):
    form = "hand . agent ( x _ 1 , Emma ) AND hand . recipient ( x _ 1 , Liam ) AND hand . theme ( x _ 1 , x _ 4 )"
    one = Meaning("Emma handed Liam a cake .", form)
    encoded = lab.lens.encode(one.sentence)
    (site,) = semantics_lens.role_sites("s", one, encoded)
    assert site.meaning == "recipient"
    assert one.sentence[slice(*encoded.offsets[site.place])].endswith("ed")
    assert one.sentence[slice(*encoded.offsets[site.place + 1])] == " Liam"


def test_confusion_is_the_mean_by_role_less_the_column_mean(lab):
    rng = np.random.default_rng(0)
    found, own = rng.normal(size=(40, 3)), rng.integers(3, size=40)
    found[np.arange(40), own] += 2
    known = ("agent", "recipient", "theme")
    rows = {row["quantity"]: row for row in semantics_lens.confusion(lab, "1", found, own, known)}
    for role, word in np.ndindex(3, 3):
        cell = found[own == role][:, word].mean()
        column = np.mean([found[own == other][:, word].mean() for other in range(3)])
        row = rows[f"{known[word]!r} before {known[role]}"]
        assert row["value"] == pytest.approx(cell - column)
        assert row["n"] == (own == role).sum()
    matrix = np.array([[found[own == role][:, word].mean() for word in range(3)] for role in range(3)])
    headline = np.trace(matrix) / 3 - (matrix.sum() - np.trace(matrix)) / 6
    assert rows[semantics_lens.HEADLINE]["value"] == pytest.approx(headline)
    drawn = []
    for _ in range(1000):
        again = rng.integers(40, size=40)
        means = np.array([[found[again][own[again] == r][:, w].mean() for w in range(3)] for r in range(3)])
        drawn.append(np.trace(means) / 3 - (means.sum() - np.trace(means)) / 6)
    low, high = np.quantile(drawn, [0.025, 0.975])
    row = rows[semantics_lens.HEADLINE]
    assert row["high"] - row["low"] == pytest.approx(high - low, rel=0.25)


def test_semantics_lens_runs_whole(tmp_path):
    outcome = semantics_lens.run(Lab(reader(), tmp_path, limit=40, bootstrap=200, device="cpu"))
    assert outcome.n > 5
    assert outcome.notes[1].split()[0] == str(outcome.n)
