"""Pillow's resampling in our way: the same bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hubstore.media.resize import KERNELS, pixels_of, resize_rgb

SIDES = st.integers(1, 90)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(sorted(KERNELS)), st.integers(0, 9))
def test_resized_images_are_pillows_byte_for_byte(height, width, new_height, new_width, resample, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    if seed % 3 == 0:
        image = (image > 127).astype(np.uint8) * 255  # edges that overshoot
    theirs = planes(Image.fromarray(image).resize((new_width, new_height), resample))
    np.testing.assert_array_equal(resize_rgb(image, (new_height, new_width), resample), theirs)


def planes(image):
    return np.moveaxis(np.asarray(image), -1, 0)


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(sorted(KERNELS)), st.data())
def test_the_middle_alone_is_the_middle_of_the_whole(height, width, new_height, new_width, resample, data):
    image = Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8))
    crop = data.draw(st.tuples(st.integers(1, new_height), st.integers(1, new_width)))
    top, left = (new_height - crop[0]) // 2, (new_width - crop[1]) // 2
    whole = planes(image.resize((new_width, new_height), resample))
    middle = resize_rgb(pixels_of(image), (new_height, new_width), resample, crop)
    np.testing.assert_array_equal(middle, whole[:, top : top + crop[0], left : left + crop[1]])


def test_pixels_are_taken_where_they_lie_or_copied_where_they_lie_apart(monkeypatch):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8))
    lying = pixels_of(image)
    assert lying.shape == (300, 200, 4)
    np.testing.assert_array_equal(lying[..., :3], np.asarray(image))
    monkeypatch.delattr(Image.Image, "__arrow_c_array__")  # Pillow before 11.2, and images in several blocks
    copied = pixels_of(image)
    assert copied.shape == (300, 200, 3)
    for pixels in (lying, copied):
        np.testing.assert_array_equal(resize_rgb(pixels, (50, 40), 3), planes(image.resize((40, 50), 3)))


@pytest.mark.parametrize("size", [(224, 299), (17, 900), (1200, 30)])
def test_a_photograph_too(size):
    across, down = np.meshgrid(np.linspace(0, 9, 640), np.linspace(0, 7, 480))
    waves = np.stack([np.sin(across * down), np.cos(across), np.sin(down + across)], -1)
    image = ((waves + 1) * 127.5).astype(np.uint8)
    for resample in KERNELS:
        theirs = planes(Image.fromarray(image).resize(size[::-1], resample))
        np.testing.assert_array_equal(resize_rgb(image, size, resample), theirs)


def test_other_filters_are_left_to_pillow():
    assert resize_rgb(np.zeros((4, 4, 3), np.uint8), (2, 2), Image.Resampling.NEAREST) is None
