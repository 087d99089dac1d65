"""An extraction to be killed: the same small job every time, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import torch

from hubstore.corpus import Corpus, Item
from hubstore.extraction import Settings, extract
from tests.tiny_models import tiny_model

ITEMS = 1500
SETTINGS = Settings(poolings=("mean", "tokens"), layers=("0", "2"), memory_budget=1, batch_tokens=1024)
"""The smallest shards there are: 256 items, and as few token rows."""


def corpus() -> Corpus:
    """Items of three languages."""
    return Corpus.from_items(
        Item(f"item-{i}", f"Sentence {i}" + " and more" * (i % 9), ("en", "de", "ru")[i % 3], str(i // 3))
        for i in range(ITEMS)
    )


def run(path: Path) -> None:
    """Extract, or go on."""
    torch.set_num_threads(1)
    extract(corpus(), tiny_model("gpt2"), path, SETTINGS)
