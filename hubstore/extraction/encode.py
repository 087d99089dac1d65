"""Texts, pictures and sounds given now, through the model that a store was made with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from hubstore.corpus import Item
from hubstore.errors import QueryError
from hubstore.extraction.capture import Capture, kept_whole
from hubstore.extraction.media import media_task, read_item
from hubstore.extraction.members import batch_members, media_members
from hubstore.extraction.run import require_same_model
from hubstore.extraction.selfcheck import checks_of
from hubstore.extraction.settings import Settings
from hubstore.models import Batching, HostBatch, Model, collate, load_model, tokenize
from hubstore.models.batch import Integers
from hubstore.store import StoreReader


def encode(
    store: StoreReader, model: Model, items: Sequence[Item], layers: Sequence[str], pooling: str
) -> dict[str, torch.Tensor]:
    """States of items as the store's own got theirs: same template, pooling and batching; one pass.

    Returns:
        For each layer, float32 [items, width] on the CPU.

    Raises:
        ModelError: the model is not the store's, or does not read an item's modality.
        CorpusError: a picture or sound cannot be read.
        QueryError: the pooling is "tokens", under which an item is many rows.
    """
    require_same_model(store, model)
    if pooling == "tokens":
        raise QueryError("an item is many rows under pooling tokens; query by text under last, mean or first")
    settings = Settings.from_json(store.attributes["settings"]).resolve(model)
    states = torch.empty((len(layers), len(items), model.width))
    checks = checks_of(store.attributes)
    with kept_whole(model):
        capture = Capture(model, layers, (pooling,), torch.float32)
        for modality in dict.fromkeys(item.modality for item in items):
            model.require_modality(modality)
            own = [number for number, item in enumerate(items) if item.modality == modality]
            how = checks[modality].how() if modality in checks else Batching()
            run = _encode_texts if modality == "text" else _encode_media
            states[:, own] = run(capture, [items[number] for number in own], settings, how)
    return dict(zip(capture.layers, states, strict=True))


def _encode_texts(capture: Capture, items: Sequence[Item], settings: Settings, how: Batching) -> torch.Tensor:
    """float32 [layers, items, width] on the CPU."""
    assert settings.max_tokens is not None
    assert settings.batch_tokens is not None
    model = capture.model
    texts = [settings.template.replace("{text}", item.text) for item in items]
    token_ids, _ = tokenize(model, texts, settings.max_tokens)
    lengths = np.array([len(ids) for ids in token_ids], np.int32)
    batches = (
        (members, collate(model, [token_ids[i] for i in members], how, settings.batch_tokens))
        for members in batch_members(lengths, settings.batch_tokens, how)
    )
    return _collected(capture, len(items), batches)


def _encode_media(capture: Capture, items: Sequence[Item], settings: Settings, how: Batching) -> torch.Tensor:
    """float32 [layers, items, width] on the CPU."""
    assert settings.media_tokens is not None
    model, modality = capture.model, items[0].modality
    task = media_task(model, settings)
    inputs = []
    for item in items:
        assert item.media is not None
        read = read_item(task, modality, item.media, item.text, item.id)
        if read.error is not None:
            raise read.error
        assert read.inputs is not None
        inputs.append(read.inputs)
    lengths = np.array([model.adapters[modality].length_of(item) for item in inputs], np.int32)
    batches = (
        (members, model.collate_media(modality, [inputs[i] for i in members]))
        for members in media_members(inputs, lengths, settings.media_tokens, how)
    )
    return _collected(capture, len(items), batches)


def _collected(capture: Capture, count: int, batches: Iterable[tuple[Integers, HostBatch]]) -> torch.Tensor:
    """float32 [layers, items, width] on the CPU, of batches and which of the items are in each."""
    states = torch.empty((len(capture.layers), count, capture.model.width))
    for members, batch in batches:
        states[:, torch.from_numpy(members)] = capture.run(batch.to(capture.model.device))[capture.poolings[0]].cpu()
    return states


def load_model_of(store: StoreReader, source: str | None = None, device: str = "auto", *, head: bool = False) -> Model:
    """The model that a store was made with, from where it was loaded then or from `source`; with its head if asked."""
    made_with = store.attributes["model"]
    return load_model(
        source or made_with["source"],
        also=made_with.get("also", ()),
        stack=made_with.get("stack"),
        revision=made_with["revision"],
        dtype=made_with["dtype"],
        device=device,
        head=head,
    )
