"""What the report draws, free of any drawing library: curves over layers, grids, and what a reader can choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hubstore.plots.cube import Floats
from hubstore.plots.text import with_interval


@dataclass(frozen=True)
class Style:
    """How a quantity looks everywhere; a color never tells two things apart alone.

    Args:
        color: readable on white and on near-black alike, and told apart by color-blind eyes.
        dash: of the line, as Plotly calls it.
        marker: of the points: "circle", "square", "diamond", "triangle-up"; "" for none.
    """

    color: str
    dash: str = "solid"
    marker: str = "circle"


BLUE, GOLD, GREEN, GRAY, RED, PURPLE = "#0a7abf", "#b07c00", "#009e73", "#808080", "#d55e00", "#a8629a"
STYLES: Mapping[str, Style] = {
    "matched": Style(BLUE),
    "baseline": Style(GOLD, marker="square"),
    "difference": Style(GREEN, marker="diamond"),
    "raw": Style(GRAY, marker="square"),
    "centered": Style(RED),
    "csls_raw": Style(GRAY, dash="dash", marker="diamond"),
    "csls_centered": Style(RED, dash="dash", marker="triangle-up"),
    "cka": Style(PURPLE, marker="diamond"),
    "concept": Style(BLUE),
    "language": Style(GOLD, marker="square"),
    "concept_null": Style(BLUE, dash="dot", marker=""),
    "language_null": Style(GOLD, dash="dot", marker=""),
    "chance": Style(GRAY, dash="dot", marker=""),
    "raw_top": Style(GRAY, dash="dash", marker="diamond"),
    "centered_top": Style(RED, dash="dash", marker="triangle-up"),
}


@dataclass(frozen=True)
class Curve:
    """A quantity over the layers.

    Args:
        name: in the legend.
        style: a key of STYLES.
        values: [layers], NaN where there is none.
        low, high: the 95 % interval [layers], or None for a curve that never has one.
        hollow: which points the store's dtype cannot resolve [layers].
        notes: a remark on each point, or nothing.
    """

    name: str
    style: str
    values: Floats
    low: Floats | None = None
    high: Floats | None = None
    hollow: npt.NDArray[np.bool_] | None = None
    notes: Sequence[str] = ()

    def words(self) -> list[str]:
        """Each point in words: the number, its interval, a remark."""
        out = []
        for place, value in enumerate(self.values):
            low, high = (np.nan if side is None else side[place] for side in (self.low, self.high))
            note = self.notes[place] if self.notes else ""
            hollow = ", not resolved" if self.hollow is not None and self.hollow[place] else ""
            out.append(f"{self.name}: {with_interval(value, float(low), float(high))}{hollow}{note}")
        return out


@dataclass(frozen=True)
class Panel:
    """Curves over the same layers, on one axis.

    Args:
        title: above it.
        y_label: quantity and unit.
        curves: the same number, names and styles under every choice.
        limits: of the y axis; None for what the curves need.
        log: whether the y axis is logarithmic.
    """

    title: str
    y_label: str
    layers: tuple[str, ...]
    curves: tuple[Curve, ...]
    limits: tuple[float, float] | None = None
    log: bool = False


@dataclass(frozen=True)
class Grid:
    """A heat map.

    Args:
        title: above it.
        rows, columns: labels.
        row_label, column_label: what they are.
        values: [rows, columns], NaN where there is none.
        value_label: quantity and unit.
        limits: of the colors.
        over_layers: whether the columns are layers.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_label: str
    column_label: str
    values: Floats
    value_label: str
    limits: tuple[float, float]
    over_layers: bool = False


@dataclass(frozen=True)
class Points:
    """A map.

    Args:
        title: above it.
        xy: float32 [n, 2].
        groups: what each point is colored by [n].
        texts: of each point [n], told when it is pointed at.
    """

    title: str
    xy: npt.NDArray[np.float32]
    groups: Sequence[str]
    texts: Sequence[str]


Choice = tuple[int, ...]
Shown = Panel | Grid | Points


@dataclass(frozen=True)
class Control:
    """Something a reader chooses.

    Args:
        role: what is chosen; controls of one role move together throughout the page.
        label: before it.
        options: what there is to choose.
        chosen: at first.
        slider: a slider, else a list.
        groups: a heading for each option, where the list is long.
    """

    role: str
    label: str
    options: tuple[str, ...]
    chosen: int = 0
    slider: bool = False
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """A place in the page for a panel, a grid or a map, and what it shows under each choice.

    Args:
        key: unique in its section.
        uses: the roles of the controls that it obeys.
        shown: what is shown, by the chosen option of each of them.
        default: the choice at first.
    """

    key: str
    uses: tuple[str, ...]
    shown: Mapping[Choice, Shown]
    default: Choice

    @property
    def first(self) -> Shown:
        """What it shows at first."""
        return self.shown[self.default]


@dataclass(frozen=True)
class Section:
    """A part of the report about one question.

    Args:
        key: its anchor, and the name of its PNG.
        title: its heading.
        seen: what one sees, in plain words.
        computed: how it is computed, with the source.
        controls: what the reader chooses.
        views: its figures.
        notes: what a reader must know about these numbers.
    """

    key: str
    title: str
    seen: str
    computed: str
    controls: tuple[Control, ...]
    views: tuple[View, ...]
    notes: tuple[str, ...] = ()
