"""The tuned lens of a store: fitted in closed form from its own states, and kept in it.

Belrose et al. (2023, arXiv 2303.08112) train an affine map of each layer so that the head reads it as it reads the last
layer. Here the map is the ridge regression of the last layer's states on the layer's own: no gradient, no model, and
seconds a layer. What is lost by it is measured on concepts that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from hubstore.analysis.results import FIELDS, kept_table, metadata, stored_table
from hubstore.arrow import rows_as_lists
from hubstore.checks import check_seed
from hubstore.errors import LensError
from hubstore.lens.lens import Lens, Variant
from hubstore.lens.rows import own_layer, text_rows
from hubstore.lens.translators import Translator, TunedLens
from hubstore.stats.ridge import fit_ridge
from hubstore.storage.location import shell_word

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Ints = npt.NDArray[np.int64]
HELD_SHARE = 5
"""Every fifth concept is held out."""
FEWEST = 20
"""Concepts below which no map is fitted."""
ELEMENTS = 1 << 26
"""Of the states that a map is fitted on."""
NAME = "tuned-lens"
"""Of the tables that are kept."""
READ = 256
"""Held-out states whose loss is taken: of each the whole vocabulary is read."""
CONSTANT = "constant"
"""Variant of the losses of a map that reads nothing: the mean of the last layer's states."""
PENALTIES = tuple(10.0**power for power in range(-4, 3))


def tuned_lens(
    store: StoreReader,
    lens: Lens,
    *,
    layers: Sequence[str | int] | None = None,
    pooling: str | None = None,
    seed: int = 0,
    fit: bool = True,
) -> Lens:
    """The lens with the store's tuned maps, fitted where they are not kept yet.

    Args:
        store: an opened store, which keeps "final" or its last block.
        lens: of the store's model.
        layers: to fit; None is all.
        pooling: whose states they are fitted on and read; None is the store's first.
        seed: of the concepts that are held out, and of the states that are drawn where there are more than memory is
            for.
        fit: whether maps that are not kept are fitted, which reads the whole layer.

    Raises:
        QueryError: a layer or pooling that the store does not have.
        LensError: the store has no states of the model's last layer, or fewer than 20 concepts; or a map that is not
            kept is not to be fitted.
    """
    found = _tables(store, lens, layers, pooling, seed, fit=fit)
    target = _target(store)
    return replace(lens, tuned=TunedLens(target, {layer: _translator(table) for layer, table in found.items()}).to(
        lens.head.device
    ))  # fmt: skip


def with_tuned(store: StoreReader, lens: Lens, variant: Variant, layers: Sequence[str], pooling: str) -> Lens:
    """The lens with what a variant needs: "tuned" the maps of these layers, where the lens has none."""
    if variant != "tuned" or lens.tuned is not None:
        return lens
    return tuned_lens(store, lens, layers=layers, pooling=pooling)


def tuned_losses(
    store: StoreReader,
    lens: Lens,
    *,
    layers: Sequence[str | int] | None = None,
    pooling: str | None = None,
    seed: int = 0,
) -> pa.Table:
    """What the maps lose on concepts that they were not fitted on, beside the raw and the normed lens.

    Returns:
        A row per layer, variant ("raw", "normed", "tuned"; "constant", which reads the mean of the last layer's states
        whatever the layer's are) and metric: "loss", the mean of -log p of the token that the
        model's last layer finds most probable, in nats; "agreement", how often it is the lens's own too; and, of
        "tuned", "unexplained", the share of the last layer's variance that the map misses. n counts states.
    """
    rows = []
    for layer, table in _tables(store, lens, layers, pooling, seed).items():
        rows += [{"analysis": "tuned", "layer": layer, "x": "*", "y": "", **row} for row in metadata(table)["held_out"]]
    return pa.table(
        [pa.array([row.get(one.name) for row in rows], one.type) for one in FIELDS], schema=pa.schema(FIELDS)
    )


def _target(store: StoreReader) -> str:
    target = own_layer(store)
    if target is None:
        raise LensError(
            f"{store.path} keeps neither final states nor those of its last block, which a tuned lens is fitted to; "
            "extract with --layers all,final"
        )
    return target


def _tables(
    store: StoreReader,
    lens: Lens,
    layers: Sequence[str | int] | None,
    pooling: str | None,
    seed: int,
    *,
    fit: bool = True,
) -> dict[str, pa.Table]:
    """The kept map of each layer but the target and what comes after it."""
    target, pooled = _target(store), store.pooling_name(pooling)
    schema = pa.schema([pa.field("weights", pa.list_(pa.float32(), store.width))])
    split: list[tuple[Ints, Ints]] = []  # made once, where a layer needs it
    found = {}
    for layer in store.layer_names(layers):
        if layer in (target, "final"):
            continue
        parameters = {
            "layer": layer,
            "pooling": pooled,
            "target": target,
            "lens": replace(lens, tuned=None).digest,
            "seed": check_seed(seed, error=LensError),
        }

        def make(layer: str = layer) -> tuple[pa.Table, Mapping[str, Any]]:
            split.append(split[0] if split else _split(store, lens, pooled, seed))
            return _fit(store, lens, layer, target, pooled, *split[0])

        if fit:
            found[layer] = stored_table(store, NAME, parameters, schema, make, _is_whole)
        elif (kept := kept_table(store, NAME, parameters, schema, _is_whole)) is not None:
            found[layer] = kept
        else:
            raise LensError(
                f"{store.path} keeps no tuned map of layer {layer} ({pooled}); `hubstore lens "
                f"{shell_word(store.path)} --variant tuned --pooling {pooled}` fits and keeps those of all layers"
            )
    return found


def _is_whole(table: pa.Table) -> bool:
    """Whether a kept table, which may be a stranger's, is a map with what it loses."""
    column = table["weights"].combine_chunks()
    values, width = column.flatten(), column.type.list_size
    if column.null_count or values.null_count or len(column) != width + 1 or not np.isfinite(values.to_numpy()).all():
        return False
    losses = metadata(table).get("held_out")
    return isinstance(losses, list) and all(isinstance(row, dict) and _is_loss(row) for row in losses)


def _is_loss(row: Mapping[str, Any]) -> bool:
    kinds = {"variant": str, "metric": str, "value": float, "n": int}
    return row.keys() == kinds.keys() and all(type(row[name]) is kind for name, kind in kinds.items())


def _split(store: StoreReader, lens: Lens, pooling: str, seed: int) -> tuple[Ints, Ints]:
    """Rows of states that maps are fitted on, and of held-out concepts, in order; some drawn where there are many."""
    concepts = pc.coalesce(store.items["concept"], store.items["id"]).combine_chunks().dictionary_encode()
    codes = concepts.indices.to_numpy().astype(np.int64)
    count = len(concepts.dictionary)
    if count < FEWEST:
        raise LensError(f"{store.path} has {count} concepts; a tuned lens is fitted on {FEWEST} or more")
    rng = np.random.default_rng([seed, count])
    held = np.zeros(count, bool)
    held[rng.permutation(count)[: max(1, count // HELD_SHARE)]] = True
    rows, owners = text_rows(store, lens, np.arange(len(store)), pooling)
    parts = []
    for part, most in (
        (rows[~held[codes[owners]]], max(1, ELEMENTS // store.width)),
        (rows[held[codes[owners]]], READ),
    ):
        drawn = part if len(part) <= most else rng.choice(part, most, replace=False)
        parts.append(np.sort(drawn))
    return parts[0], parts[1]


def _fit(
    store: StoreReader, lens: Lens, layer: str, target: str, pooling: str, fitted: Ints, held: Ints
) -> tuple[pa.Table, Mapping[str, Any]]:
    """A layer's map as the table that is kept, and what it loses."""
    x, y = (store.hidden(name, pooling).take(fitted) for name in (layer, target))
    found = fit_ridge(x, y, torch.arange(len(x)) % 4 == 3, PENALTIES)
    translator = Translator(found.weights.to(torch.float32), found.bias.to(torch.float32))
    own, wanted = (store.hidden(name, pooling).take(held) for name in (layer, target))
    translated = translator(own)
    spread = wanted.to(torch.float32) - wanted.to(torch.float32).mean(0)
    missed = float((translated - wanted).square().sum() / spread.square().sum())
    with_map = replace(lens, tuned=TunedLens(target, {layer: translator}).to(lens.head.device))
    said = with_map.sweep_layer(wanted, target, k=1).top_tokens
    losses: list[dict[str, Any]] = [{"variant": "tuned", "metric": "unexplained", "value": missed, "n": len(held)}]
    for variant in ("raw", "normed", "tuned"):
        losses += _losses(with_map, own, layer, variant, said)
    mean = y.to(torch.float32).mean(0, keepdim=True)  # what a map that reads nothing gives
    losses += [
        {**row, "variant": CONSTANT} for row in _losses(with_map, mean.expand(len(own), -1), target, "normed", said)
    ]
    weights = torch.cat([translator.weights, translator.bias[None]]).numpy()
    kept = pa.table({"weights": rows_as_lists(weights)})
    return kept, {"held_out": losses, "penalty": found.penalty, "fitted": len(fitted)}


def _losses(lens: Lens, hidden: Tensor, layer: str, variant: Variant, said: Tensor) -> list[dict[str, Any]]:
    swept = lens.sweep_layer(hidden, layer, variant=variant, targets=said, k=1, ranks=False)
    agreement = float((swept.top_tokens == said.to(swept.top_tokens.device)).to(torch.float64).mean())
    loss = -float(swept.target_log_probabilities.to(torch.float64).mean())
    return [
        {"variant": variant, "metric": metric, "value": value, "n": len(hidden)}
        for metric, value in (("loss", loss), ("agreement", agreement))
    ]


def _translator(table: pa.Table) -> Translator:
    column = table["weights"].combine_chunks()
    rows = torch.from_numpy(np.array(column.flatten())).reshape(len(column), -1)
    return Translator(rows[:-1].contiguous(), rows[-1].contiguous())
