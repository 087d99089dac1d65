"""Language trends as a figure: for each input language, the languages that the lens reads, stacked over the layers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.plots.interactive import ticks_of
from hubstore.plots.panels import BLUE, GOLD, GREEN, PURPLE, RED
from hubstore.plots.static import PANEL_INCHES, axes_png
from hubstore.plots.text import in_matplotlib, layer_label
from hubstore.tags import matching_tag

Floats = npt.NDArray[np.float64]
HUB = "en"
"""The language that the paper finds dominant; drawn next to that of the input."""

COLORS = (BLUE, GREEN, RED, PURPLE, "#56b4e9", "#7a5230")
HATCHES = ("", "..", "\\\\\\", "xx")
HUB_LOOK, REST_LOOK = (GOLD, "///"), ("#d0d0d0", "")
OTHERS = 3
"""Further languages that are told apart in a panel; the rest is one area."""

Looks = Mapping[str, tuple[str, str]]
"""Color and hatching of each language."""

COLUMNS = 3


def trends_png(table: pa.Table, *, hub: str = HUB) -> bytes:
    """A panel for each input language, as a PNG.

    A language looks the same in every panel. Looks are told apart by color-blind eyes, and by their hatching.

    Args:
        table: of `language_trends`.
        hub: the language drawn next to the input's own.

    Raises:
        MissingDependencyError: Matplotlib is not installed.
    """
    inputs = list(dict.fromkeys(table["x"].to_pylist()))
    panels = {name: areas(table.filter(pc.equal(table["x"], name)), name.rpartition("/")[2], hub) for name in inputs}
    looks = language_looks([shown for _, shown, _ in panels.values()], hub)
    draws = [partial(_draw, name, *panel, looks) for name, panel in panels.items()]
    return axes_png(draws, min(COLUMNS, len(inputs)), PANEL_INCHES)


def areas(table: pa.Table, own: str, hub: str = HUB) -> tuple[list[str], list[str], Floats]:
    """What one panel stacks.

    Args:
        table: of `language_trends`, of one input.
        own: the input's language; where the table has no such, the one that stands for it, as zh does for zh-Hans.
        hub: stacked next to it.

    Returns:
        Layers, languages from the bottom up, and float64 [languages, layers]. After the input's own language and `hub`
        come the OTHERS of the greatest mean over the layers; what is left is the last area, "9 others".
    """
    layers = list(dict.fromkeys(table["layer"].to_pylist()))
    languages = list(dict.fromkeys(table["language"].to_pylist()))
    values = np.zeros((len(languages), len(layers)))
    for row in table.select(["layer", "language", "value"]).to_pylist():
        values[languages.index(row["language"]), layers.index(row["layer"])] = row["value"]
    first = [name for name in dict.fromkeys((matching_tag(own, languages), hub)) if name in languages]
    by_mean = [languages[i] for i in np.argsort(-values.mean(1), kind="stable") if languages[i] not in first]
    shown = first + by_mean[:OTHERS]
    stacked = values[[languages.index(name) for name in shown]]
    if len(shown) < len(languages):
        stacked = np.vstack([stacked, values.sum(0) - stacked.sum(0)])
        shown = [*shown, f"{len(languages) - len(shown)} others"]
    return layers, shown, stacked


def language_looks(shown: Sequence[Sequence[str]], hub: str = HUB) -> Looks:
    """A look for each language that is in some panel, given in the order in which they appear."""
    names = [name for name in dict.fromkeys(itertools.chain.from_iterable(shown)) if not name.endswith(" others")]
    looks = itertools.cycle(itertools.product(HATCHES, COLORS))
    given = {name: (color, hatch) for name, (hatch, color) in zip((n for n in names if n != hub), looks, strict=False)}
    return {**given, hub: HUB_LOOK}


def _draw(name: str, layers: list[str], shown: list[str], stacked: Floats, looks: Looks, axes: Any) -> None:
    own = name.rpartition("/")[2]
    places = np.arange(len(layers))
    drawn = axes.stackplot(places, stacked, edgecolor="white", linewidth=0.6)
    for area, language in zip(drawn, shown, strict=True):
        color, hatch = looks.get(language, REST_LOOK)
        area.set(facecolor=color, hatch=hatch, label=in_matplotlib(language))
    ticks = ticks_of(tuple(layers))
    axes.set_xticks(ticks, [in_matplotlib(layer_label(layers[place])).replace(" (", "\n(") for place in ticks])
    axes.set_xlim(0, max(len(layers) - 1, 1))
    axes.set_ylim(0, 1)
    axes.set_xlabel("layer")
    axes.set_ylabel("p(language | layer)")
    missing = "" if matching_tag(own, shown) else f" ({own} was not counted)"
    axes.set_title(in_matplotlib(f"input: {name}{missing}"), fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    legend = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
    axes.legend(handles[::-1], labels[::-1], fontsize=9, **legend)  # from the top down, as they are stacked
