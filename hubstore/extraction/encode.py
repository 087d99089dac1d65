"""Texts given now, through the model that a store was made with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hubstore.errors import QueryError
from hubstore.extraction.capture import Capture
from hubstore.extraction.pipeline import batch_members
from hubstore.extraction.run import require_same_model
from hubstore.extraction.selfcheck import SelfCheck
from hubstore.extraction.settings import Settings
from hubstore.models import Model, collate, load_model, tokenize
from hubstore.store import StoreReader


def encode(
    store: StoreReader, model: Model, texts: Sequence[str], layers: Sequence[str], pooling: str
) -> dict[str, torch.Tensor]:
    """States of `texts` as the store's own items got theirs: same template, pooling and batching; one pass.

    Returns:
        For each layer, float32 [texts, width] on the CPU.

    Raises:
        ModelError: the model is not the store's.
        QueryError: the pooling is "tokens", under which a text is many rows.
    """
    require_same_model(store, model)
    if pooling == "tokens":
        raise QueryError("a text is many rows under pooling tokens; query by text under last, mean or first")
    settings = Settings.from_json(store.attributes["settings"]).resolve(model)
    assert settings.max_tokens is not None
    assert settings.batch_tokens is not None
    token_ids, _ = tokenize(model, [settings.template.replace("{text}", text) for text in texts], settings.max_tokens)
    capture = Capture(model, layers, (pooling,), torch.float32)
    states = torch.empty((len(layers), len(texts), model.width))
    how = SelfCheck.from_json(store.attributes["self_check"]).how()
    for members in batch_members(np.array([len(ids) for ids in token_ids], np.int32), settings.batch_tokens, how):
        batch = collate(model, [token_ids[i] for i in members], how, settings.batch_tokens).to(model.device)
        states[:, torch.from_numpy(members)] = capture.run(batch)[pooling].cpu()
    return dict(zip(capture.layers, states, strict=True))


def load_model_of(store: StoreReader, source: str | None = None, device: str = "auto", *, head: bool = False) -> Model:
    """The model that a store was made with, from where it was loaded then or from `source`; with its head if asked."""
    made_with = store.attributes["model"]
    return load_model(
        source or made_with["source"],
        revision=made_with["revision"],
        dtype=made_with["dtype"],
        device=device,
        head=head,
    )
