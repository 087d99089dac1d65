"""Texts, images and audio given now, through the model that a store was made with."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from hubstore.corpus import Item
from hubstore.errors import ModelError, Parameter, QueryError
from hubstore.extraction.checks import checks_of
from hubstore.extraction.run import require_same_model
from hubstore.extraction.settings import ResolvedSettings, Settings, media_task
from hubstore.forward import Batching, HostBatch, collate, collate_media, tokenize
from hubstore.forward.capture import Capture
from hubstore.forward.members import batch_members, media_members
from hubstore.forward.memory import run_in_halves
from hubstore.media.reading import read_item
from hubstore.models import Model, length_borders, load_model
from hubstore.models.checkpoint import REMOTE_CODE
from hubstore.models.files import cached_folder
from hubstore.reading.layout import Integers
from hubstore.store import StoreReader

_HUB_NAME = re.compile(r"(\w[\w.-]{0,95}/)?\w[\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"\w[\w./-]{0,199}", re.ASCII)
"""What a message names to be typed: a store may say anything."""


def encode(
    store: StoreReader, model: Model, items: Sequence[Item], layers: Sequence[str], pooling: str
) -> dict[str, torch.Tensor]:
    """States of items as the store's own got theirs: same template, pooling and batching; one pass.

    Returns:
        For each layer, float32 [items, width] on the CPU.

    Raises:
        ModelError: the model is not the store's, or does not read an item's modality.
        CorpusError: an image or audio clip cannot be read.
        QueryError: the pooling is "tokens", under which an item is many rows.
    """
    require_same_model(store, model)
    if pooling == "tokens":
        raise QueryError("an item is many rows under pooling tokens; query by text under last, mean or first")
    settings = Settings.of_store(store.attributes).resolve(model)
    states = torch.empty((len(layers), len(items), model.width))
    checks = checks_of(store.attributes)
    capture = Capture(model, layers, (pooling,), torch.float32)
    if any(check.restores for check in checks.values()):
        capture.isolate_batches()
    for modality in dict.fromkeys(item.modality for item in items):
        model.require_modality(modality)
        own = [number for number, item in enumerate(items) if item.modality == modality]
        batching = _with_borders(checks[modality].to_batching() if modality in checks else Batching(), model)
        run = _encode_texts if modality == "text" else _encode_media
        states[:, own] = run(capture, [items[number] for number in own], settings, batching)
    return dict(zip(capture.layers, states, strict=True))


def _with_borders(batching: Batching, model: Model) -> Batching:
    """With the lengths at which the model changes, which a store of an earlier release does not say."""
    borders = length_borders(model.trunk.config)
    varies = borders.varies_beyond if batching.varies_beyond is None else batching.varies_beyond
    return replace(batching, borders=tuple(sorted({*batching.borders, *borders.lengths})), varies_beyond=varies)


def _encode_texts(
    capture: Capture, items: Sequence[Item], settings: ResolvedSettings, batching: Batching
) -> torch.Tensor:
    """float32 [layers, items, width] on the CPU."""
    model = capture.model
    texts = [settings.template.replace("{text}", item.text) for item in items]
    token_ids, _ = tokenize(model, texts, settings.max_tokens)
    lengths = np.array([len(ids) for ids in token_ids], np.int32)
    members = batch_members(lengths, settings.batch_tokens, batching)

    def batch_of(chosen: Integers) -> HostBatch:
        return collate(model, [token_ids[i] for i in chosen], batching, settings.batch_tokens or 0)

    return _collected(capture, lengths, members, batch_of)


def _encode_media(
    capture: Capture, items: Sequence[Item], settings: ResolvedSettings, batching: Batching
) -> torch.Tensor:
    """float32 [layers, items, width] on the CPU."""
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
    members = media_members(inputs, lengths, settings.media_tokens, batching)
    return _collected(
        capture, lengths, members, lambda chosen: collate_media(model, modality, [inputs[i] for i in chosen])
    )


def _collected(
    capture: Capture,
    lengths: npt.NDArray[np.int32],
    every: Iterable[Integers],
    batch_of: Callable[[Integers], HostBatch],
) -> torch.Tensor:
    """float32 [layers, items, width] on the CPU, of the members of every batch and what makes a batch of them."""
    states = torch.empty((len(capture.layers), len(lengths), capture.model.width))

    def run(members: Integers) -> None:
        batch = batch_of(members).to(capture.model.device)
        states[:, torch.from_numpy(members)] = capture.run(batch)[capture.poolings[0]].cpu()

    for members in every:
        run_in_halves(members, run, lengths, capture.model)
    return states


def load_model_of(
    store: StoreReader,
    source: str | None = None,
    device: str = "auto",
    *,
    head: bool = False,
    trust_remote_code: bool = False,
) -> Model:
    """The model that a store was made with, from where it was loaded then or from `source`; with its head if asked.

    A hub is asked for nothing but what `source` names. What only the store names, which may be anybody's, is read from
    its folder or from this machine's cache of models.

    Raises:
        ModelError: it cannot be loaded; or only the store names it and it is not on this machine; or it runs code of
            its own and `trust_remote_code` does not say again that it may: a store cannot say so.
    """
    made_with = store.attributes["model"]
    if made_with.get("remote_code") and not trust_remote_code:
        raise ModelError(
            f"{store.path} was made with {made_with['id']}, which comes with code of its own; it is not run unless "
            "you say so again: ",
            REMOTE_CODE,
        )
    recorded, revision = made_with.get("source", ""), made_with.get("revision")
    extra = made_with.get("also", ())
    place = source or _on_this_machine(recorded, revision)
    if place is None:
        raise ModelError(
            f"{store.path} was made with {recorded!r:.200}, which is neither a folder here nor in this machine's cache "
            "of models. What a store names is fetched only if you name it too: ",
            Parameter("model", recorded if _HUB_NAME.fullmatch(recorded) else "..."),
        )
    if source and trust_remote_code and revision and not os.path.isdir(source):  # it can be anybody's proposal
        place = _fetched(store, source, revision)
    model = load_model(
        place,
        extra_models=[_fetched(store, one, None) for one in extra],
        stack=made_with.get("stack"),
        revision=revision,
        dtype=made_with.get("dtype", "auto"),
        device=device,
        head=head,
        trust_remote_code=trust_remote_code,
    )
    if place != source:
        named = {"id": source, "source": source} if source else {"id": made_with["id"], "source": recorded}
        model = replace(model, identity={**model.identity, **named})
    return replace(model, identity={**model.identity, "also": list(extra)}) if extra else model


def _on_this_machine(name: str, revision: str | None) -> str | None:
    """The folder that a model of that name is in; None where there is none."""
    if name and os.path.isdir(name):
        return name
    folder = cached_folder(name, revision)
    return None if folder is None else str(folder)


def _fetched(store: StoreReader, name: str, revision: str | None) -> str:
    """The folder of a model whose name or revision only the store says."""
    found = _on_this_machine(name, revision)
    if found is None:
        which = f"revision {revision!r:.200} of {name!r:.200}" if revision else f"{name!r:.200}"
        command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
        plain = _HUB_NAME.fullmatch(name) and (not revision or _REVISION.fullmatch(revision))
        raise ModelError(
            f"{store.path} was made with {which}, which is not in this machine's cache of models. What only a store "
            f"names is not fetched; if you trust it, do so {f'with `{command}`' if plain else 'by hand'}"
        )
    return found
