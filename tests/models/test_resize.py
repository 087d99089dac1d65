"""Pillow's resampling in our way: the same bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hubstore.models.resize import KERNELS, resize_rgb

SIDES = st.integers(1, 90)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(sorted(KERNELS)), st.integers(0, 9))
def test_resized_pictures_are_pillows_byte_for_byte(height, width, new_height, new_width, resample, seed):
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    if seed % 3 == 0:
        picture = (picture > 127).astype(np.uint8) * 255  # edges that overshoot
    theirs = np.asarray(Image.fromarray(picture).resize((new_width, new_height), resample))
    np.testing.assert_array_equal(resize_rgb(picture, (new_height, new_width), resample), theirs)


@pytest.mark.parametrize("size", [(224, 299), (17, 900), (1200, 30)])
def test_a_photograph_too(size):
    across, down = np.meshgrid(np.linspace(0, 9, 640), np.linspace(0, 7, 480))
    waves = np.stack([np.sin(across * down), np.cos(across), np.sin(down + across)], -1)
    picture = ((waves + 1) * 127.5).astype(np.uint8)
    for resample in KERNELS:
        theirs = np.asarray(Image.fromarray(picture).resize(size[::-1], resample))
        np.testing.assert_array_equal(resize_rgb(picture, size, resample), theirs)


def test_other_filters_are_left_to_pillow():
    assert resize_rgb(np.zeros((4, 4, 3), np.uint8), (2, 2), Image.Resampling.NEAREST) is None
