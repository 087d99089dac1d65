"""`hubstore.plan`: what an extraction would take, and the indexes of its store, before either is begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hubstore.corpus import Corpus, open_corpus
from hubstore.extraction import Settings
from hubstore.extraction.estimate import Estimate, estimate, memory_available
from hubstore.index.cost import IndexCost, index_costs, search_speed
from hubstore.models import Model, devices_of, load_model


@dataclass(frozen=True)
class Plan:
    """What lies ahead of a corpus and a model.

    Args:
        extraction: items, tokens, bytes, files, time and room.
        rows: of one layer under the store's first pooling.
        indexes: what an index of such a layer would take, by kind.
    """

    extraction: Estimate
    rows: int
    indexes: tuple[IndexCost, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {**self.extraction.to_json(), "layer_rows": self.rows, "indexes": [asdict(one) for one in self.indexes]}


def plan(
    corpus: Corpus | str | Path,
    model: Model | str,
    *,
    device: str = "auto",
    model_dtype: str = "auto",
    also: Sequence[str] = (),
    stack: str | None = None,
    trust_remote_code: bool = False,
    folder: str | Path | None = ".",
    again: bool = False,
    **settings: Any,
) -> Plan:
    """What extracting a corpus through a model would take. Nothing is written but what was measured, in a cache.

    Args:
        corpus: a `Corpus`, or what `open_corpus` takes.
        model: a loaded model, a folder, or a hub's model id.
        device: where it would run, as for `extract`; of several, the first is measured.
        model_dtype: "auto", "float32", "float16" or "bfloat16".
        also: further models over the same language model; see `load_model`.
        stack: which of a model's stacks of blocks; see `load_model`.
        trust_remote_code: run the code that comes with the model; see `load_model`.
        folder: where the store would be, on a local disk; None for an object store.
        again: measure this machine whatever the cache has.
        settings: of `hubstore.Settings`: poolings, layers, dtype, template, ...

    Example:
        >>> ahead = hubstore.plan("sample:ntrex", "intfloat/multilingual-e5-small")
        >>> ahead.extraction.counted.items, ahead.extraction.store_bytes, ahead.extraction.between
    """
    devices = 1
    if not isinstance(model, Model):
        first, *others = devices_of(device)
        model = load_model(
            model,
            device=first,
            dtype=model_dtype,
            also=tuple(also),
            stack=stack,
            trust_remote_code=trust_remote_code,
        )
        devices += len(others)
    items = corpus if isinstance(corpus, Corpus) else open_corpus(str(corpus))
    return plan_extraction(items, model, Settings(**settings), folder=folder, devices=devices, again=again)


def plan_extraction(
    corpus: Corpus,
    model: Model,
    settings: Settings,
    *,
    folder: str | Path | None = ".",
    devices: int = 1,
    again: bool = False,
) -> Plan:
    """`plan`, of a corpus that is open and a model that is loaded on the first of several devices."""
    found = estimate(corpus, model, settings, folder=folder, devices=devices, again=again)
    layout, counted = found.layout, found.counted
    rows = round(counted.total_tokens) if layout.poolings[0] == "tokens" else counted.items
    place = None if found.speed.write_seconds is None else found.place  # where nothing may be written, nothing is read
    speed = search_speed(layout.width, layout.dtype, place, again=again)
    costs = index_costs(rows, layout.width, layout.dtype, speed, memory_available())
    return Plan(found, rows, tuple(costs))
