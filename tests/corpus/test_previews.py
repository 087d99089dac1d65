import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

from hubstore.corpus.item import Media
from hubstore.media.decode import open_audio, open_image
from hubstore.media.previews import CLIP_RATE, clip, mime_of, thumbnail


@pytest.fixture
def image():
    return Image.radial_gradient("L").convert("RGB").resize((640, 480))


@pytest.fixture
def audio():
    """Ten seconds of noise that fades."""
    return (np.random.default_rng(0).uniform(-1, 1, 160_000) * np.linspace(1, 0, 160_000)).astype(np.float32)


def test_a_thumbnail_fits_and_keeps_its_shape(image):
    small = open_image(Media("small", thumbnail(image)))
    assert small.size == (160, 120)
    reference = np.asarray(image.resize((160, 120)), float)
    assert np.abs(np.asarray(small, float) - reference).mean() < 5
    assert len(thumbnail(image)) < 10_000
    assert open_image(Media("small", thumbnail(image, size=32))).size == (32, 24)


def test_a_small_image_is_not_blown_up_and_the_given_one_stays(image):
    tiny = image.resize((20, 10))
    assert open_image(Media("small", thumbnail(tiny))).size == (20, 10)
    thumbnail(image)
    assert image.size == (640, 480)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 48_000])
def test_a_clip_is_the_beginning_of_an_audio_clip(rate, audio):
    found = open_audio(Media("clip", clip(audio, rate, seconds=2.0)), CLIP_RATE)
    assert len(found) == pytest.approx(2 * CLIP_RATE, rel=0.1)
    assert len(clip(audio, rate, seconds=2.0)) < 20_000
    assert np.abs(found).max() > 0.5


def test_a_clip_of_a_single_sample_can_be_played():
    assert len(open_audio(Media("clip", clip(np.zeros(1, np.float32), 16_000)), CLIP_RATE))


def test_the_same_medium_gives_the_same_bytes_in_every_process():
    script = """
import hashlib, numpy as np
from PIL import Image
from hubstore.media.previews import clip, thumbnail
audio = np.random.default_rng(0).uniform(-1, 1, 40_000).astype(np.float32)
made = thumbnail(Image.radial_gradient("L").convert("RGB")) + clip(audio, 22_050)
print(hashlib.sha256(made).hexdigest())
"""
    runs = [
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True) for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout != ""


def test_a_media_type_is_known_by_how_the_bytes_begin(image, audio):
    kinds = {"PNG": "png", "JPEG": "jpeg", "GIF": "gif", "WEBP": "webp", "BMP": "bmp"}
    for kind, name in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, kind)
        assert mime_of(buffer.getvalue()) == f"image/{name}"
    for kind, name in {"WAV": "wav", "FLAC": "flac", "OGG": "ogg", "MP3": "mpeg"}.items():
        buffer = io.BytesIO()
        soundfile.write(buffer, audio[:8000], 16_000, format=kind)
        assert mime_of(buffer.getvalue()) == f"audio/{name}"
    assert mime_of(thumbnail(image)) == "image/webp"
    assert mime_of(clip(audio, 16_000)) == "audio/mpeg"
    assert {mime_of(data) for data in (b"", b"RIFF", b"RIFF1234AVI ", b"text")} == {"application/octet-stream"}
