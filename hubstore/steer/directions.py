"""Directions of the residual stream: how they are made, kept and held against a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hubstore.decoding import decode_object
from hubstore.errors import SteeringError
from hubstore.files import put
from hubstore.forward import Capture, make_batch, tokenize
from hubstore.forward.members import batch_members, padded_batching
from hubstore.models import Model
from hubstore.version import __version__

if TYPE_CHECKING:
    from hubstore.store import StoreReader

METADATA = "hubstore"
TENSOR = "direction"
IDENTITY = ("id", "revision", "type", "weights", "dtype", "width")
"""Of a model's identity, what a direction keeps."""

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Of a batch by default, with padding, and with continuations where there are some."""


class DirectionModel(TypedDict):
    """Of the model's identity, what is held against another's."""

    id: str
    weights: str
    dtype: str


class DirectionJson(TypedDict, total=False):
    """What the provenance in a direction says, as far as it is read."""

    model: DirectionModel | None


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector of the residual stream, and how it was made.

    Args:
        vector: float32 [width], on the CPU.
        provenance: JSON-able: what it is the difference of, the layer, the model's identity, hubstore's version.

    Raises:
        SteeringError: the vector is no [width], is zero, or holds NaN or infinity.
    """

    vector: Tensor
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.vector.ndim != 1:
            raise SteeringError(f"a direction is [width], one vector; this one is {list(self.vector.shape)}")
        norm = float(self.vector.norm())
        if not 0 < norm < float("inf"):
            raise SteeringError(
                f"the direction has norm {norm} and points nowhere; take two sides that differ, and finite states"
            )

    @property
    def width(self) -> int:
        """Elements of the vector."""
        return len(self.vector)

    @property
    def norm(self) -> float:
        """Its Euclidean length, in which strengths are counted."""
        return float(self.vector.norm())

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the provenance in its metadata; it is whole or not there."""
        target = Path(path)
        try:
            put(target, save({TENSOR: self.vector.contiguous()}, {METADATA: json.dumps(dict(self.provenance))}))
        except (OSError, SafetensorError) as error:
            raise SteeringError(f"{target} could not be written: {error}; give a folder that can be") from error

    def check(self, model: Model) -> None:
        """SteeringError unless it has the model's width, and comes from its weights."""
        check_width(self.vector, model)
        made_with = self.provenance.get("model")
        if made_with is not None and made_with["weights"] != model.identity["weights"]:
            raise SteeringError(
                f"the direction was made with {made_with['id']} ({made_with['dtype']}), whose weights are not those of "
                f"{model.identity['id']} ({model.identity['dtype']}); make it again with this model, or steer "
                "by its bare vector, of which nothing is asked but its width"
            )


def load_direction(path: str | Path) -> Direction:
    """Read a direction that `Direction.save` wrote; SteeringError where the file is none."""
    try:
        with safe_open(path, "pt") as file:
            provenance = decode_object((file.metadata() or {})[METADATA], DirectionJson)
            return Direction(file.get_tensor(TENSOR), provenance)
    except FileNotFoundError as error:
        raise SteeringError(f"there is no file {path}; `hubstore steer --save-direction` writes one") from error
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise SteeringError(f"{path} holds no direction of hubstore ({_one_line(error)})") from error


def token_budget(device: torch.device) -> int:
    """Tokens of a batch that suits a device."""
    return BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])


def check_width(vector: Tensor, model: Model) -> None:
    """SteeringError unless the vector's last dimension is the width of the model's states."""
    if vector.shape[-1] != model.width:
        raise SteeringError(
            f"the direction has width {vector.shape[-1]}, the states of {model.identity['id']} have {model.width}; "
            "use a direction of this model"
        )


def check_layer(model: Model, layer: int) -> None:
    """SteeringError, naming those there are, for a layer that the model does not have."""
    if not 0 <= layer <= model.depth:
        raise SteeringError(
            f"{model.identity['id']} has no layer {layer} to steer; it has 0 (the embedding output) to {model.depth}"
        )


def last_states(model: Model, texts: Sequence[str], layers: Sequence[int]) -> Tensor:
    """The states of the texts' last tokens: float32 [texts, layers, width] on the CPU.

    The state of a word within a prompt is that of the prompt up to the word's end: what follows is not seen by it.

    Raises:
        SteeringError: no such layer.
        ModelError: a text has no token.
    """
    for layer in layers:
        check_layer(model, layer)
    token_ids, _ = tokenize(model, texts, model.max_tokens)
    capture = Capture(model, [str(layer) for layer in layers], ["last"], torch.float32)
    states = torch.empty(len(texts), len(layers), model.width)
    lengths = np.array([len(ids) for ids in token_ids], np.int32)
    for members in batch_members(lengths, token_budget(model.device), padded_batching(model)):
        batch = make_batch(model, [token_ids[i] for i in members])
        states[torch.from_numpy(members)] = capture.run(batch)["last"].transpose(0, 1).cpu()
    return states


def difference_of_texts(model: Model, to: str | Sequence[str], away: str | Sequence[str], layer: int) -> Direction:
    """The mean state of the texts `to` minus that of the texts `away`, at their last tokens.

    With one text on each side this is activation addition (Turner et al., 2023, arXiv 2308.10248); with sets it is the
    difference of means (Rimsky et al., 2024, arXiv 2312.06681).

    Args:
        model: the model; no head is needed.
        to: where the direction points.
        away: where it comes from.
        layer: 0 is the embedding output, i the output of block i.

    Raises:
        SteeringError: no such layer, no text, or no difference.
        ModelError: a text has no token.

    Example:
        >>> good = difference_of_texts(model, "Good", "Bad", layer=9)
    """
    check_layer(model, layer)
    sides = {"to": _listed(to), "away": _listed(away)}
    means = {side: last_states(model, texts, [layer])[:, 0].to(torch.float64).mean(0) for side, texts in sides.items()}
    return _direction(means["to"] - means["away"], {"made": "texts", **sides, "layer": layer}, model.identity)


def difference_of_tokens(model: Model, to: str, away: str) -> Direction:
    """The unembedding of the token `to` minus that of the token `away`.

    Args:
        model: a model with its head.
        to: a text that is one token, leading space and all.
        away: another.

    Raises:
        LensError: a text that is several tokens; its pieces are shown.
        ModelError: the model was loaded without its head.
    """
    from hubstore.lens import Vocabulary

    unembedding, vocabulary = model.require_head().unembedding, Vocabulary.of_model(model)
    tokens = [vocabulary.token(text) for text in (to, away)]
    rows = unembedding[tokens].to("cpu", torch.float64)
    return _direction(rows[0] - rows[1], {"made": "tokens", "to": to, "away": away, "tokens": tokens}, model.identity)


def difference_of_partitions(
    store: StoreReader, to: str, away: str, layer: str | int, pooling: str | None = None
) -> Direction:
    """The mean stored state of the partition `to` minus that of the partition `away`.

    Args:
        store: an opened store.
        to: a partition, such as "zh-Hans".
        away: another.
        layer: one that the store keeps, but not "final", where nothing is steered.
        pooling: None is the store's first; not "tokens", whose rows are no items.

    Raises:
        QueryError: a partition, layer or pooling that the store does not have.
        SteeringError: the layer is "final", or the pooling "tokens".
    """
    name, pooled = store.layer_name(layer), store.pooling_name(pooling)
    if name == "final" or pooled == "tokens":
        what = "layer final, which no block reads" if name == "final" else "pooling tokens, whose rows are no items"
        raise SteeringError(f"no direction is made of {what}; take another that {store.path} keeps")
    difference = _partition_mean(store, to, name, pooled) - _partition_mean(store, away, name, pooled)
    provenance = {"made": "partitions", "to": to, "away": away, "layer": int(name), "pooling": pooled}
    return _direction(difference, {**provenance, "commits": store.digest}, store.attributes["model"])


def _direction(difference: Tensor, provenance: Mapping[str, Any], identity: Mapping[str, Any]) -> Direction:
    kept = {name: identity.get(name) for name in IDENTITY}
    return Direction(difference.to(torch.float32), {**provenance, "model": kept, "version": __version__})


def _listed(texts: str | Sequence[str]) -> list[str]:
    listed = [texts] if isinstance(texts, str) else list(texts)
    if not listed:
        raise SteeringError("a direction is the difference of two sides; give each a text at least")
    return listed


def _partition_mean(store: StoreReader, partition: str, layer: str, pooling: str) -> Tensor:
    """float64 [width]."""
    chosen, total = store.partition(partition), torch.zeros(store.width, dtype=torch.float64)
    for start, stop in chosen.bounds.tolist():
        for _, rows in store.hidden(layer, pooling).segments(start, stop):
            total += rows.to(torch.float64).sum(0)
    return total / chosen.size


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
