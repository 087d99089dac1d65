"""What a lens reads, as a table: of stored states, or of texts, images and audio given now."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from hubstore.arrow import equal_lists
from hubstore.checks import check_count, check_strings
from hubstore.corpus import Item
from hubstore.errors import LensError, QueryError
from hubstore.forward import Capture, collate_media, make_batch, tokenize
from hubstore.forward.members import padded_batching, sides_of
from hubstore.kernels import LensSweep
from hubstore.lens.lens import Lens, Variant
from hubstore.lens.rows import media_rows, own_layer
from hubstore.lens.translators import TunedLens
from hubstore.lens.tuned import with_tuned
from hubstore.media import MEDIA
from hubstore.media.reading import MediaTask, read_item
from hubstore.models import Model
from hubstore.version import __version__

if TYPE_CHECKING:
    from hubstore.store import StoreReader

READING_SCHEMA = pa.schema(
    [
        ("item", pa.string()),
        ("token", pa.int32()),
        ("piece", pa.string()),
        ("layer", pa.string()),
        ("top_ids", pa.large_list(pa.int32())),
        ("top_tokens", pa.large_list(pa.large_string())),
        ("top_log_probabilities", pa.large_list(pa.float32())),
        ("entropy", pa.float32()),
        ("agrees", pa.bool_()),
        ("target_log_probabilities", pa.large_list(pa.float32())),
        ("target_ranks", pa.large_list(pa.int64())),
    ]
)
"""A row for each layer and state.

`token` and `piece` are its place in its item and what the model read there, null for a pooled state. `agrees` says
whether its most probable token is the model's own (the final layer's), null where the store cannot tell. Targets are
in the order that the metadata names them; log-probabilities are natural, ranks 0 for the most probable token.
"""

STATES = 4096
"""Stored states read at a time."""

BATCH_TOKENS = 2048
"""Tokens of texts that go through the model at a time."""


@dataclass(frozen=True)
class Question:
    """What a lens is asked.

    Args:
        lens: the lens.
        variant: "raw", "normed" or "tuned".
        targets: words to look up, each one token, leading space and all.
        k: most probable tokens to give.
    """

    lens: Lens
    variant: Variant = "raw"
    targets: Sequence[str] = ()
    k: int = 5

    def __post_init__(self) -> None:
        if self.variant not in ("raw", "normed", "tuned"):
            raise LensError(
                f"there is no lens {self.variant!r}; use raw (no norm), normed (the final norm first) or tuned (a map "
                "of each layer first)"
            )
        k = check_count("k", self.k, most=self.lens.head.vocabulary, of="tokens", error=LensError)
        object.__setattr__(self, "k", k)
        object.__setattr__(self, "targets", tuple(check_strings("targets", self.targets, error=LensError)))

    @cached_property
    def target_ids(self) -> list[int]:
        """The targets' tokens; LensError for a target that is several."""
        return [self.lens.token(target) for target in self.targets]

    def read(self, hidden: Tensor, layer: str) -> LensSweep:
        """The sweep over states [n, width] of a layer."""
        targets = torch.tensor(self.target_ids, dtype=torch.int64).expand(len(hidden), len(self.targets))
        return self.lens.sweep_layer(hidden, layer, variant=self.variant, targets=targets.contiguous(), k=self.k)

    def own(self, hidden: Tensor, layer: str) -> Tensor:
        """int64 [n]: the tokens that the model itself would say, of states of its last block or after its norm."""
        return self.lens.sweep_layer(hidden, layer, variant="normed", k=1).top_tokens[:, 0]


@dataclass(frozen=True)
class _States:
    """Rows of one or more items: their items, places and pieces, [n] each."""

    items: Sequence[str]
    places: Sequence[int | None]
    pieces: Sequence[str | None]

    def part(self, span: slice) -> _States:
        return _States(self.items[span], self.places[span], self.pieces[span])


def read_store(
    store: StoreReader,
    lens: Lens,
    *,
    ids: Sequence[str] | None = None,
    layers: Sequence[str | int] | None = None,
    pooling: str | None = None,
    variant: Variant = "raw",
    targets: Sequence[str] = (),
    k: int = 5,
) -> pa.Table:
    """What a lens reads in stored states.

    Args:
        store: an opened store.
        lens: `Lens.of_store(store)`, or of the store's model.
        ids: items; all of them by default.
        layers: all by default.
        pooling: the store's first by default; under "tokens" every token is read.
        variant: "raw" (the paper's, no norm), "normed" (the final norm first) or "tuned" (the map of each layer first,
            fitted to the store where it is not kept there yet); "final" states are after the norm.
        targets: words to look up, each one token.
        k: most probable tokens of each state.

    Returns:
        READING_SCHEMA, by layer, item and token; the schema's metadata has how it was made under b"hubstore".

    Raises:
        QueryError: an id, layer or pooling that the store does not have.
        LensError: a target that is not one token, or a lens of another width.

    Example:
        >>> read_store(store, Lens.of_store(store), ids=["en:12"], targets=[" shark"]).to_pandas()
    """
    names = store.layer_names(layers)
    pooled = store.pooling_name(pooling)
    question = Question(with_tuned(store, lens, variant, names, pooled), variant, targets, k)
    positions = np.arange(len(store)) if ids is None else store.positions(list(ids))
    rows, states = _stored(store, lens, positions, pooled)
    last = own_layer(store)
    tables = []
    for start in range(0, len(rows), STATES):
        part = rows[start : start + STATES]
        own = None if last is None else question.own(store.hidden(last, pooled).take(part), last)
        rows_read = states.part(slice(start, start + STATES))
        for name in names:
            swept = question.read(store.hidden(name, pooled).take(part), name)
            tables.append(_table(question, rows_read, name, swept, own))
    provenance = {"store": str(store.path), "model": store.attributes["model"], "commits": store.digest}
    return _finished(tables, question, {**provenance, "pooling": pooled}, names)


def read_texts(
    model: Model,
    texts: Sequence[str],
    *,
    layers: Sequence[str | int] | None = None,
    variant: Variant = "raw",
    targets: Sequence[str] = (),
    k: int = 5,
    tuned: TunedLens | None = None,
) -> pa.Table:
    """What a lens reads at every token of texts given now.

    Args:
        model: loaded with its head.
        texts: read as they are; the special tokens that the tokenizer adds are read too.
        layers: all by default, "final" among them.
        variant, targets, k: as for `read_store`.
        tuned: maps of the model's layers, for the variant "tuned": `tuned_lens(store, lens).tuned`.

    Returns:
        READING_SCHEMA, by layer, text and token; `item` is the text.

    Raises:
        ModelError: the model has no head, or no such layer.
        LensError: a target that is not one token.
    """
    question = Question(replace(Lens.of_model(model), tuned=tuned), variant, targets, k)
    names = _layer_names(model, layers)
    token_ids, _ = tokenize(model, texts, model.max_tokens)
    capture = Capture(model, list(dict.fromkeys([*names, "final"])), ("tokens",), model.dtype)
    tables = []
    for members in _batches(token_ids, model):
        batch = make_batch(model, [token_ids[i] for i in members])
        states = dict(zip(capture.layers, capture.run(batch)["tokens"], strict=True))
        own = question.own(states["final"], "final")
        rows_read = _read_now(question.lens, [texts[i] for i in members], [token_ids[i] for i in members])
        tables += [_table(question, rows_read, name, question.read(states[name], name), own) for name in names]
    return _finished(tables, question, {"model": dict(model.identity)}, names)


def read_media(
    model: Model,
    items: Sequence[Item],
    *,
    template: str = MEDIA,
    layers: Sequence[str | int] | None = None,
    variant: Variant = "raw",
    targets: Sequence[str] = (),
    k: int = 5,
    tuned: TunedLens | None = None,
) -> pa.Table:
    """What a lens reads at every token of images or audio clips given now, and of the prompt around them.

    Args:
        model: loaded with its head; it reads the items' modality.
        items: images or audio clips.
        template: the prompt; `{media}` stands for the medium, `{text}` for its item's text.
        layers, variant, targets, k, tuned: as for `read_texts`.

    Returns:
        READING_SCHEMA, by layer, item and token; `item` is the medium's name, `piece` of its own tokens `image 0`,
        `image 1`, ...

    Raises:
        ModelError: the model has no head, no such layer, or does not read such items.
        CorpusError: an image or audio clip cannot be read.
        LensError: a target that is not one token.
    """
    question = Question(replace(Lens.of_model(model), tuned=tuned), variant, targets, k)
    names = _layer_names(model, layers)
    capture = Capture(model, list(dict.fromkeys([*names, "final"])), ("tokens",), model.dtype)
    tables = []
    for item in items:
        model.require_modality(item.modality)
        assert item.media is not None
        reader = model.adapters[item.modality].reader
        reader.check(template, model.identity["id"])
        read = read_item(MediaTask({item.modality: reader}, template), item.modality, item.media, item.text, item.id)
        if read.inputs is None:
            raise read.error or QueryError(f"{item.media.name} gave nothing to read")
        batch = collate_media(model, item.modality, [read.inputs]).to(model.device)
        states = dict(zip(capture.layers, capture.run(batch)["tokens"], strict=True))
        own = question.own(states["final"], "final")
        count = len(batch.token_rows)
        edges = [edge for span in read.inputs.media for edge in span]
        pieces = _media_pieces(count, item.modality, edges)
        if "input_ids" in read.inputs.tensors:
            around = question.lens.vocabulary.texts(read.inputs.tensors["input_ids"][0].tolist())
            pieces = [piece or other for piece, other in zip(pieces, around, strict=True)]
        rows_read = _States([item.media.name] * count, list(range(count)), pieces)
        tables += [_table(question, rows_read, name, question.read(states[name], name), own) for name in names]
    return _finished(tables, question, {"model": dict(model.identity), "media_template": template}, names)


def _stored(
    store: StoreReader, lens: Lens, positions: npt.NDArray[np.int64], pooling: str
) -> tuple[npt.NDArray[np.int64], _States]:
    """Rows of the items at `positions`, and what they are."""
    ids = store.items["id"].take(pa.array(positions)).to_pylist()
    if pooling != "tokens":
        return positions, _States(ids, [None] * len(ids), [None] * len(ids))
    ranges = store.token_ranges()[positions]
    rows = np.concatenate([np.arange(start, stop) for start, stop in ranges])
    template = store.attributes["settings"]["template"]
    rows_of_items = store.items.select(["text", "modality", "media_ranges"]).take(pa.array(positions)).to_pylist()
    items: list[str] = []
    places: list[int | None] = []
    pieces: list[str | None] = []
    for name, item, (start, stop) in zip(ids, rows_of_items, ranges.tolist(), strict=True):
        if item["media_ranges"] is not None:
            items += [name] * (stop - start)
            places += range(stop - start)
            pieces += _media_pieces(stop - start, item["modality"], item["media_ranges"])
            continue
        read = lens.encode(template.replace("{text}", item["text"])).ids[: stop - start]
        if len(read) != stop - start:
            raise QueryError(
                f"item {name!r} of {store.path} has {stop - start} token rows, and the lens's tokenizer makes "
                f"{len(read)} tokens of it; the lens is of another model"
            )
        items += [name] * len(read)
        places += range(len(read))
        pieces += lens.vocabulary.texts(read)
    return rows, _States(items, places, pieces)


def _media_pieces(count: int, modality: str, edges: Sequence[int]) -> list[str | None]:
    """What tokens of an image or audio clip are called: `image 0`, `image 1`, ...; the prompt's have no name here."""
    pieces: list[str | None] = [None] * count
    inside = media_rows(0, count, edges).tolist()
    for number, place in enumerate(inside):
        pieces[place] = f"{modality} {number}"
    return pieces


def _read_now(lens: Lens, texts: Sequence[str], token_ids: Sequence[Sequence[int]]) -> _States:
    return _States(
        [text for text, ids in zip(texts, token_ids, strict=True) for _ in ids],
        [place for ids in token_ids for place in range(len(ids))],
        [piece for ids in token_ids for piece in lens.vocabulary.texts(ids)],
    )


def _batches(token_ids: Sequence[Sequence[int]], model: Model) -> Iterator[list[int]]:
    """Texts in order, as many as fit BATCH_TOKENS when padded; those of both sides of a border share none."""
    members: list[int] = []
    lengths = [len(ids) for ids in token_ids]
    sides = sides_of(np.array(lengths, np.int64), padded_batching(model))
    for i, length in enumerate(lengths):
        longest = max([length, *(lengths[j] for j in members)])
        if members and (longest * (len(members) + 1) > BATCH_TOKENS or sides[i] != sides[members[0]]):
            yield members
            members = []
        members.append(i)
    if members:
        yield members


def _layer_names(model: Model, layers: Sequence[str | int] | None) -> list[str]:
    known = model.layer_names()
    if layers is None:
        return list(known)
    from_last = {str(place - model.depth - 1): name for place, name in enumerate(known[:-1])}
    names: list[str] = []
    for layer in map(str, layers):
        name = from_last.get(layer, layer)
        if name not in known:
            raise QueryError(f"{model.identity['id']} has no layer {layer!r}; it has 0 to {model.depth} and final")
        names.append(name)
    return names


def _table(question: Question, rows_read: _States, layer: str, swept: LensSweep, own: Tensor | None) -> pa.Table:
    n = len(rows_read.items)
    tokens = swept.top_tokens.cpu().numpy().ravel()
    agrees = None if own is None else (swept.top_tokens[:, 0] == own).cpu().numpy()
    columns = {
        "item": pa.array(rows_read.items, pa.string()),
        "token": pa.array(rows_read.places, pa.int32()),
        "piece": pa.array(rows_read.pieces, pa.string()),
        "layer": pa.array([layer] * n, pa.string()),
        "top_ids": equal_lists(tokens.astype(np.int32), n),
        "top_tokens": equal_lists(_words(question.lens, tokens), n),
        "top_log_probabilities": equal_lists(swept.top_log_probabilities.cpu().numpy().ravel(), n),
        "entropy": pa.array(swept.entropy.cpu().numpy(), pa.float32()),
        "agrees": pa.nulls(n, pa.bool_()) if agrees is None else pa.array(agrees, pa.bool_()),
        "target_log_probabilities": equal_lists(swept.target_log_probabilities.cpu().numpy().ravel(), n),
        "target_ranks": equal_lists(swept.target_ranks.cpu().numpy().ravel(), n),
    }
    return pa.table(columns, schema=READING_SCHEMA)


def _words(lens: Lens, tokens: npt.NDArray[np.int64]) -> pa.Array:
    """Each token's text, found once for each distinct token."""
    distinct, places = np.unique(tokens, return_inverse=True)
    return pa.array(lens.vocabulary.texts(distinct.tolist()), pa.large_string()).take(pa.array(places.ravel()))


def _finished(
    tables: Iterable[pa.Table], question: Question, provenance: Mapping[str, Any], layers: Sequence[str]
) -> pa.Table:
    """One table of those that are each of one layer, ordered by layer, with how it was made."""
    order = {name: place for place, name in enumerate(layers)}
    by_layer = sorted(filter(len, tables), key=lambda table: order[table["layer"][0].as_py()])
    provenance = {
        **provenance,
        "variant": question.variant,
        "targets": list(question.targets),
        "target_ids": question.target_ids,
        "k": question.k,
        "layers": list(layers),
        "version": __version__,
    }
    whole = pa.concat_tables([pa.Table.from_batches([], READING_SCHEMA), *by_layer])
    return whole.replace_schema_metadata({b"hubstore": json.dumps(provenance)})
