"""Two or more stores over the same items: how alike models, checkpoints or poolings are, layer by layer."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hubstore.analysis.calibrated import COLUMNS, layer_view, sampled
from hubstore.analysis.calibration import Measure, expected, named_measures, permutations, permuted_values, row_of
from hubstore.analysis.layers import Progress
from hubstore.analysis.pairs import Pair, Selection
from hubstore.analysis.results import FIELDS, Row
from hubstore.analysis.states import States, item_pooling
from hubstore.checks import check_seed
from hubstore.devices import current, resolve_device
from hubstore.errors import AnalysisError, Parameter, QueryError, UnfinishedStoreWarning
from hubstore.options import FEWEST_COMPARED, CalibrationOptions, pair_options, refuse_others, take
from hubstore.storage.location import Location, Url
from hubstore.store import StoreReader
from hubstore.store.result import METADATA
from hubstore.version import __version__

BEST = "best"
"""The layer of a row that is of the best of all pairs of layers that are compared."""

STORES = {"store_x": pa.string(), "store_y": pa.string()}


@dataclass(frozen=True)
class Side:
    """A store under one pooling, as one of those that are compared.

    Args:
        store: an opened store.
        pooling: of one row per item.
        name: what the table calls it, different from all others'.
        layers: that are compared.
        states: its states, on the device where they are compared.
    """

    store: StoreReader
    pooling: str
    name: str
    layers: tuple[str, ...]
    states: States


def compare(  # noqa: PLR0913
    *stores: StoreReader | str | Location,
    pairs: Sequence[Pair] | None = None,
    calibration: CalibrationOptions | None = None,
    partitions: Sequence[str] | None = None,
    layers: Sequence[str | int] | None = None,
    poolings: Sequence[str] | str | None = None,
    by: str | None = None,
    cross_layers: bool = True,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    **named: Any,
) -> pa.Table:
    """How alike two or more stores are over the same items, every layer of one against every layer of another.

    Items are one for each concept, so that what is held out of a linear map shares no concept with what it is fitted
    on. Items of one id and different texts are not the same, and left out. Nothing is kept.

    Args:
        stores: two or more, open or their folders or URLs, whatever their widths; or one, of which several poolings
            are named.
        pairs: a partition of one store and one of the other, ("en", "de") or "en:de", or several; None is each
            partition with itself.
        calibration: measures, k, permutations and sample; its fields may be given by name too.
        partitions: in the place of pairs: each with itself; None is all that every store has.
        layers: of every store; None is all of each.
        poolings: one for all stores, or one for each, or several of a single store; None is each store's first.
        by: "id" or "concept": what the same items have the same of; "id" of a partition with itself, else "concept".
        cross_layers: every layer of one against every layer of another; else those of one name, as checkpoints of one
            model have them.
        seed: of the permutations and of the sample.
        device: "auto" (CUDA where PyTorch sees it), "cpu", "cuda" or "cuda:1".
        progress: called with pairs of stores and partitions done, and how many there are.
        named: fields of `CalibrationOptions`.

    Returns:
        The columns of `calibrated`, and store_x and store_y. Rows with the layers "best" are of the largest value of
        any pair of layers that is compared, and their null of the largest under the same permutations, so that having
        picked it makes nothing significant (arXiv 2602.14486).

    Raises:
        QueryError: a partition, layer or pooling that a store does not have.
        AnalysisError: fewer than two sides; a number that is out of its range; two sides share fewer than 12 items.

    Example:
        >>> table = hubstore.compare("demo.hub", "grown.hub", layers=[0, 2], measures=["mutual_knn"], permutations=20)
        >>> sorted(set(table["metric"].to_pylist()))
        ['mutual_knn']
    """
    calibration = take(CalibrationOptions, named, calibration)
    refuse_others("compare", named)
    sides = list(_sides([_opened(store) for store in stores], poolings, layers, resolve_device(device)))
    asked = {"pairs": pairs, "partitions": partitions, "by": by, "cross_layers": cross_layers}
    check_seed(seed, error=AnalysisError)
    named_measures(calibration.measures)
    chosen = _pairs(sides, pairs, partitions)
    work = list(itertools.product(itertools.combinations(sides, 2), chosen))
    rows: list[Row] = []
    for done, ((x, y), pair) in enumerate(work):
        if progress:
            progress(done, len(work))
        with current(x.states.device):
            key = by or ("id" if pair[0] == pair[1] else "concept")
            rows += _Comparison(x, y, pair, key, seed).rows(calibration, cross_layers)
    if progress:
        progress(len(work), len(work))
    provenance = {
        "analysis": "compare",
        "parameters": {**asked, **asdict(calibration)},
        "stores": [
            {"name": side.name, "path": str(side.store.path), "pooling": side.pooling, "commits": side.store.digest,
             "model": side.store.attributes.get("model", {}).get("id"), "layers": list(side.layers)}
            for side in sides
        ],
        "seed": seed,
        "version": __version__,
    }  # fmt: skip
    return _table("compare", rows).replace_schema_metadata({METADATA: json.dumps(provenance).encode()})


def calibrated_between(
    x: StoreReader,
    y: StoreReader,
    pair: Pair,
    *,
    layers_x: Sequence[str | int] | None = None,
    layers_y: Sequence[str | int] | None = None,
    by: str = "concept",
    **named: Any,
) -> pa.Table:
    """The same of one pair of partitions of two stores, with the layers of each.

    Args:
        x: an opened store.
        y: another.
        pair: a partition of x and one of y.
        layers_x: of x, None for all.
        layers_y: of y.
        by: "concept" or "id": what matched items have the same of.
        named: seed, and fields of `CalibrationOptions`.

    Returns:
        A row for every layer of x, layer of y and metric.

    Raises:
        QueryError: a partition or layer that a store does not have.
        AnalysisError: the partitions share fewer than 12 concepts or ids.
    """
    seed = named.pop("seed", 0)
    calibration = take(CalibrationOptions, named)
    refuse_others("calibrated_between", named)
    sides = []
    for store, given in ((x, layers_x), (y, layers_y)):
        pooling = item_pooling(store, None)
        sides.append(Side(store, pooling, "", tuple(store.layer_names(given)), States(store, pooling)))
    rows = _Comparison(sides[0], sides[1], pair, by, seed).rows(calibration, True)
    return _table("calibrated", [row for row in rows if row["layer"] != BEST]).drop_columns(list(STORES))


class _Comparison:
    """Two sides' items that match, and the rows of results about them."""

    def __init__(self, x: Side, y: Side, pair: Pair, by: str, seed: int) -> None:
        self._sides, self._seed = (x, y), seed
        self._selections, left = matched_items(x.store, y.store, pair, by)
        self._common = {"x": pair[0], "y": pair[1], "store_x": x.name, "store_y": y.name, **left}

    def rows(self, calibration: CalibrationOptions, cross_layers: bool) -> Iterator[Row]:
        """Of every two layers, or those of one name, and of the best of them."""
        chosen = sampled(len(self._selections[0]), calibration.sample, self._seed)
        some = [Selection.of(one.partition, one.positions[chosen]) for one in self._selections]
        orders = permutations(len(chosen), calibration.permutations, self._seed)
        common = {**self._common, "n": len(chosen)}
        names = named_measures(calibration.measures)
        x, y = self._sides
        grids = [(x.layers, y.layers)]
        if not cross_layers:
            grids = [((layer,), (layer,)) for layer in x.layers if layer in y.layers]
        if not grids:
            raise AnalysisError(f"{x.store.path} and {y.store.path} have no layer of one name; compare all of them")
        found: dict[Measure, list[torch.Tensor]] = {}
        for layers_x, layers_y in grids:
            views = [layer_view(x.states, layer, some[0], calibration.k) for layer in layers_x]
            for layer_y in layers_y:  # one at a time: views are of items by items
                other = layer_view(y.states, layer_y, some[1], calibration.k)
                for name, values in permuted_values(views, [other], orders, names).items():
                    found.setdefault(name, []).append(values[:, 0])
                    for layer_x, own, line in zip(layers_x, views, values[:, 0], strict=True):
                        row = row_of(name, line, expected(*name, own, other))
                        yield {**common, "layer": layer_x, "layer_y": layer_y, **row}
        for name, every in found.items():
            best = torch.cat(every).nan_to_num(-torch.inf).amax(0)
            yield {**common, "layer": BEST, "layer_y": BEST, **row_of(name, best, None)}


def matched_items(
    x: StoreReader, y: StoreReader, pair: Pair, by: str
) -> tuple[tuple[Selection, Selection], dict[str, int]]:
    """Items of two stores that have one id or concept, one for each concept, and how many of each side have no match.

    Raises:
        QueryError: a partition that a store does not have.
        AnalysisError: there are fewer than 12.
    """
    if by not in ("concept", "id"):
        raise AnalysisError(f"items of two stores match by 'concept' or 'id', not by {by!r}")
    found = []
    for store, name in zip((x, y), pair, strict=True):
        positions = store.partition(name).positions()
        columns = store.items.select([by, "concept", "text"]).take(pa.array(positions)).to_pydict()
        rows = zip(columns[by], positions.tolist(), columns["concept"], columns["text"], strict=True)
        first: dict[str, tuple[int, str, str]] = {}
        for key, *of_item in rows:
            if key is not None:
                first.setdefault(key, (of_item[0], of_item[1] or key, of_item[2]))
        found.append(first)
    shared = [key for key in found[0] if key in found[1]]
    same = [key for key in shared if by == "concept" or found[0][key][2] == found[1][key][2]]
    concepts: dict[str, str] = {}
    for key in same:
        concepts.setdefault(found[0][key][1], key)
    keys = list(concepts.values())
    sizes = [store.partition(name).size for store, name in zip((x, y), pair, strict=True)]
    if len(keys) < FEWEST_COMPARED:
        of_those = f", {len(same)} of them with one text, of {len(keys)} concepts" if shared else ""
        raise AnalysisError(
            f"{pair[0]!r} of {x.path} ({sizes[0]} items) and {pair[1]!r} of {y.path} ({sizes[1]} items) share "
            f"{len(shared)} values of {by!r}{of_those}; at least {FEWEST_COMPARED} concepts are needed: extract both "
            "from one corpus, or match them by another column with ",
            Parameter("by", "id" if by == "concept" else "concept"),
        )
    chosen = [
        Selection.of(name, np.array([first[key][0] for key in keys])) for name, first in zip(pair, found, strict=True)
    ]
    return (chosen[0], chosen[1]), {"left_out_x": sizes[0] - len(keys), "left_out_y": sizes[1] - len(keys)}


def _opened(store: StoreReader | str | Location) -> StoreReader:
    if not isinstance(store, str | PathLike | Url):
        return store
    found = StoreReader(store)
    if found.unfinished is not None:
        warnings.warn(f"{found.path}: {found.unfinished}", UnfinishedStoreWarning, stacklevel=3)
    return found


def _sides(
    stores: Sequence[StoreReader],
    poolings: Sequence[str] | str | None,
    layers: Sequence[str | int] | None,
    device: torch.device,
) -> Iterator[Side]:
    """Each store with its pooling, under a name of its own."""
    several = [poolings] if poolings is None or isinstance(poolings, str) else list(poolings)
    if len(stores) == 1:
        paired = [(stores[0], pooling) for pooling in several]
    elif len(several) == 1:
        paired = [(store, several[0]) for store in stores]
    elif len(several) == len(stores):
        paired = list(zip(stores, several, strict=True))
    else:
        raise AnalysisError(f"{len(several)} poolings for {len(stores)} stores; give ", Parameter("poolings", "..."),
                            " once for all of them, or once for each")  # fmt: skip
    resolved = [(store, item_pooling(store, pooling)) for store, pooling in paired]
    if len(set(map(_identity, resolved))) < 2:
        raise AnalysisError("one store under one pooling is compared with nothing; name another store, or several "
                            "poolings of it with ", Parameter("poolings", "..."))  # fmt: skip
    names = [store.path.name.removesuffix(".hub") for store, _ in resolved]
    if len(set(names)) < len(names):
        names = [f"{name}, {pooling}" for name, (_, pooling) in zip(names, resolved, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{store.path}, {pooling}" for store, pooling in resolved]
    for name, (store, pooling) in zip(names, resolved, strict=True):
        yield Side(store, pooling, name, tuple(store.layer_names(layers)), States(store, pooling, device))


def _identity(side: tuple[StoreReader, str]) -> tuple[str, str]:
    return str(side[0].path), side[1]


def _pairs(sides: Sequence[Side], pairs: Sequence[Pair] | None, partitions: Sequence[str] | None) -> list[Pair]:
    """The partitions that are compared: those named, or every one that all sides have, with itself."""
    if pairs is not None and partitions is not None:
        raise QueryError("pairs and partitions were both given; give one of them")
    if pairs is not None:
        return list(dict.fromkeys((x, y) for x, y in pair_options(pairs)))
    if partitions is not None:
        return [(name, name) for name in dict.fromkeys(partitions)]
    shared = [name for name in sides[0].store.partitions if all(name in side.store.partitions for side in sides)]
    if not shared:
        had = "; ".join(f"{side.store.path} has {', '.join(side.store.partitions)}" for side in sides)
        raise AnalysisError(f"no partition is in all stores: {had}; name two with ", Parameter("pairs", "..."))
    return [(name, name) for name in shared]


def _table(analysis: str, rows: Sequence[Row]) -> pa.Table:
    fields = [*FIELDS, *(pa.field(name, kind) for name, kind in {**COLUMNS, **STORES}.items())]
    columns = [[{"analysis": analysis, **row}.get(one.name) for row in rows] for one in fields]
    arrays = [pa.array(column, one.type, from_pandas=True) for column, one in zip(columns, fields, strict=True)]
    return pa.table(arrays, schema=pa.schema(fields))
