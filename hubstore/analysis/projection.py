"""Maps: a sample of a store's items in two or three dimensions, layer by layer, on axes that go from layer to layer."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from hubstore.analysis.layers import Progress
from hubstore.analysis.pairs import Selection
from hubstore.analysis.results import stored_table
from hubstore.analysis.states import BLOCK, States, item_pooling
from hubstore.checks import check_count, check_seed
from hubstore.devices import current, resolve_device
from hubstore.errors import AnalysisError, MissingDependencyError, QueryError
from hubstore.kernels.rows import unit_rows

if TYPE_CHECKING:
    from hubstore.store import StoreReader

METHODS = ("pca", "umap")
POINTS = 20_000
TEXT = 200
"""Characters of an item's text that a point brings along."""

NEIGHBORS, LEAST_DISTANCE = 15, 0.1
"""UMAP's own defaults."""

AXES = ("x", "y", "z")
EXTRA = 16
"""Directions that are followed beside those wanted, so that these settle sooner."""

ITERATIONS, RESIDUAL = 30, 1e-5
"""Of the search for principal axes: it stops where each is one but for this share of the greatest variance."""

PROJECTION_SCHEMA = pa.schema(
    [
        ("layer", pa.string()),
        ("position", pa.int64()),
        ("id", pa.string()),
        ("concept", pa.string()),
        ("language", pa.string()),
        ("modality", pa.string()),
        ("text", pa.string()),
        ("x", pa.float32()),
        ("y", pa.float32()),
        ("z", pa.float32()),
    ]
)
"""What `projection` returns; `text` is an item's first characters, `z` is null for UMAP."""

Coordinates = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]


def projection(  # noqa: PLR0913
    store: StoreReader,
    *,
    layers: Sequence[str | int] | None = None,
    pooling: str | None = None,
    method: str = "pca",
    points: int = POINTS,
    seed: int = 0,
    languages: Sequence[str] | None = None,
    modalities: Sequence[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> pa.Table:
    """A map of a sample of items at each layer, kept in the store.

    What is mapped are unit rows less their mean. A causal model's states have a few directions that are hundreds of
    times the others and tell items apart by their norm or their first token; of raw rows, a map shows these and
    little else. On the unit sphere, distance is cosine, which search and similarity go by too.

    Where there are more than `points` items, whole concepts are drawn, so that equivalent items are on the map
    together; at most one is cut. Every layer shows the same items. x and y span the plane of most variance at each
    layer; within it the points are turned or mirrored, as orthogonal Procrustes has it, to lie as near as they can to
    the layer before (as `layers` has them), and scaled so that their root mean square distance from the center is 1.
    So points move from layer to layer and do not jump, but where the plane itself is another. z is the third axis.
    To turn all three axes would leave in z what shows most: of Gemma 3's states, x and y then have a third of all
    variance and not a half, and points do not move less.

    Args:
        store: an opened store.
        layers: None is all.
        pooling: None is the store's first that has a row per item.
        method: "pca", or "umap" (McInnes et al., 2018) of cosines, which needs umap-learn. UMAP starts from PCA at the
            first layer and from the layer before at the others.
        points: the most items to show.
        seed: of the sample, and of UMAP.
        languages: only items in one of these.
        modalities: only items of one of these.
        device: where PCA is computed: "auto", "cpu", "cuda" or "cuda:1".
        progress: called with layers done and layers in all.

    Returns:
        PROJECTION_SCHEMA, by layer and position. The metadata's JSON under b"hubstore" has parameters, seed, commits,
        version; `items`, how many there are, and `sampled`, how many are shown; and by layer `scale`, what the
        coordinates were multiplied by, and for PCA `components`, the shares of all variance of its first three axes,
        and `explained`, those of x, y and z: together x and y have those of the first two. Shares are null where
        nothing varies.

    Raises:
        QueryError: a layer, pooling, language or modality that the store does not have, or a device that is not there.
        AnalysisError: an unknown method, or too few points or items to make a map of.
        MissingDependencyError: UMAP is asked for, and umap-learn is not installed.
        NonFiniteError: an item's state holds NaN or infinity.
    """
    names, pooled, on = store.layer_names(layers), item_pooling(store, pooling), resolve_device(device)
    if method not in METHODS:
        raise AnalysisError(f"there is no method {method!r}; choose from {', '.join(METHODS)}")
    least = 2 if method == "pca" else 4
    points = check_count("points", points, least=least, of=f"for a map by {method}", error=AnalysisError)
    seed = check_seed(seed, error=AnalysisError)
    umap = _umap() if method == "umap" else None
    eligible = _eligible(store, languages, modalities)
    if len(eligible) < least:
        raise AnalysisError(f"{len(eligible)} items of {store.path} pass the filters; a map by {method} needs {least}")

    def make() -> tuple[pa.Table, dict[str, Any]]:
        positions = sampled(store, eligible, points, seed)
        states, selection = States(store, pooled, on), Selection.of("*", positions)
        maps: list[_Map] = []
        with current(on):
            for layer in names:
                rows = centered_units(states.rows(layer, selection))
                before = maps[-1].shown if maps else None
                maps.append(_pca(rows, before) if umap is None else _embedded(umap, rows, before, seed))
                if progress:
                    progress(len(maps), len(names))
        said: dict[str, Any] = {"items": len(eligible), "sampled": len(positions)}
        said["scale"] = {name: one.scale for name, one in zip(names, maps, strict=True)}
        if umap is None:
            said["components"] = {name: one.components for name, one in zip(names, maps, strict=True)}
            said["explained"] = {name: one.explained for name, one in zip(names, maps, strict=True)}
        return _table(store, positions, names, [one.shown for one in maps]), said

    parameters = {
        "layers": names,
        "pooling": pooled,
        "method": method,
        "points": points,
        "seed": seed,
        "languages": None if languages is None else sorted(set(languages)),
        "modalities": None if modalities is None else sorted(set(modalities)),
    }
    return stored_table(store, "projection", parameters, PROJECTION_SCHEMA, make)


def sampled(store: StoreReader, eligible: Positions, points: int, seed: int) -> Positions:
    """At most `points` of the positions `eligible`, ascending: concepts drawn whole, all but the last."""
    if len(eligible) <= points:
        return eligible
    encoded = store.items["concept"].take(pa.array(eligible)).combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.float64)  # NaN for an item without a concept
    alone = np.isnan(codes)
    codes[alone] = len(encoded.dictionary) + np.arange(alone.sum())
    turn = np.random.default_rng([seed, len(eligible)]).permutation(len(encoded.dictionary) + int(alone.sum()))
    order = np.argsort(turn[codes.astype(np.int64)], kind="stable")
    return np.asarray(np.sort(eligible[order[:points]]))


def centered_units(rows: Tensor) -> Tensor:
    """Unit rows of [n, width] less their mean, float32, a block in float64 at a time."""
    found = torch.empty_like(rows, dtype=torch.float32)
    step = max(1, BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        found[start : start + step] = unit_rows(rows[start : start + step], first=start)
    return found.sub_(found.mean(0, dtype=torch.float64))


def principal_axes(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The directions of greatest variance, by randomized subspace iteration (Halko et al., 2011) until they settle.

    Args:
        rows: centered, float32 [n, width].
        count: directions wanted; fewer than min(n, width) gives zeros for the others.

    Returns:
        Axes float32 [width, count], the largest element of each positive; sums of squares along them float64 [count].
    """
    width = rows.shape[1]
    followed = min(len(rows), width, count + EXTRA)
    start = torch.randn(width, followed, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(start.to(rows))[0]
    for _ in range(ITERATIONS):
        along = rows @ basis
        squares, mixed = torch.linalg.eigh(along.double().T @ along.double())  # ascending
        squares, mixed = squares.flip(0)[:count].clamp_min(0), mixed.flip(1)[:, :count].to(rows)
        axes, pushed = basis @ mixed, rows.T @ along
        off = torch.linalg.vector_norm(pushed @ mixed - axes * squares.to(rows), dim=0)
        if bool((off <= RESIDUAL * squares[0]).all()):
            break
        basis = torch.linalg.qr(pushed)[0]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    missing = (0, count - axes.shape[1])
    return torch.nn.functional.pad(axes * largest.sign(), missing), torch.nn.functional.pad(squares, missing)


def aligned(points: Coordinates, to: Coordinates) -> Coordinates:
    """Centered `points` [n, d] turned and mirrored to lie nearest `to` [n, d] (Schönemann, 1966)."""
    left, _, right = np.linalg.svd(points.T @ to)
    return np.asarray(points @ (left @ right))


@dataclass(frozen=True, eq=False)
class _Map:
    """One layer's points.

    Args:
        shown: [n, 2 or 3], centered, aligned and scaled.
        scale: what they were multiplied by.
        components: shares of all variance of the principal axes; None where it is not PCA or nothing varies.
        explained: shares of all variance of x, y and z.
    """

    shown: Coordinates
    scale: float
    components: list[float] | None = None
    explained: list[float] | None = None


def _pca(rows: Tensor, before: Coordinates | None) -> _Map:
    axes, squares = principal_axes(rows, len(AXES))
    points = (rows @ axes).double().cpu().numpy()
    if before is not None:
        points[:, :2] = aligned(points[:, :2], before[:, :2])
        points[:, 2:] = aligned(points[:, 2:], before[:, 2:])
    shown, scale = _scaled(points)
    total = float(rows.square().sum(dtype=torch.float64))
    if total == 0:
        return _Map(shown, scale)
    return _Map(shown, scale, (squares / total).tolist(), ((points**2).sum(0) / total).tolist())


def _embedded(umap: Callable[..., Any], rows: Tensor, before: Coordinates | None, seed: int) -> _Map:
    start = _pca(rows, None).shown[:, :2] if before is None else before
    reducer = umap(
        n_neighbors=min(NEIGHBORS, len(rows) - 1),
        min_dist=LEAST_DISTANCE,
        metric="cosine",
        init=start.astype(np.float32),
        random_state=seed,
        n_jobs=1,
    )
    points = np.asarray(reducer.fit_transform(rows.cpu().numpy()), np.float64)
    points -= points.mean(0)
    return _Map(*_scaled(points if before is None else aligned(points, before)))


def _umap() -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = importlib.import_module("umap").UMAP
    except ImportError as error:
        raise MissingDependencyError(
            'UMAP is not installed: `pip install "hubstore[umap]"`. Without it, PCA works: --method pca'
        ) from error
    return found


def _scaled(points: Coordinates) -> tuple[Coordinates, float]:
    """Points whose root mean square distance from 0 in x and y is 1, and the factor; 1 where all are at 0."""
    distance = float(np.sqrt((points[:, :2] ** 2).sum() / len(points)))
    scale = 1 / distance if distance > 0 else 1.0
    return points * scale, scale


def _eligible(store: StoreReader, languages: Sequence[str] | None, modalities: Sequence[str] | None) -> Positions:
    """Positions of the items that may be shown, ascending."""
    chosen = list(store.partitions.values())
    for what, chosen_names in (("language", languages), ("modality", modalities)):
        present = {getattr(partition, what) for partition in store.partitions.values()}
        missing = sorted(set(chosen_names or ()) - present)
        if missing:
            raise QueryError(f"{store.path} has no {what} {missing[0]!r}; it has {', '.join(sorted(present))}")
        chosen = [partition for partition in chosen if chosen_names is None or getattr(partition, what) in chosen_names]
    empty = np.empty(0, np.int64)
    return np.sort(np.concatenate([empty, *(partition.positions() for partition in chosen)]))


def _table(store: StoreReader, positions: Positions, layers: Sequence[str], maps: Sequence[Coordinates]) -> pa.Table:
    items = store.items.select(PROJECTION_SCHEMA.names[2:7]).take(pa.array(positions)).combine_chunks()
    of_items = {"position": pa.array(positions), **{name: items[name] for name in items.column_names}}
    of_items["text"] = pc.utf8_slice_codeunits(items["text"], 0, TEXT)
    tables = []
    for layer, points in zip(layers, maps, strict=True):
        axes = dict(zip(AXES, points.T.astype(np.float32), strict=False))
        columns = {"layer": [layer] * len(positions), **of_items, "z": pa.nulls(len(positions)), **axes}
        tables.append(pa.table({name: columns[name] for name in PROJECTION_SCHEMA.names}).cast(PROJECTION_SCHEMA))
    return pa.concat_tables(tables).combine_chunks()
