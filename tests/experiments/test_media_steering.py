"""Steering of pictures and sounds in experiments: what is put where, what counts, and verdicts of yes and of no."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hubstore.corpus import Media
from hubstore.errors import AnalysisError, CorpusError, LensError, ModelError
from hubstore.experiments import Lab, audio_steering, run_experiment, vision_steering
from hubstore.lens import Vocabulary
from hubstore.steer import Continuation, Intervention, generate, next_log_probabilities
from tests.experiments.readers import reader
from tests.steer.test_media import speaker

WORDS = tuple(
    f" {word}"
    for word in (
        *vision_steering.COLOURS, "Yes", "No", "dog", "cat", "cow", "chicken", "bird", "frog", "duck", "snake",
    )
)  # fmt: skip


def lab_of(family, folder, **given):
    return Lab(speaker(family, WORDS)[0], folder / "out", **{"bootstrap": 200, "device": "cpu", **given})


@pytest.fixture
def seeing(tmp_path):
    return lab_of("llava", tmp_path)


@pytest.fixture
def hearing(tmp_path):
    return lab_of("qwen2-audio", tmp_path)


def cells(outcome, quantity, column="layer"):
    return {row[column]: row["value"] for row in outcome.table.to_pylist() if row["quantity"] == quantity}


def test_trials_are_the_papers_48():
    found = vision_steering.trials()
    assert len(found) == len(set(found)) == 48
    for one in found:
        assert {one.old, one.kept, one.new, one.fourth} == set(vision_steering.COLOURS)
        assert one.old == (one.lower if one.half else one.upper)


def test_a_picture_has_one_colour_above_and_one_below():
    image = np.asarray(Image.open(io.BytesIO(vision_steering.picture(("red", "blue")))))
    assert (image[:128] == (255, 0, 0)).all()
    assert (image[128:] == (0, 0, 255)).all()


def test_halves_are_those_of_the_pictures_tokens(seeing):
    prompt = vision_steering.prompt(seeing, ("red", "blue"))
    ((start, stop),) = prompt.inputs.media
    upper, lower = (vision_steering.half_of(prompt, half) for half in (0, 1))
    assert (upper, lower) == (list(range(start, start + 8)), list(range(start + 8, stop)))
    with pytest.raises(AnalysisError, match="a picture of 1 tokens has no halves"):
        vision_steering.half_of(SimpleNamespace(places=[3], shown="x"), 0)


def test_a_colour_gives_way_where_the_new_one_is_named_and_the_old_is_not():
    said = {"blue and red": True, "Blue.": True, "green and blue": False, "bluegrass": False, "red": False}
    assert {text: vision_steering.gives_way("green", "blue", text) for text in said} == said


def test_half_a_picture_is_replaced_by_its_difference_from_a_layer_on(seeing, monkeypatch):
    model, chosen = seeing.language_model, seeing.sample(vision_steering.trials())
    outcome = vision_steering.run(seeing)
    layers = list(cells(outcome, vision_steering.SUCCESS))
    assert layers == ["1", "2", "3"]
    unembedding, vocabulary = model.head.unembedding, seeing.lens.vocabulary
    one = chosen[5]
    prompt = vision_steering.prompt(seeing, one.picture)
    vector = unembedding[vocabulary.token(f" {one.new}")] - unembedding[vocabulary.token(f" {one.old}")]
    half = prompt.places[len(prompt.places) // 2 :] if one.half else prompt.places[: len(prompt.places) // 2]
    by_hand = Intervention(vector, [2, 3], "replace", positions=half)
    (wanted,) = generate(model, [prompt], [by_hand], decoding=vision_steering.DECODING)
    real, found = vision_steering.generate, {}

    def kept(model, prompts, interventions=(), **given):
        continued = real(model, prompts, interventions, **given)
        if interventions:
            found[min(interventions[0].layers)] = continued
        return continued

    monkeypatch.setattr(vision_steering, "generate", kept)
    again = vision_steering.run(seeing)
    assert again.table.equals(outcome.table)
    assert found[2][5].token_ids == wanted.token_ids
    before = generate(model, [prompt], decoding=vision_steering.DECODING)[0]
    assert found[3][5].token_ids == before.token_ids, "nothing reads what is replaced after the last block"
    assert found[1][5].log_probabilities != before.log_probabilities


@pytest.mark.parametrize(
    ("said", "shown"),
    [("new", True), ("old new", False), ("fourth", False), ("kept", False), ("new fourth", False)],
)
def test_pictures_are_shown_where_the_new_colour_takes_the_place_of_the_old(seeing, monkeypatch, said, shown):
    trials = vision_steering.trials()

    def generate(model, prompts, interventions=(), **given):
        if not interventions:
            return [Continuation(one.shown, "red, green, blue, yellow", (), (), 0, False) for one in prompts]
        works = min(interventions[0].layers) == 2
        names = [said.split() if works else ["old", "kept"] for _ in trials]
        return [
            Continuation(prompt.shown, " ".join(getattr(one, name) for name in of_one), (), (), 0, False)
            for prompt, one, of_one in zip(prompts, trials, names, strict=True)
        ]

    monkeypatch.setattr(vision_steering, "generate", generate)
    outcome = vision_steering.run(seeing)
    assert outcome.shown is shown
    assert outcome.n == 48
    assert cells(outcome, vision_steering.SUCCESS)["2"] == ("new" in said and "old" not in said)
    assert "unsteered, both colours are named of 12 of 12 pictures" in outcome.notes


def test_colours_that_are_named_anyway_show_nothing(seeing, monkeypatch):
    def generate(model, prompts, interventions=(), **given):
        others = [set(vision_steering.COLOURS) - set(p.shown.split(".")[0][1:].split(" over ")) for p in prompts]
        return [Continuation(p.shown, " ".join(o), (), (), 0, False) for p, o in zip(prompts, others, strict=True)]

    monkeypatch.setattr(vision_steering, "generate", generate)
    assert not vision_steering.run(seeing).shown


def test_the_question_is_put_where_the_template_has_its_place(tmp_path):
    lab = lab_of("llava", tmp_path, media_template="USER: {media} {text} ASSISTANT:")
    shown = vision_steering.prompt(lab, ("red", "blue")).shown
    assert shown == f"USER: <red over blue.png> {vision_steering.QUESTION} ASSISTANT:"
    lab = lab_of("llava", tmp_path)
    assert vision_steering.prompt(lab, ("red", "blue")).shown == f"<red over blue.png>\n{vision_steering.QUESTION}"


def test_sounds_that_ship_are_of_dogs_and_roosters(hearing):
    found = audio_steering.clips(hearing)
    assert [clip.animal for clip in found] == ["dog"] * 8 + ["rooster"] * 8
    assert [clip.is_mammal for clip in found] == [True] * 8 + [False] * 8
    assert len({clip.recording for clip in found}) == 12


def test_a_users_sounds_take_their_place(tmp_path):
    (tmp_path / "animals.tsv").write_text("a/1.wav\tcow\tyes\nb.wav\tfrog\tno\n")
    lab = lab_of("qwen2-audio", tmp_path, data=tmp_path)
    cow, frog = audio_steering.clips(lab)
    assert (cow.animal, cow.is_mammal, cow.media.name) == ("cow", True, str(tmp_path / "a/1.wav"))
    assert not frog.is_mammal
    for wrong, message in (
        ("a.wav cow yes\n", "line 1: 'a.wav cow yes' is not"),
        ("a.wav\tcow\tyes\n", "has 1 sounds"),
    ):
        (tmp_path / "animals.tsv").write_text(wrong)
        with pytest.raises(CorpusError, match=message):
            audio_steering.clips(lab)


def clip(animal, is_mammal):
    return audio_steering.Clip(Media("x.wav"), animal, is_mammal, "x")


def test_animals_are_made_into_others_of_the_other_class_or_of_their_own(hearing):
    vocabulary = hearing.lens.vocabulary
    found = [clip("dog", True)] * 40 + [clip("rooster", False)] * 40
    for changes, wanted in (
        (True, [{"chicken", "bird", "frog", "duck", "snake"}, {"dog", "cat", "cow"}]),
        (False, [{"cat", "cow"}, {"frog", "duck", "snake"}]),
    ):
        tokens = audio_steering.others(vocabulary, found, changes, 0)
        words = [vocabulary.tokenizer.id_to_token(token).strip() for token in tokens]
        assert [set(words[:40]), set(words[40:])] == wanted
        assert tokens == audio_steering.others(vocabulary, found, changes, 0)
    assert audio_steering.own_token(vocabulary, "rooster") == vocabulary.token(" chicken")
    with pytest.raises(LensError, match="' elephant' is not one token"):
        audio_steering.own_token(vocabulary, "elephant")
    with pytest.raises(AnalysisError, match="of the mammals that a dog could be made into"):
        audio_steering.others(Vocabulary.of_model(speaker("qwen2-audio")[0]), found, False, 0)


def test_shares_of_yes_are_those_of_single_runs_with_the_sound_steered(tmp_path, monkeypatch):
    lab = lab_of("qwen2-audio", tmp_path, limit=6)
    model, seen, real = lab.language_model, [], audio_steering._yes
    monkeypatch.setattr(audio_steering, "_yes", lambda *given: seen.append((given, real(*given))) or seen[-1][1])
    outcome = audio_steering.run(lab)
    (_, prompts, _), before = seen[0]
    (_, _, (given,)), found = seen[3]
    tokens = [lab.lens.vocabulary.token(answer) for answer in (" Yes", " No")]
    for row, prompt in enumerate(prompts):
        by_hand = [Intervention(given.vector[row], given.layers, positions=prompt.places)]
        (alone,) = next_log_probabilities(model, [prompt], tokens, by_hand).softmax(-1)[:, 0].tolist()
        assert alone == pytest.approx(found[row], abs=1e-5)
    assert not np.allclose(found, before, atol=1e-4)
    lengths = given.vector.norm(dim=-1)
    torch.testing.assert_close(lengths, lengths[:1].expand(6))
    quantity = audio_steering.at_layer("p(Yes), mammals", str(given.layers[0]))
    chosen = lab.sample(audio_steering.clips(lab))
    assert cells(outcome, quantity, "strength")[0.0] == pytest.approx(
        np.mean([share for share, one in zip(before, chosen, strict=True) if one.is_mammal])
    )


@pytest.mark.parametrize(
    ("other", "own", "shown"), [(0.3, 0.0, True), (0.0, 0.0, False), (0.3, 0.3, False), (-0.3, 0.0, False)]
)
def test_sounds_are_shown_where_the_other_class_moves_the_answer_further(hearing, monkeypatch, other, own, shown):
    clips = audio_steering.clips(hearing)
    right_way = np.array([-1 if one.is_mammal else 1 for one in clips])
    asked = []

    def yes(lab, prompts, interventions):
        asked.append(1)
        place = len(asked) - 2  # after the unsteered, at each layer those of the other class, then those of its own
        if place < 0:
            return np.full(len(prompts), 0.5)
        number = len(audio_steering.SHARES)
        return 0.5 + right_way * (other if place // number % 2 == 0 else own)

    monkeypatch.setattr(audio_steering, "_yes", yes)
    outcome = audio_steering.run(hearing)
    assert outcome.shown is shown
    assert outcome.n == 16
    layer = outcome.plots[0].quantities[0].split("layer ")[1]
    assert cells(outcome, audio_steering.at_layer(audio_steering.OTHER, layer), "strength")[1.0] == pytest.approx(other)
    assert cells(outcome, audio_steering.at_layer("p(Yes), mammals", layer), "strength")[1.0] == pytest.approx(
        0.5 - other
    )
    assert cells(outcome, audio_steering.at_layer("p(Yes), mammals", layer), "strength")[0.0] == 0.5


@pytest.mark.parametrize(("name", "family"), [("vision-steering", "llava"), ("audio-steering", "qwen2-audio")])
def test_an_outcome_is_kept_and_a_model_of_texts_is_refused(tmp_path, name, family):
    lab = lab_of(family, tmp_path, limit=4)
    first = run_experiment(name, lab)
    assert (lab.out / name / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert run_experiment(name, lab).table.equals(first.table)
    with pytest.raises(ModelError, match="needs a model that reads"):
        run_experiment(name, Lab(reader(), tmp_path / "text", device="cpu"))
