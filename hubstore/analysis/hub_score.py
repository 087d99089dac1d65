"""How much of a hub a model has: calibrated recall and alignment by family and script, its depth, its breadth, and what
controls leave of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from hubstore.analysis.calibrated import sampled
from hubstore.analysis.calibration import View, expected, permuted_values
from hubstore.analysis.characters import ngrams
from hubstore.analysis.comparing import by_partition, compare_options
from hubstore.analysis.families import family_of, script_of
from hubstore.analysis.layers import Progress
from hubstore.analysis.neighbors import pair_hits, tie_seed
from hubstore.analysis.results import Findings, Row, stored_or_computed
from hubstore.analysis.shared_concepts import SharedConcepts
from hubstore.analysis.states import States, item_pooling
from hubstore.devices import current, resolve_device
from hubstore.errors import AnalysisError
from hubstore.kernels.rows import unit_rows
from hubstore.options import CompareOptions
from hubstore.stats.intervals import share_intervals
from hubstore.stats.verdicts import false_discovery, sign_flip_test

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
COLUMNS = {
    "calibrated": pa.float64(),
    "p_value": pa.float64(),
    "q_value": pa.float64(),
    "family": pa.string(),
    "script": pa.string(),
}
MODEL, SHUFFLED, TWIN = "model", "shuffled", "random_weights"
CHARACTERS, TEXT = "characters", "text"
"""The texts themselves, by threes of their characters, as if they were a layer: what names and numbers find."""
PIECES = 512
"""Numbers that threes of characters are hashed to."""
WHOLE, HELD_OUT, MIDDLE = "*", "held out", "middle"
ENDS = ("first", "last", "embeddings")
"""What the middle is compared with: the first block, the last layer, and layer 0."""
FOLDS = 5
SHARE = 0.9
"""Of the largest calibrated recall, which the layers of the hub have."""
ALIGNED = (("cka", "raw"), ("mutual_knn", "raw"))
ALIGNMENT = tuple(metric for metric, _ in ALIGNED)
ALIGNED_ITEMS = 512
"""Most concepts of which alignment is taken, as of `calibrated`: it compares all of them with all."""
ALIGNED_PAIRS = 325
"""Most pairs of partitions of which alignment is taken: all of 26."""
FALSE = 0.05
"""Share of languages of the breadth that may be there by chance."""


def hub_score(
    store: StoreReader,
    partitions: Sequence[str] | None = None,
    options: CompareOptions | None = None,
    *,
    twin: StoreReader | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    **named: Any,
) -> pa.Table:
    """The measures of a model's hub over parallel items, beside controls; `hub_page` sums them up.

    Everything is of states with each partition's mean removed, among the concepts that all partitions have. Recall is
    the share of items whose match is nearest of all in the other partition, over all ordered pairs; `calibrated` is
    (recall - 1/n) / (1 - 1/n).

    Args:
        store: an opened store of parallel items.
        partitions: two or more; None is all.
        options: its fields (layers, pooling, seed, ...) may be given by name too.
        twin: a store of the same items, extracted with the model before any training (`random_twin`); without it the
            only control is shuffled concepts.
        device: "auto" (CUDA where PyTorch sees it), "cpu", "cuda" or "cuda:1".
        progress: called with layers done and layers in all.

    Returns:
        Rows, with variant "model", "shuffled" or "random_weights", or "characters", which is no control but what the
        texts' own characters find, at layer "text":

        - by layer, "recall@1", and of the model "cka" and "mutual_knn", calibrated in closed form, of at most
          512 concepts and 325 pairs of partitions;
        - at the layer "held out" (the best for other concepts, in five folds), "recall@1" of each partition with all
          others (x is its name), of its family and script with others (x is "family Slavic", "script Latin"), and of
          pairs "of one family", "of one script", "of neither";
        - for each partition `p_value`, of being above chance and each control at some layer, and `q_value`, the same
          with false discoveries over partitions in mind; "breadth" is the share of partitions with a q of 5 % at most;
        - "middle" at the central half of the depth: recall there less recall at the first block, at the last layer and
          at the embeddings, which know no order of words, each with its p of being above zero;
        - "lead": held-out recall less that of each control, paired by concept;
        - "depth", "first" and "last": where recall is best, and the layers that have 90 % of that, as shares of the
          model's depth.

        Where a store lacks layers that this needs, the rows are left out; the metadata name the layers as "missing".

    Raises:
        QueryError: a partition, layer or pooling that the store does not have, or a device that is not there.
        AnalysisError: fewer than two partitions, or they share fewer than 24 concepts; a twin of other items.
    """
    parameters = by_partition(store, compare_options("hub_score", options, named, partitions=partitions))
    parameters |= {"aligned_items": ALIGNED_ITEMS, "aligned_pairs": ALIGNED_PAIRS}
    parameters["twin"] = None if twin is None else twin.digest
    parameters["depth"] = depth_of(store, parameters["layers"])
    on = resolve_device(device)

    def make() -> Findings:
        concepts = SharedConcepts.of(store, parameters["partitions"], parameters["seed"])
        names, layers = concepts.names, parameters["layers"]
        states = States(store, parameters["pooling"], on)
        n, seed = len(concepts.fitted) + len(concepts.tested), parameters["seed"]
        orders, aligned = _orders(len(names), n, seed), sampled(n, ALIGNED_ITEMS, seed)
        pairs = _some_pairs(len(names), seed)
        found: dict[str, list[Flags]] = {MODEL: [], SHUFFLED: []}
        rows: list[Row] = []
        with current(on):
            for done, layer in enumerate(layers, 1):
                every = centered(concepts.states(states, layer))
                found[MODEL].append(pair_hits(every))
                found[SHUFFLED].append(
                    pair_hits(torch.stack([one[order] for one, order in zip(every, orders, strict=True)]))
                )
                rows += _aligned(every[:, aligned], layer, names, pairs)
                if progress:
                    progress(done, len(layers))
            if twin is not None:
                found[TWIN] = _of_twin(store, twin, concepts, parameters, on)
        texts = [store.items["text"].take(pa.array(one.positions)).to_pylist() for one in concepts.selections]
        languages = [_language(store, name, of) for name, of in zip(names, texts, strict=True)]
        if all(store.partition(name).modality == "text" for name in names):
            pieces = torch.stack([ngrams(of, PIECES) for of in texts])
            with current(on):
                found[CHARACTERS] = [pair_hits(centered(pieces.to(on)))]
        hits = {name: np.stack(of) for name, of in found.items()}
        hub = _Hub(names, languages, layers, hits, parameters["seed"], parameters["depth"], twin.layers if twin else ())
        return Findings(COLUMNS, [*rows, *hub.rows()], {"concepts": hub.n, "missing": list(hub.missing)})

    return stored_or_computed(store, "hub-score", parameters, COLUMNS, make)


def depth_of(store: StoreReader, layers: Sequence[str]) -> int | None:
    """Blocks of the model, whichever a store keeps; where it does not say, the last of the layers. None without any."""
    said = store.attributes.get("model", {}).get("blocks")
    return int(said) if said else max((int(layer) for layer in layers if layer != "final"), default=None)


def centered(every: Tensor) -> Tensor:
    """Unit rows of states [partitions, n, width] without each partition's mean."""
    return unit_rows(every - every.mean(1, keepdim=True))


def _orders(partitions: int, n: int, seed: int) -> list[Tensor]:
    """For each partition another order of the concepts: matched items would stay matched in one."""
    rng = np.random.default_rng([seed, n])
    return [torch.from_numpy(rng.permutation(n)) for _ in range(partitions)]


def _of_twin(
    store: StoreReader, twin: StoreReader, concepts: SharedConcepts, parameters: Row, device: torch.device
) -> list[Flags]:
    own = SharedConcepts.of(twin, concepts.names, parameters["seed"])
    texts = [
        [of.items["text"].take(pa.array(one.positions)) for one in shared.selections]
        for of, shared in ((store, concepts), (twin, own))
    ]
    if texts[0] != texts[1]:
        raise AnalysisError(f"{twin.path} is of other items than {store.path}; extract both from one corpus")
    states = States(twin, item_pooling(twin, parameters["pooling"]), device)
    return [pair_hits(centered(own.states(states, layer))) for layer in twin.layers]


def _some_pairs(partitions: int, seed: int) -> list[tuple[int, list[int]]]:
    """Pairs of partitions, `ALIGNED_PAIRS` at most, drawn by the seed: each first one, and those it is paired with."""
    first, second = np.triu_indices(partitions, 1)
    kept = sampled(len(first), ALIGNED_PAIRS, seed)
    first, second = first[kept], second[kept]
    return [(int(one), second[first == one].tolist()) for one in np.unique(first)]


def _aligned(units: Tensor, layer: str, names: Sequence[str], pairs: Sequence[tuple[int, list[int]]]) -> Iterator[Row]:
    """CKA and mutual kNN of a layer, means over pairs."""
    n = units.shape[1]
    views = [
        View(rows, max(1, min(10, n // 8)), tie_seed(layer, name)) for rows, name in zip(units, names, strict=True)
    ]
    none = torch.empty(0, n, dtype=torch.int64)
    sums = {name: np.zeros(2) for name in ALIGNED}
    for first, seconds in pairs:
        one, others = views[first], [views[second] for second in seconds]
        for name, values in permuted_values([one], others, none, ALIGNED).items():
            for value, other in zip(values[0, :, 0].tolist(), others, strict=True):
                null = expected(*name, one, other)
                assert null is not None
                sums[name] += value, (value - null) / (1 - null)
    count = sum(len(seconds) for _, seconds in pairs)
    for (metric, _), (value, known) in sums.items():
        yield {"layer": layer, "x": WHOLE, "y": WHOLE, "metric": metric, "variant": MODEL, "value": value / count,
               "calibrated": known / count, "n": n}  # fmt: skip


def _language(store: StoreReader, name: str, texts: Sequence[str]) -> tuple[str, str]:
    partition = store.partition(name)
    if partition.modality != "text":
        return partition.modality, "none"
    return family_of(partition.language), script_of(texts)


@dataclass(frozen=True)
class _Hub:
    """Hits of the model and of its controls, and the rows of results about them.

    Args:
        names: of the partitions.
        languages: family and script of each.
        layers: of the model.
        hits: by variant, bool [layers, asking, answering, n]; a twin may have other layers.
        seed: of the folds and tests.
        depth: blocks of the model; None of one that has none to read.
        twin_layers: of the twin, all that its store keeps.
    """

    names: Sequence[str]
    languages: Sequence[tuple[str, str]]
    layers: Sequence[str]
    hits: dict[str, Flags]
    seed: int
    depth: int | None
    twin_layers: Sequence[str] = ()

    @property
    def n(self) -> int:
        return int(self.hits[MODEL].shape[-1])

    @cached_property
    def _different(self) -> Flags:
        return ~np.eye(len(self.names), dtype=bool)

    def _mean(self, variant: str, chosen: Flags) -> Floats:
        """float64 [layers, n]: recall over some ordered pairs."""
        return np.asarray(self.hits[variant][:, chosen].mean(1))

    @cached_property
    def _every(self) -> dict[str, Floats]:
        """By variant, float64 [layers, n]: recall over all ordered pairs."""
        return {variant: self._mean(variant, self._different) for variant in self.hits}

    def _held(self, variant: str, chosen: Flags) -> Floats:
        """float64 [n]: recall over some pairs at the layer that is best for other concepts, over all pairs."""
        every, wanted = self._every[variant], self._mean(variant, chosen)
        fold = np.random.default_rng([self.seed, self.n]).permutation(self.n) % FOLDS
        held = np.empty(self.n)
        for number in range(FOLDS):
            best = int(every[:, fold != number].mean(1).argmax())
            held[fold == number] = wanted[best, fold == number]
        return held

    def rows(self) -> Iterator[Row]:
        """All but alignment."""
        for variant in self.hits:
            for layer, of in zip(self._layers_of(variant), self._every[variant], strict=True):
                yield self._row(layer, WHOLE, variant, of)
            yield self._row(HELD_OUT, WHOLE, variant, self._held(variant, self._different))
        yield from self._partitions()
        yield from self._groups()
        yield from self._leads()
        yield from self._shape()

    def _layers_of(self, variant: str) -> Sequence[str]:
        return {TWIN: self.twin_layers, CHARACTERS: [TEXT]}.get(variant, self.layers)

    def _row(self, layer: str, x: str, variant: str, of: Floats, **more: Any) -> Row:
        """Recall over concepts [n], with its interval."""
        value, chance = float(of.mean()), 1 / self.n
        low, high = share_intervals(of[:, None])[:, 0]
        return {"layer": layer, "x": x, "y": WHOLE, "metric": "recall@1", "variant": variant, "value": value,
                "low": float(low), "high": float(high), "n": self.n,
                "calibrated": (value - chance) / (1 - chance), **more}  # fmt: skip

    def _with(self, members: Flags) -> Flags:
        """Ordered pairs of one of `members` with one that is none, or, where all are, of any two."""
        one = members[:, None] ^ members[None]
        return one if one.any() else self._different

    def _partitions(self) -> Iterator[Row]:
        chosen = [self._with(np.arange(len(self.names)) == place) for place in range(len(self.names))]
        p = [self._p(pairs) for pairs in chosen]
        q = false_discovery(p)
        for name, (family, script), pairs, of, adjusted in zip(self.names, self.languages, chosen, p, q, strict=True):
            more = {"p_value": float(of), "q_value": float(adjusted), "family": family, "script": script}
            yield self._row(HELD_OUT, name, MODEL, self._held(MODEL, pairs), **more)
        yield self._plain("breadth", float(np.mean(q <= FALSE)))

    def _p(self, pairs: Flags) -> float:
        """How often chance makes recall as far above 1/n at some layer, and above each control at its own best one."""
        own = self._mean(MODEL, pairs)
        found = [float(sign_flip_test(own.T - 1 / self.n, seed=self.seed).p_by_layer.min())]
        best = own[own.mean(1).argmax()]
        for variant in (SHUFFLED, TWIN):
            if variant in self.hits:
                other = self._mean(variant, pairs)
                test = sign_flip_test((best - other[other.mean(1).argmax()])[:, None], seed=self.seed)
                found.append(float(test.p.max()))
        return max(found)

    def _groups(self) -> Iterator[Row]:
        kinds = {
            kind: np.array([of[place] for of in self.languages]) for place, kind in enumerate(("family", "script"))
        }
        one = {kind: of[:, None] == of for kind, of in kinds.items()}
        for name, pairs in (
            ("of one family", one["family"]),
            ("of one script", one["script"] & ~one["family"]),
            ("of neither", ~one["family"] & ~one["script"]),
        ):
            if (pairs & self._different).any():
                yield self._row(HELD_OUT, name, MODEL, self._held(MODEL, pairs & self._different))
        for kind, of in kinds.items():
            for label in dict.fromkeys(of.tolist()):
                yield self._row(HELD_OUT, f"{kind} {label}", MODEL, self._held(MODEL, self._with(of == label)))

    def _leads(self) -> Iterator[Row]:
        own = self._held(MODEL, self._different)
        for variant in self.hits:
            if variant != MODEL:
                difference = own - self._held(variant, self._different)
                test = sign_flip_test(difference[:, None], seed=self.seed)
                yield {**self._plain("lead", float(difference.mean())), "variant": variant, "p_value": float(test.p[0])}

    def _shape(self) -> Iterator[Row]:
        """Where the hub is: blocks alone, from the first to the last."""
        blocks = [place for place, layer in enumerate(self.layers) if layer not in ("0", "final")]
        depth = self.depth
        if len(blocks) < 3 or not depth:
            return
        of = self._every[MODEL]
        means = (of.mean(1) - 1 / self.n) / (1 - 1 / self.n)
        numbers = np.array([int(self.layers[place]) for place in blocks])
        best = int(np.argmax(means[blocks]))
        high = numbers[means[blocks] >= SHARE * means[blocks][best]] / depth
        for metric, value in (("depth", numbers[best] / depth), ("first", high.min()), ("last", high.max())):
            yield self._plain(metric, float(value))
        middle = [place for place, number in zip(blocks, numbers, strict=True) if depth <= 4 * number <= 3 * depth]
        ends = {end: self.layers.index(name) for end, name in self._ends.items() if name in self.layers}
        if middle and ends:
            contrasts = np.stack([of[middle].mean(0) - of[end] for end in ends.values()], 1)
            test = sign_flip_test(contrasts[:, None], seed=self.seed)
            for end, value, p in zip(ends, contrasts.mean(0), test.p[0], strict=True):
                yield {**self._plain(middle_less(end), float(value)), "layer": MIDDLE, "p_value": float(p)}

    @property
    def _ends(self) -> dict[str, str]:
        """The layer of each of `ENDS`; the last block's output where there is none after the norm."""
        last = "final" if "final" in self.layers else str(self.depth)
        return dict(zip(ENDS, ("1", last, "0"), strict=True))

    @property
    def missing(self) -> Iterator[str]:
        """The layers that the middle could not be compared with, or that it would be of."""
        depth = self.depth
        if not depth:
            return
        for name in self._ends.values():
            if name not in self.layers:
                yield name
        middle = [number for number in range(1, depth + 1) if depth <= 4 * number <= 3 * depth]
        if middle and not {str(number) for number in middle} & {*self.layers}:
            yield str(middle[0]) if len(middle) == 1 else f"one of {middle[0]} to {middle[-1]}"

    def _plain(self, metric: str, value: float) -> Row:
        return {
            "layer": HELD_OUT,
            "x": WHOLE,
            "y": WHOLE,
            "metric": metric,
            "variant": MODEL,
            "value": value,
            "n": self.n,
        }


def middle_less(end: str) -> str:
    """The metric of the middle compared with one of `ENDS`."""
    return f"middle less {end}"
