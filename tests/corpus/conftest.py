import io
import os
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from hubstore.corpus import Corpus, read_sample


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Real items, long form: 20 sentences in 4 languages."""
    corpus = read_sample("ntrex", languages=["en", "zh-Hans", "th", "ar"], limit=20)
    return contents(corpus)


@pytest.fixture
def wide_rows() -> list[dict[str, Any]]:
    """The same, wide form, nested: a row for each of 20 sentences."""
    sentences = [contents(read_sample("ntrex", languages=[tag], limit=20)) for tag in ("en", "zh-Hans")]
    return [{"translation": {"en": en["text"], "zh-Hans": zh["text"]}} for en, zh in zip(*sentences, strict=True)]


def contents(corpus: Corpus, batch_rows: int = 4096) -> list[dict[str, Any]]:
    """The items of a corpus as dicts; those of texts without the two columns of media."""
    rows = [row for batch in corpus.batches(batch_rows) for row in batch.to_pylist()]
    return [without_media(row) if row["modality"] == "text" else row for row in rows]


def without_media(row: dict[str, Any]) -> dict[str, Any]:
    assert row["media"] is row["data"] is None
    return {name: row[name] for name in row if name not in ("media", "data")}


def image_bytes(number: int) -> bytes:
    """A PNG of 12 x 8 pixels; another number, another image."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def audio_bytes(number: int) -> bytes:
    """A WAV of a tenth of a second at 8 kHz; another number, another audio."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(number).uniform(-1, 1, 800), 8000, format="WAV")
    return buffer.getvalue()


def python(script, *arguments, **environment):
    """Run a script in a fresh interpreter; return what it printed, on both streams."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"} | environment,
        check=True,
        capture_output=True,
        text=True,
    )
