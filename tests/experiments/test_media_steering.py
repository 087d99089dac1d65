"""Steering of images and audio in experiments: what is put where, what counts, and verdicts of yes and of no."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hubstore.corpus import Media
from hubstore.errors import AnalysisError, CorpusError, LensError, ModelError
from hubstore.experiments import ExperimentContext, run_experiment
from hubstore.experiments.materials.media import COLORS, AnimalClip, animal_clips, halves_image, trials
from hubstore.experiments.recipes import steering_media
from hubstore.lens import Vocabulary
from hubstore.steer import Continuation, Intervention, generate, next_log_probabilities
from tests.experiments.readers import reader
from tests.steer.test_media import speaker

WORDS = tuple(
    f" {word}"
    for word in (
        *COLORS, "Yes", "No", "dog", "cat", "cow", "chicken", "bird", "frog", "duck", "snake",
    )
)  # fmt: skip


def lab_of(family, folder, **given):
    return ExperimentContext(speaker(family, WORDS)[0], folder / "out", **{"bootstrap": 200, "device": "cpu", **given})


@pytest.fixture
def seeing(tmp_path):
    return lab_of("llava", tmp_path)


@pytest.fixture
def hearing(tmp_path):
    return lab_of("qwen2-audio", tmp_path)


def cells(result, quantity, column="layer"):
    return {row[column]: row["value"] for row in result.table.to_pylist() if row["quantity"] == quantity}


def test_trials_are_the_papers_48():
    found = trials()
    assert len(found) == len(set(found)) == 48
    for one in found:
        assert {one.old, one.retained, one.new, one.fourth} == set(COLORS)
        assert (one.old, one.retained) == (one.colors[one.half], one.colors[1 - one.half])


def test_an_image_has_one_color_above_and_one_below():
    image = np.asarray(Image.open(io.BytesIO(halves_image(("red", "blue")))))
    assert (image[:128] == (255, 0, 0)).all()
    assert (image[128:] == (0, 0, 255)).all()


def test_halves_are_those_of_the_images_tokens(seeing):
    prompt = steering_media.colors_prompt(seeing, ("red", "blue"))
    ((start, stop),) = prompt.inputs.media
    upper, lower = (steering_media.half_of(prompt, half) for half in (0, 1))
    assert (upper, lower) == (list(range(start, start + 8)), list(range(start + 8, stop)))
    with pytest.raises(AnalysisError, match="an image of 1 tokens has no halves"):
        steering_media.half_of(SimpleNamespace(places=[3], shown="x"), 0)


def test_a_color_gives_way_where_the_new_one_is_named_and_the_old_is_not():
    said = {"blue and red": True, "Blue.": True, "green and blue": False, "bluegrass": False, "red": False}
    assert {text: steering_media.gives_way("green", "blue", text) for text in said} == said


def test_half_an_image_is_replaced_by_its_difference_from_a_layer_on(seeing, monkeypatch):
    model, chosen = seeing.language_model, seeing.sample(trials())
    result = steering_media.vision_steering(seeing)
    layers = list(cells(result, steering_media.SUCCESS))
    assert layers == ["1", "2", "3"]
    unembedding, vocabulary = model.head.unembedding, seeing.lens.vocabulary
    one = chosen[5]
    prompt = steering_media.colors_prompt(seeing, one.colors)
    vector = unembedding[vocabulary.token(f" {one.new}")] - unembedding[vocabulary.token(f" {one.old}")]
    half = prompt.places[len(prompt.places) // 2 :] if one.half else prompt.places[: len(prompt.places) // 2]
    by_hand = Intervention(vector, [2, 3], "replace", positions=half)
    (wanted,) = generate(model, [prompt], [by_hand], decoding=steering_media.DECODING)
    real, found = steering_media.generate, {}

    def kept(model, prompts, interventions=(), **given):
        continued = real(model, prompts, interventions, **given)
        if interventions:
            found[min(interventions[0].layers)] = continued
        return continued

    monkeypatch.setattr(steering_media, "generate", kept)
    again = steering_media.vision_steering(seeing)
    assert again.table.equals(result.table)
    assert found[2][5].token_ids == wanted.token_ids
    before = generate(model, [prompt], decoding=steering_media.DECODING)[0]
    assert found[3][5].token_ids == before.token_ids, "nothing reads what is replaced after the last block"
    assert found[1][5].log_probabilities != before.log_probabilities


@pytest.mark.parametrize(
    ("said", "shown"),
    [("new", True), ("old new", False), ("fourth", False), ("retained", False), ("new fourth", False)],
)
def test_images_are_shown_where_the_new_color_takes_the_place_of_the_old(
    seeing, few_clusters, monkeypatch, said, shown
):

    def generate(model, prompts, interventions=(), **given):
        if not interventions:
            return [Continuation(one.shown, "red, green, blue, yellow", (), (), 0, False) for one in prompts]
        works = min(interventions[0].layers) == 2
        names = [said.split() if works else ["old", "retained"] for _ in trials()]
        return [
            Continuation(prompt.shown, " ".join(getattr(one, name) for name in of_one), (), (), 0, False)
            for prompt, one, of_one in zip(prompts, trials(), names, strict=True)
        ]

    monkeypatch.setattr(steering_media, "generate", generate)
    result = steering_media.vision_steering(seeing)
    assert result.shown is shown
    assert result.n == 48
    assert cells(result, steering_media.SUCCESS)["2"] == ("new" in said and "old" not in said)
    assert "unsteered, both colors are named of 12 of 12 images" in result.notes


def test_colors_that_are_named_anyway_show_nothing(seeing, monkeypatch):
    def generate(model, prompts, interventions=(), **given):
        others = [set(COLORS) - set(p.shown.split(".")[0][1:].split(" over ")) for p in prompts]
        return [Continuation(p.shown, " ".join(o), (), (), 0, False) for p, o in zip(prompts, others, strict=True)]

    monkeypatch.setattr(steering_media, "generate", generate)
    assert not steering_media.vision_steering(seeing).shown


def test_the_question_is_put_where_the_template_has_its_place(tmp_path):
    context = lab_of("llava", tmp_path, media_template="USER: {media} {text} ASSISTANT:")
    shown = steering_media.colors_prompt(context, ("red", "blue")).shown
    assert shown == f"USER: <red over blue.png> {steering_media.COLORS_QUESTION} ASSISTANT:"
    context = lab_of("llava", tmp_path)
    assert (
        steering_media.colors_prompt(context, ("red", "blue")).shown
        == f"<red over blue.png>\n{steering_media.COLORS_QUESTION}"
    )


def test_audio_clips_that_ship_are_of_dogs_and_roosters(hearing):
    found = animal_clips(hearing)
    assert [clip.animal for clip in found] == ["dog"] * 8 + ["rooster"] * 8
    assert [clip.is_mammal for clip in found] == [True] * 8 + [False] * 8
    assert len({clip.recording for clip in found}) == 12


def test_a_users_audio_take_their_place(tmp_path):
    (tmp_path / "animals.tsv").write_text("a/1.wav\tcow\tyes\nb.wav\tfrog\tno\n")
    context = lab_of("qwen2-audio", tmp_path, data=tmp_path)
    cow, frog = animal_clips(context)
    assert (cow.animal, cow.is_mammal, cow.media.name) == ("cow", True, str(tmp_path / "a/1.wav"))
    assert not frog.is_mammal
    for wrong, message in (
        ("a.wav cow yes\n", "line 1: 'a.wav cow yes' is not"),
        ("a.wav\tcow\tyes\n", "has 1 clips"),
    ):
        (tmp_path / "animals.tsv").write_text(wrong)
        with pytest.raises(CorpusError, match=message):
            animal_clips(context)


def clip(animal, is_mammal):
    return AnimalClip(Media("x.wav"), animal, is_mammal, "x")


def test_animals_are_made_into_others_of_the_other_class_or_of_their_own(hearing):
    vocabulary = hearing.lens.vocabulary
    found = [clip("dog", True)] * 40 + [clip("rooster", False)] * 40
    for changes, wanted in (
        (True, [{"chicken", "bird", "frog", "duck", "snake"}, {"dog", "cat", "cow"}]),
        (False, [{"cat", "cow"}, {"frog", "duck", "snake"}]),
    ):
        tokens = steering_media.other_animals(vocabulary, found, changes, 0)
        words = [vocabulary.tokenizer.id_to_token(token).strip() for token in tokens]
        assert [set(words[:40]), set(words[40:])] == wanted
        assert tokens == steering_media.other_animals(vocabulary, found, changes, 0)
    assert steering_media.own_token(vocabulary, "rooster") == vocabulary.token(" chicken")
    with pytest.raises(LensError, match="' elephant' is not one token"):
        steering_media.own_token(vocabulary, "elephant")
    with pytest.raises(AnalysisError, match="of the mammals that a dog could be made into"):
        steering_media.other_animals(Vocabulary.of_model(speaker("qwen2-audio")[0]), found, False, 0)


def test_shares_of_yes_are_those_of_single_runs_with_the_audio_steered(tmp_path, monkeypatch):
    context = lab_of("qwen2-audio", tmp_path, limit=6)
    model, seen, real = context.language_model, [], steering_media.share_of_yes
    monkeypatch.setattr(
        steering_media, "share_of_yes", lambda *given: seen.append((given, real(*given))) or seen[-1][1]
    )
    result = steering_media.audio_steering(context)
    (_, prompts, _), before = seen[0]
    (_, _, (given,)), found = seen[3]
    tokens = [context.lens.vocabulary.token(answer) for answer in (" Yes", " No")]
    for row, prompt in enumerate(prompts):
        by_hand = [Intervention(given.vector[row], given.layers, positions=prompt.places)]
        (alone,) = next_log_probabilities(model, [prompt], tokens, by_hand).softmax(-1)[:, 0].tolist()
        assert alone == pytest.approx(found[row], abs=1e-5)
    assert not np.allclose(found, before, atol=1e-4)
    lengths = given.vector.norm(dim=-1)
    torch.testing.assert_close(lengths, lengths[:1].expand(6))
    quantity = steering_media.at_layer("p(Yes), mammals", str(given.layers[0]))
    chosen = context.sample(animal_clips(context))
    assert cells(result, quantity, "strength")[0.0] == pytest.approx(
        np.mean([share for share, one in zip(before, chosen, strict=True) if one.is_mammal])
    )


@pytest.mark.parametrize(
    ("other", "own", "shown"), [(0.3, 0.0, True), (0.0, 0.0, False), (0.3, 0.3, False), (-0.3, 0.0, False)]
)
def test_audio_clips_are_shown_where_the_other_class_moves_the_answer_further(
    hearing, few_clusters, monkeypatch, other, own, shown
):
    clips = animal_clips(hearing)
    right_way = np.array([-1 if one.is_mammal else 1 for one in clips])
    asked = []

    def yes(context, prompts, interventions):
        asked.append(1)
        place = len(asked) - 2  # after the unsteered, at each layer those of the other class, then those of its own
        if place < 0:
            return np.full(len(prompts), 0.5)
        number = len(steering_media.LENGTHS)
        return 0.5 + right_way * (other if place // number % 2 == 0 else own)

    monkeypatch.setattr(steering_media, "share_of_yes", yes)
    result = steering_media.audio_steering(hearing)
    assert result.shown is shown
    assert result.n == 16
    layer = result.plots[0].quantities[0].split("layer ")[1]
    assert cells(result, steering_media.at_layer(steering_media.OTHER_CLASS, layer), "strength")[1.0] == pytest.approx(
        other
    )
    assert cells(result, steering_media.at_layer("p(Yes), mammals", layer), "strength")[1.0] == pytest.approx(
        0.5 - other
    )
    assert cells(result, steering_media.at_layer("p(Yes), mammals", layer), "strength")[0.0] == 0.5


@pytest.mark.parametrize(("name", "family"), [("vision-steering", "llava"), ("audio-steering", "qwen2-audio")])
def test_an_outcome_is_kept_and_a_model_of_texts_is_refused(tmp_path, name, family):
    context = lab_of(family, tmp_path, limit=4)
    first = run_experiment(name, context)
    assert (context.out / name / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert run_experiment(name, context).table.equals(first.table)
    with pytest.raises(ModelError, match="needs a model that reads"):
        run_experiment(name, ExperimentContext(reader(), tmp_path / "text", device="cpu"))
