"""Lenses read at the tokens of images and audio what all logits of one item at a time say."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

from hubstore.corpus import Media
from hubstore.errors import AnalysisError, ModelError
from hubstore.experiments import ExperimentContext
from hubstore.experiments.materials.media import (
    BASIC_COLORS,
    is_noun,
    nouns,
    photographs,
    recordings,
    solid_image,
)
from hubstore.experiments.recipes import coverage, lens_media, media_words
from hubstore.experiments.recipes.lens import least_overlapping, other_labels
from hubstore.lens import Lens
from hubstore.media.decode import open_image
from tests.experiments.media_readers import hearing, media_states, seeing
from tests.experiments.readers import curve, log_probabilities
from tests.tiny_media import random_image, tiny_media_model


@pytest.fixture
def eyes(tmp_path):
    return ExperimentContext(seeing(), tmp_path, limit=12, bootstrap=100, device="cpu")


@pytest.fixture
def ears(tmp_path):
    return ExperimentContext(hearing(), tmp_path, limit=12, bootstrap=100, device="cpu")


def read(model, modality, medium):
    """Log-probabilities [layers, the medium's tokens, vocabulary] of one medium alone."""
    hidden, own = media_states(model, modality, medium)
    return log_probabilities(model, hidden[:, own])


def token(model, word):
    return Lens.of_model(model).token_or_none(word)


def spelled(model, color):
    names = (f" {color}", f" {color.capitalize()}", color, color.capitalize())
    return {found for name in names if (found := token(model, name)) is not None}


def test_colors_are_the_most_probable_tokens_of_images_of_them(eyes):
    result = lens_media.vision_lens_color(eyes)
    colors = eyes.sample(BASIC_COLORS)
    assert 0 < len(colors) == len([one for one in colors if spelled(seeing(), one)])
    own, other = [], []
    for color in colors:
        best = read(seeing(), "image", Media("c", solid_image(color))).argmax(-1)
        own.append(np.isin(best, list(spelled(seeing(), color))).mean(1))
        others = set().union(*(spelled(seeing(), one) for one in colors if one != color))
        other.append(np.isin(best, list(others)).mean(1) / (len(colors) - 1))
    assert_allclose(curve(result, "own color", eyes.layers), np.mean(own, 0), atol=1e-9)
    assert_allclose(curve(result, "another color", eyes.layers), np.mean(other, 0), atol=1e-9)


def test_a_model_that_says_the_colors_is_shown_to(eyes, few_clusters, monkeypatch):
    """The unembeddings of names are turned toward the states of their images."""
    model = seeing()
    rows = model.head.unembedding.clone()
    for color in BASIC_COLORS:
        hidden, own = media_states(model, "image", Media("c", solid_image(color)))
        state = torch.from_numpy(hidden[1, own].mean(0)).float()
        rows[token(model, f" {color}")] = state * 1e3 / state.norm()
    said = replace(model, head=replace(model.head, unembedding=rows))
    result = lens_media.vision_lens_color(ExperimentContext(said, eyes.out, limit=None, bootstrap=200, device="cpu"))
    at = ExperimentContext(said, eyes.out, device="cpu", bootstrap=100).layers.index("2")
    assert curve(result, "own color", eyes.layers)[at] > curve(result, "another color", eyes.layers)[at]
    assert result.shown


def test_nouns_of_captions_are_those_of_all_logits(eyes):
    result = lens_media.vision_lens_caption(eyes)
    chosen, known, model = eyes.sample(photographs(eyes)), nouns(eyes), seeing()
    captions = []
    for number, one in enumerate(chosen):
        for text in one.captions:
            words = [word for word in media_words.WORD.findall(text.lower()) if is_noun(word, known)]
            found = {token(model, f" {word}") for word in words} - {None}
            if found:
                captions.append((number, found))
    others = least_overlapping(
        [sorted(found) for _, found in captions], np.array([number for number, _ in captions]), eyes.seed
    )
    read_once = [read(model, "image", one.image) for one in chosen]
    values = {"own caption": [], "another's caption": [], "own caption, log": []}
    for (number, found), other in zip(captions, others, strict=True):
        assert captions[other][0] != number
        logs = read_once[number]
        values["own caption"].append(np.exp(logs[:, :, sorted(found)]).mean((1, 2)))
        values["another's caption"].append(np.exp(logs[:, :, sorted(captions[other][1])]).mean((1, 2)))
        values["own caption, log"].append(logs[:, :, sorted(found)].mean((1, 2)))
    for quantity, of_captions in values.items():
        tolerance = 1e-3 if "log" in quantity else 1e-4
        assert_allclose(curve(result, quantity, eyes.layers), np.mean(of_captions, 0), atol=tolerance)
    assert result.n == len(captions)


def test_the_least_overlapping_caption_is_of_another_image_and_shares_least_with_all_of_this_ones():
    captions = [[1, 2], [3], [1], [3, 4], [5, 1]]
    images = np.array([0, 0, 1, 2, 2])
    for seed in range(5):
        chosen = least_overlapping(captions, images, seed)
        assert [images[other] for other in chosen] != list(images)
        assert set(chosen[:2]) <= {2, 3, 4}  # each shares one noun with {1, 2, 3}
        assert chosen[2] in (1, 3)  # share none with {1}
        assert chosen[3] in (0, 1, 2)
    assert not is_noun("walks", frozenset({"dog"}))
    assert all(is_noun(word, frozenset({"dog", "berry", "bus"})) for word in ("dog", "dogs", "berries", "buses", "bus"))


def test_names_are_read_where_the_masks_are(eyes):
    result = lens_media.vision_lens_segmentation(eyes)
    chosen, model = eyes.sample([one for one in photographs(eyes) if one.masks]), seeing()
    names = sorted({name for one in chosen for name in one.masks if token(model, f" {name}") is not None})
    seen = [
        (one, name, places)
        for one in chosen
        for name in [name for name in one.masks if name in names]
        if (places := covered_by_hand(one.mask(name, *open_image(one.image).size)))
    ]
    absent = media_words.other_categories([name for _, name, _ in seen], [one for one, _, _ in seen], eyes.seed)
    own, other = [], []
    for (one, name, places), control in zip(seen, absent, strict=True):
        assert control not in one.masks
        logs = read(model, "image", one.image)
        own.append(logs[:, places, token(model, f" {name}")].mean(1))
        other.append(logs[:, places, token(model, f" {control}")].mean(1))
    assert len(own) > 3
    assert_allclose(curve(result, "category there", eyes.layers), np.mean(own, 0), atol=1e-3)
    assert_allclose(curve(result, "another category", eyes.layers), np.mean(other, 0), atol=1e-3)
    probable = [
        np.exp(read(model, "image", one.image)[:, places, token(model, f" {name}")]).mean(1)
        for one, name, places in seen
    ]
    assert_allclose(curve(result, "category there, probability", eyes.layers), np.mean(probable, 0), atol=1e-4)


def covered_by_hand(mask):
    """Of the 4 x 4 patches of the tiny LLaVA: shorter side to 32 pixels, the middle cut out, more than half inside."""
    height, width = mask.shape
    shorter = min(height, width)
    drawn = Image.fromarray((mask * 255).astype(np.uint8))
    drawn = drawn.resize((width * 32 // shorter, height * 32 // shorter), Image.Resampling.BICUBIC)
    left, top = (drawn.width - 32) // 2, (drawn.height - 32) // 2
    cut = np.asarray(drawn.crop((left, top, left + 32, top + 32)), np.float64) / 255
    return [4 * r + c for r in range(4) for c in range(4) if cut[8 * r : 8 * r + 8, 8 * c : 8 * c + 8].mean() > 0.5]


@pytest.mark.parametrize("family", ["llava", "chameleon", "gemma3", "qwen2-vl", "qwen2.5-vl"])
def test_parts_of_an_image_fall_on_the_tokens_of_their_patches(family):
    model = tiny_media_model(family)
    read_by = model.adapters["image"].reader
    left, top = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    left[:, :32], top[:32] = True, True
    shares = coverage.coverage(read_by, [left, top, left | True], "{media}")
    side = int(shares.shape[1] ** 0.5)
    left_tokens, top_tokens, all_tokens = shares.reshape(3, side, side)
    assert_allclose(all_tokens, 1)
    half = side // 2
    assert (left_tokens[:, :half] > 0.9).all()
    assert (left_tokens[:, half:] < 0.1).all()
    assert_allclose(top_tokens, left_tokens.T, atol=1e-6)


def test_parts_of_an_image_that_is_cut_up_fall_on_the_pieces():
    """Idefics takes four pieces of 2 x 2 tokens, row after row, and the whole."""
    left = np.zeros((64, 64), bool)
    left[:, :32] = True
    (shares,) = coverage.coverage(tiny_media_model("idefics3").adapters["image"].reader, [left], "{media}")
    assert_allclose(shares.reshape(5, 2, 2)[:4].mean((1, 2)), [1, 0, 1, 0], atol=0.05)
    assert_allclose(shares.reshape(5, 2, 2)[4], [[1, 0], [1, 0]], atol=0.05)


@pytest.mark.parametrize("corner", [(0, 0), (0, 3), (3, 0), (2, 1)])
def test_the_token_of_a_patch_is_the_one_that_moves_with_it(corner):
    """Orientation, told by the model itself: a change of pixels under a mask moves the token that the mask covers."""
    row, column = corner
    mask = np.zeros((32, 32), bool)
    mask[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = True
    model = seeing()
    token_of_mask = coverage.coverage(model.adapters["image"].reader, [mask], "{media}")[0]
    assert token_of_mask.argmax() == 4 * row + column
    before = random_image(0, 32, 32)
    changed = np.array(before)
    changed[mask] = 255 - changed[mask]
    states = [media_embeddings(model, image) for image in (before, Image.fromarray(changed))]
    assert np.linalg.norm(states[1] - states[0], axis=1).argmax() == token_of_mask.argmax()


@torch.inference_mode()
def media_embeddings(model, image):
    """What the projector gives for each patch, [patches, width]."""
    whole = model.adapters["image"].whole
    reader = model.adapters["image"].reader
    inputs = reader.finish(reader.read(image))
    tower = whole.vision_tower(pixel_values=inputs.tensors["pixel_values"]).last_hidden_state[:, 1:]
    return tower[0].double().numpy()


def test_what_is_cut_off_a_wide_image_is_under_no_token(eyes):
    mask = np.zeros((32, 96), bool)
    mask[:, :32] = True  # the middle third is what the model sees
    assert_allclose(coverage.coverage(seeing().adapters["image"].reader, [mask], "{media}"), 0, atol=0.05)


def test_tokens_that_are_no_grid_are_refused():
    with pytest.raises(ModelError, match="no grid over pixels of shape 1 x 3 x 32 x 32"):
        coverage._by_token(torch.zeros(1, 3, 32, 32), 17)


def test_words_of_labels_are_those_of_all_logits(ears):
    result = lens_media.audio_lens(ears)
    model, drawn = hearing(), ears.sample(recordings(ears))
    tokens = {
        label: [t for word in label.split() if (t := token(model, f" {word}")) is not None]
        for label in dict.fromkeys(one.label for one in drawn)
    }
    tokens = {label: found for label, found in tokens.items() if found}
    chosen = [one for one in drawn if one.label in tokens]
    assert len(chosen) < len(drawn)  # "chainsaw" is several tokens
    others = other_labels([one.label for one in chosen], ears.seed)
    own, other = [], []
    for one, label in zip(chosen, others, strict=True):
        assert not set(label.split()) & set(one.label.split())
        logs = read(model, "audio", one.audio)
        own.append(logs[:, :, tokens[one.label]].mean((1, 2)))
        other.append(logs[:, :, tokens[label]].mean((1, 2)))
    assert_allclose(curve(result, "own label", ears.layers), np.mean(own, 0), atol=1e-3)
    assert_allclose(curve(result, "own label - another label", ears.layers), np.subtract(own, other).mean(0), atol=1e-3)


def test_labels_that_all_share_a_word_are_refused():
    with pytest.raises(AnalysisError, match="no clip is left that shares no word with 'dog bark'"):
        other_labels(["dog bark", "dog howl"], 0)


def test_solid_images_are_of_their_color():
    image = Image.open(io.BytesIO(solid_image("red")))
    assert image.getcolors() == [(336 * 336, (255, 0, 0))]
