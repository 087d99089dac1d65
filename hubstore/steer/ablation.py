"""Ablation: what a model predicts, and which language it writes, without the directions that tell languages apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hubstore.analysis.language_eraser import language_eraser
from hubstore.analysis.pairs import check_partitions
from hubstore.analysis.shared_concepts import SharedConcepts
from hubstore.checks import check_count
from hubstore.errors import SteeringError
from hubstore.extraction import require_same_model
from hubstore.lens import TokenLanguages
from hubstore.models import Model
from hubstore.stats.bootstrap import Bootstrap
from hubstore.steer.decoding import Decoding
from hubstore.steer.generation import generate
from hubstore.steer.intervention import Intervention, steering
from hubstore.steer.metrics import perplexity
from hubstore.store.result import METADATA
from hubstore.version import __version__

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Floats = npt.NDArray[np.float64]
WHOLE_MODEL, RANDOM = "none", "random"
LOSS, ADDED, OWN, HUB = "loss", "loss, added", "own language", "English"
ENGLISH = "en"
SCHEMA = pa.schema(
    [
        ("layer", pa.string()),
        ("method", pa.string()),
        ("directions", pa.int64()),
        ("partition", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
    ]
)


def language_ablation(  # noqa: PLR0913
    store: StoreReader,
    model: Model,
    layers: Sequence[int],
    partitions: Sequence[str] | None = None,
    *,
    methods: Sequence[str] = ("lsar", RANDOM),
    tokens: TokenLanguages | None = None,
    limit: int | None = None,
    new_tokens: int = 16,
    pooling: str | None = None,
    seed: int = 0,
    bootstrap: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Take the language out of the running model, a layer at a time, and see what is lost.

    Erasers are fitted on half of the store's concepts (`language_eraser`) and put in at all tokens but the first of
    each text, which most heads attend to whatever it is. What is measured is measured on texts of the other half: how
    improbable the second part of a text is after the first, and in which language the model goes on with that.
    As many random directions say what any change would do.

    Args:
        store: of parallel texts, extracted with the model.
        model: a causal model with its head.
        layers: where directions are erased, each alone: 1 to the number of blocks, among those that the store keeps.
        partitions: two or more that share concepts; None is all.
        methods: of `language_eraser`.
        tokens: the languages of tokens, to tell the language of what is written; without them only the loss is told.
        limit: most texts of a partition; None for all of the half.
        new_tokens: of what the model goes on with, greedily.
        pooling: of the states that erasers are fitted on.
        seed: of the halves, of random directions and of resamples.
        bootstrap: resamples for the 95 % intervals.
        progress: called with conditions done and conditions in all.

    Returns:
        A row for each layer, method, partition and metric, "none" at layer "*" being the model as it is: "loss", the
        mean of -log p of a token, in nats, over texts; "loss, added" to the model's own, text by text; and where
        `tokens` are given "own language" and "English", the mean of p(language given token) over those tokens of a
        continuation that were counted in any. How it was made is the schema's metadata.

    Raises:
        QueryError: a layer, partition or pooling that the store does not have.
        AnalysisError: the partitions share fewer than 24 concepts.
        SteeringError: no layer, a limit below 1, no text that can be cut in two.
        ModelError: the model is not the store's.
    """
    if not layers or min(layers) < 1:
        raise SteeringError(f"layers {list(layers)}: erase at one or more, from 1 to {model.depth}")
    require_same_model(store, model)
    names = check_partitions(store, partitions)
    concepts = SharedConcepts.of(store, names, seed)
    texts = _texts(store, concepts, limit)
    conditions = [(WHOLE_MODEL, "*"), *((method, str(layer)) for layer in layers for method in methods)]
    resampling = Bootstrap(bootstrap, seed)
    rows: list[dict[str, object]] = []
    own: dict[str, Floats] = {}
    for done, (method, layer) in enumerate(conditions, 1):
        interventions = []
        directions = 0
        if method != WHOLE_MODEL:
            eraser = language_eraser(store, layer, names, method=method, pooling=pooling, seed=seed, device="cpu")
            directions = eraser.directions
            interventions = [Intervention(eraser, [int(layer)], "erase", positions=[slice(1, None)], when="every step")]
        for name in names:
            found = dict(
                _measured(model, texts[name], interventions, tokens, store.partition(name).language, new_tokens)
            )
            own.setdefault(name, found[LOSS])
            if method != WHOLE_MODEL:
                found[ADDED] = found[LOSS] - own[name]
            common = {"layer": layer, "method": method, "directions": directions, "partition": name}
            rows += [{**common, **row} for row in _means(found, resampling)]
        if progress is not None:
            progress(done, len(conditions))
    provenance = {"model": dict(model.identity), "commits": store.digest, "seed": seed, "version": __version__}
    return pa.Table.from_pylist(rows, SCHEMA.with_metadata({METADATA: json.dumps(provenance).encode()}))


def _texts(store: StoreReader, concepts: SharedConcepts, limit: int | None) -> dict[str, list[str]]:
    """By partition the texts of tested concepts, without those that have no two halves."""
    if limit is not None:
        check_count("limit", limit, error=SteeringError)
    texts = {}
    for name, one in zip(concepts.names, concepts.selections, strict=True):
        every = store.items["text"].take(pa.array(one.positions[concepts.tested[:limit]])).to_pylist()
        texts[name] = [text for text in every if all(part.strip() for part in parted(text))]
        if not texts[name]:
            raise SteeringError(f"no text of {name} has two halves, of which the first is read; take other partitions")
    return texts


def parted(text: str) -> tuple[str, str]:
    """A text's first half and the rest, which begins at a space where there is one before the middle."""
    middle = len(text) // 2
    cut = text.rfind(" ", 1, middle)
    cut = middle if cut < 1 else cut
    return text[:cut], text[cut:]


def _measured(
    model: Model,
    texts: Sequence[str],
    interventions: Sequence[Intervention],
    tokens: TokenLanguages | None,
    language: str,
    new_tokens: int,
) -> Iterator[tuple[str, Floats]]:
    """Of each metric a value for each text, float64 [n]; NaN where there is none."""
    prompts, rests = zip(*map(parted, texts), strict=True)
    with steering(model, interventions):
        yield LOSS, np.log(perplexity(model, prompts, rests))
    if tokens is None:
        return
    written = generate(model, prompts, interventions, decoding=Decoding(new_tokens))
    known = tokens.known.cpu().numpy().astype(np.float64)
    for metric, of in ((OWN, language), (HUB, ENGLISH)):
        if of in tokens.languages:
            yield metric, np.array([_share(known, tokens.column(of), one.token_ids) for one in written])


def _share(known: Floats, column: int, ids: Sequence[int]) -> float:
    """The mean of p(language given token) over the tokens that were counted."""
    counted = known[list(ids)]
    counted = counted[counted.sum(1) > 0]
    return float(counted[:, column].mean()) if len(counted) else float("nan")


def _means(found: dict[str, Floats], resampling: Bootstrap) -> Iterator[dict[str, object]]:
    for metric, every in found.items():
        values = every[np.isfinite(every)]
        if len(values):
            low, high = resampling.of_means(values[:, None])[:, 0].tolist()
            yield {"metric": metric, "value": float(values.mean()), "low": low, "high": high, "n": len(values)}
