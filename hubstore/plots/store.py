"""What a store says as figures: `store.plot.similarity()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hubstore.errors import AnalysisError, QueryError
from hubstore.plots.cube import Cube
from hubstore.plots.curves import RETRIEVAL_METRICS, VARIANTS, cosine_panel, difference_panel, retrieval_panel
from hubstore.plots.figures import Backend, Bars, figure_of
from hubstore.plots.lens import heat_maps
from hubstore.plots.panels import Panel, Points
from hubstore.plots.text import layer_label, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORED = ("language", "modality", "concept")
SHOWN_CHARACTERS = 60


class StorePlots:
    """Figures of a store, opened here or on a server.

    Each is Matplotlib axes, new ones or `ax`, or with `backend="plotly"` a Plotly figure. Analyses and maps that the
    store keeps are drawn as they are; others are computed.

    Args:
        store: what is drawn of.
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    def similarity(
        self,
        pairs: Any = None,
        *,
        pivot: str | None = None,
        variant: str = "centered",
        what: str = "difference",
        pooling: str | None = None,
        ax: Axes | None = None,
        backend: Backend = "matplotlib",
    ) -> Any:
        """The hub curve: how much nearer equivalent items are than others, layer by layer.

        Args:
            pairs: of partitions, ("en", "de") or "en:de" each; all by default. Of several, the mean.
            pivot: one partition against all others.
            variant: "centered", each language's mean removed, or "raw".
            what: "difference", matched less baseline; or "cosines", the two themselves.
            pooling: the store's first with a row per item by default.
            ax, backend: see `StorePlots`.

        Example:
            >>> axes = store.plot.similarity(pairs=["en:es"])
            >>> axes.get_xlabel(), axes.get_ylabel()
            ('layer', 'difference of cosines')
        """
        if variant not in VARIANTS:
            raise AnalysisError(f"there is no variant {variant!r}; choose from {', '.join(VARIANTS)}")
        drawn = {"difference": difference_panel, "cosines": cosine_panel}
        if what not in drawn:
            raise AnalysisError(f"there is no curve of {what!r}; choose from {', '.join(drawn)}")
        table = self._store.analyze("similarity", pairs=pairs, pivot=pivot, pooling=pooling)["similarity"]
        cube = Cube(table, _layers(table), ("resolution",))
        return figure_of(_named(drawn[what](cube, cube.pairs, variant), cube), ax, backend)

    def retrieval(
        self,
        pairs: Any = None,
        *,
        pivot: str | None = None,
        metric: str = "recall@1",
        back: bool = False,
        pooling: str | None = None,
        ax: Axes | None = None,
        backend: Backend = "matplotlib",
    ) -> Any:
        """How often an item's equivalent is the nearest of all, layer by layer.

        Args:
            pairs, pivot, pooling: as of `similarity`.
            metric: "recall@1", "recall@5", "recall@10" or "mrr".
            back: from the second partition of each pair to the first.
            ax, backend: see `StorePlots`.

        Example:
            >>> store.plot.retrieval("en:es", metric="mrr").get_title()
            'en → es'
        """
        if metric not in RETRIEVAL_METRICS:
            raise AnalysisError(f"there is no metric {metric!r}; choose from {', '.join(RETRIEVAL_METRICS)}")
        table = self._store.analyze("retrieval", pairs=pairs, pivot=pivot, pooling=pooling)["retrieval"]
        cube = Cube(table, _layers(table))
        return figure_of(retrieval_panel(cube, _once(cube.pairs), metric, back), ax, backend)

    def map(
        self,
        layer: str | int = -1,
        *,
        method: str = "pca",
        color: str = "language",
        points: int = 5000,
        pooling: str | None = None,
        ax: Axes | None = None,
        backend: Backend = "matplotlib",
    ) -> Any:
        """A map of items at a layer; equivalent ones lie near one another where meaning has taken over.

        Args:
            layer: one that the store keeps; -1 is the last block.
            method: "pca" or "umap".
            color: "language", "modality" or "concept".
            points: the most items to draw.
            pooling: the store's first with a row per item by default.
            ax, backend: see `StorePlots`.

        Example:
            >>> store.plot.map(2, points=20).get_title()
            'layer 2, pca: 20 items'
        """
        if color not in COLORED:
            raise QueryError(f"a map is colored by {', '.join(COLORED)}, and not by {color!r}")
        found = self._store.projection(layers=[layer], pooling=pooling, method=method, points=points)
        name = found["layer"][0].as_py()
        texts = [f"{row['id']}: {row['text']}" for row in found.select(["id", "text"]).to_pylist()]
        groups = ["none" if group is None else group for group in found[color].to_pylist()]
        xy = np.stack([found[axis].to_numpy() for axis in ("x", "y")], 1)
        title = f"layer {layer_label(name)}, {method}: {len(found):,} items"
        return figure_of(Points(title, xy, groups, texts), ax, backend)

    def lens(
        self,
        item: str,
        *,
        layers: Sequence[str | int] | None = None,
        pooling: str | None = None,
        variant: str = "raw",
        target: str | None = None,
        ax: Axes | None = None,
        backend: Backend = "matplotlib",
    ) -> Any:
        """What the logit lens reads in an item's states, layers up and tokens across.

        Args:
            item: its id; the store keeps a lens, and tokens where there is to be more than one column.
            layers: all by default.
            pooling: "tokens" where the store has it, else its first.
            variant: "raw" (no norm) or "normed".
            target: a word, one token, whose log-probability is shown in the place of the most probable tokens.
            ax, backend: see `StorePlots`.

        Example:
            >>> store.plot.lens("en:1", layers=[1, 2, 3]).get_ylabel()
            'layer'
        """
        pooling = "tokens" if pooling is None and "tokens" in self._store.poolings else pooling
        targets = () if target is None else (target,)
        read = self._store.lens([item], layers=layers, pooling=pooling, variant=variant, targets=targets)
        return figure_of(heat_maps(read, targets)[0], ax, backend)

    def neighbors(
        self,
        item: str,
        layer: str | int = -1,
        *,
        k: int = 10,
        ax: Axes | None = None,
        backend: Backend = "matplotlib",
        **named: Any,
    ) -> Any:
        """The nearest items to an item, with their cosines, colored by language.

        Args:
            item: its id.
            layer: one that the store keeps; -1 is the last block.
            k: how many.
            ax, backend: see `StorePlots`.
            named: other fields of `hubstore.options.SearchOptions`, such as exclude_same_language.

        Example:
            >>> store.plot.neighbors("en:1", layer=2, k=3, languages=["es"]).get_xlabel()
            'cosine'
        """
        hits = self._store.search(ids=[item], layers=[layer], k=k, **named).to_pylist()
        if not hits:
            raise QueryError(f"{item!r} has no neighbors at layer {layer} that pass the filters")
        names = [f"{hit['id']}  {visible(hit['text'] or hit['media'] or '', SHOWN_CHARACTERS)}" for hit in hits]
        title = f"nearest to {item}, layer {layer_label(hits[0]['layer'])}"
        values = [hit["score"] for hit in hits]
        return figure_of(Bars(title, "cosine", names, values, [hit["language"] for hit in hits]), ax, backend)


def _layers(table: Any) -> list[str]:
    return list(dict.fromkeys(table["layer"].to_pylist()))


def _once(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each pair in the direction in which it is met first."""
    seen: dict[frozenset[str], tuple[str, str]] = {}
    for pair in pairs:
        seen.setdefault(frozenset(pair), pair)
    return list(seen.values())


def _named(panel: Panel, cube: Cube) -> Panel:
    """With what it is of in its title: one pair, or how many."""
    of = f"{cube.pairs[0][0]} – {cube.pairs[0][1]}" if len(cube.pairs) == 1 else f"mean over {len(cube.pairs)} pairs"
    return Panel(f"{panel.title}: {of}", panel.y_label, panel.layers, panel.curves, panel.limits, panel.log)
