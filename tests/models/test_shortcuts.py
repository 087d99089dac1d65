"""What is left out of a processor's work changes nothing of what a model is given."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from hubstore.forward import collate_media
from hubstore.media.shortcuts import (
    DeferredNormalization,
    can_trim_padding,
    defer_normalization,
    whisper_features,
    with_fast_resize,
)
from tests.tiny_media import FAMILIES, media_of, random_audio, random_image, tiny_media_model

LEFT = ("llava", "gemma3", "idefics3", "chameleon", "clip", "siglip", "vit", "dinov2")
"""Whose processors' last steps are a value for each level."""


def own_pixels(name, medium):
    """What the family's own processor gives."""
    processor = FAMILIES[name].make()[1]
    image_processor = getattr(processor, "image_processor", processor)
    return torch.as_tensor(image_processor(images=medium, return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LEFT)
def test_pixels_sent_as_bytes_become_the_processors_own_bit_for_bit(name, dtype):
    model = tiny_media_model(name, dtype=dtype)
    for seed, medium in enumerate(
        [*media_of(name), random_image(5, 200, 31), Image.new("RGB", (50, 50), (255, 0, 128))]
    ):
        inputs = model.adapters["image"].reader.read(medium, "{media}")
        assert inputs.tensors["pixel_values"].dtype == torch.uint8
        given = collate_media(model, "image", [inputs]).to(model.device).inputs["pixel_values"]
        assert torch.equal(given, own_pixels(name, medium).to(dtype)), seed


def test_images_of_several_sizes_are_padded_after_they_are_normalized():
    model = tiny_media_model("idefics3")
    reader = model.adapters["image"].reader
    inputs = [reader.read(medium, "{media}") for medium in media_of("idefics3")]
    assert len({one.tensors["pixel_values"].shape for one in inputs}) > 1
    given = collate_media(model, "image", inputs).to(model.device).inputs["pixel_values"]
    for row, medium in zip(given, media_of("idefics3"), strict=True):
        own = own_pixels("idefics3", medium)[0]
        assert torch.equal(row[: len(own)], own)
        assert not row[len(own) :].any()


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.modality == "image"])
def test_a_quickened_processor_gives_its_own_bytes_for_images_of_any_shape(name):
    processor = FAMILIES[name].make()[1]
    own = getattr(processor, "image_processor", processor)
    quick = with_fast_resize(processor)
    assert quick is not processor
    quick = getattr(quick, "image_processor", quick)
    for medium in (random_image(1, 203, 57), random_image(2, 31, 188), random_image(3, 64, 64)):
        wanted, found = (dict(made(images=medium, return_tensors="pt")) for made in (own, quick))
        assert wanted.keys() == found.keys()
        for argument, values in wanted.items():
            assert torch.equal(torch.as_tensor(values), torch.as_tensor(found[argument])), argument


def test_images_that_are_not_plain_are_left_to_pillow():
    quick = with_fast_resize(transformers.CLIPImageProcessorPil(size={"shortest_edge": 8}, do_center_crop=False))
    gray = np.arange(200, dtype=np.uint8).reshape(1, 10, 20)
    made = quick(images=gray, input_data_format="channels_first", do_normalize=False, return_tensors="pt")
    assert made["pixel_values"].shape[-2:] == (8, 16)


class Reversing(transformers.CLIPImageProcessorPil):
    """Turns pixels around after normalizing them by where they are: no value for a level."""

    def preprocess(self, images, *args, **options):
        made = super().preprocess(images, *args, **options)
        if self.do_normalize:
            made["pixel_values"] = made["pixel_values"] * torch.linspace(0.5, 1, made["pixel_values"].shape[-1])
        return made


@pytest.mark.parametrize(
    "processor",
    [
        Reversing(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        transformers.CLIPImageProcessorPil(do_rescale=False, do_normalize=False),
    ],
    ids=["values depend on the place", "nothing is left out"],
)
def test_a_processor_that_does_something_else_stays_as_it_is(processor):
    assert defer_normalization(processor, torch.float32) is None


def test_the_processor_that_was_given_is_not_changed():
    processor = FAMILIES["llava"].make()[1]
    left = defer_normalization(processor, torch.float32)
    assert isinstance(left[1], DeferredNormalization)
    assert processor.image_processor.do_normalize
    assert not left[0].image_processor.do_normalize


@pytest.mark.parametrize("seconds", [0.0001, 0.4, 5, 29.9, 30])
def test_an_audio_clips_features_are_whispers_own(seconds):
    extractor = transformers.WhisperFeatureExtractor()
    options = {"sampling_rate": 16_000, "return_tensors": "pt", "return_attention_mask": True}
    samples = random_audio(3, 30.0)[: max(1, int(16_000 * seconds))]
    own, ours = extractor(samples, **options), whisper_features(extractor, samples)
    assert own["input_features"].shape == ours["input_features"].shape
    torch.testing.assert_close(ours["input_features"], own["input_features"], rtol=0, atol=1e-5)
    assert torch.equal(ours["attention_mask"], own["attention_mask"])


def test_only_an_extractor_whose_silence_is_alike_skips_it():
    assert can_trim_padding(transformers.WhisperFeatureExtractor())
    assert not can_trim_padding(transformers.WhisperFeatureExtractor(dither=1.0))  # noise on every frame
    assert not can_trim_padding(transformers.Wav2Vec2FeatureExtractor())
    assert tiny_media_model("whisper-encoder").adapters["audio"].reader.trims_padding


def test_silence_alone_is_read_too():
    extractor = transformers.WhisperFeatureExtractor()
    ours = whisper_features(extractor, np.zeros(16_000, np.float32))
    own = extractor(np.zeros(16_000, np.float32), sampling_rate=16_000, return_tensors="pt")
    torch.testing.assert_close(ours["input_features"], own["input_features"], rtol=0, atol=1e-5)
