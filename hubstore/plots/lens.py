"""The heat map of a lens: layers up, tokens across, each cell what is read there; for a browser, as PNG, in color.

A cell's color is the probability of the token written in it. With targets there is one map for each, whose cells
have the target's log-probability.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.plots.static import axes_png
from hubstore.plots.text import in_html, in_matplotlib, layer_label, number, visible

COLUMNS = 24
"""Tokens across, in one row of a figure; more go below."""

SHOWN_CHARACTERS = 9
TITLE_CHARACTERS = 70
LOWEST = -16.0
"""Log-probability at which a target's color is the palest: about one token of nine million."""


@dataclass(frozen=True)
class HeatMap:
    """One text's readings, or one target's in it.

    Args:
        title: the text, and the target where there is one.
        layers: from the first to the last.
        pieces: the tokens that the model read.
        words: [layers][tokens], written in the cells.
        shades: float64 [layers, tokens], 0 to 1.
        details: [layers][tokens], a cell in full.
        scale: what the shade is, in words.
    """

    title: str
    layers: tuple[str, ...]
    pieces: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    shades: npt.NDArray[np.float64]
    details: tuple[tuple[str, ...], ...]
    scale: str


def heat_maps(readings: pa.Table, targets: Sequence[str] = ()) -> list[HeatMap]:
    """A map for each item of a table of readings, or for each item and target.

    Args:
        readings: as `read_store` or `read_texts` make them.
        targets: those that the readings were made with; () shows the most probable tokens.
    """
    maps = []
    for item in dict.fromkeys(readings["item"].to_pylist()):
        rows = readings.filter(pc.equal(readings["item"], item)).to_pylist()
        layers = tuple(dict.fromkeys(row["layer"] for row in rows))
        by_layer = [[row for row in rows if row["layer"] == layer] for layer in layers]
        pieces = tuple("state" if row["piece"] is None else row["piece"] for row in by_layer[0])
        details = tuple(tuple(_detail(row, targets) for row in line) for line in by_layer)
        for place, target in enumerate(targets):
            found = np.array([[row["target_log_probabilities"][place] for row in line] for line in by_layer])
            words = tuple(tuple(f"{value:.1f}" for value in line) for line in found.tolist())
            title = f"{item}: log p({target})"
            shades = 1 - np.clip(found / LOWEST, 0, 1)
            scale = f"log-probability, {LOWEST:.0f} or less to 0"
            maps.append(HeatMap(title, layers, pieces, words, shades, details, scale))
        if not targets:
            likely = np.exp([[row["top_log_probabilities"][0] for row in line] for line in by_layer])
            words = tuple(tuple(row["top_tokens"][0] for row in line) for line in by_layer)
            maps.append(HeatMap(item, layers, pieces, words, likely, details, "probability of the token, 0 to 1"))
    return maps


def _detail(row: dict[str, Any], targets: Sequence[str]) -> str:
    """Everything that is read in a state, in lines."""
    place = f", at {spelled(row['piece'])}" if row["piece"] is not None else ""
    lines = [f"layer {layer_label(row['layer'])}{place}"]
    for token, log in zip(row["top_tokens"], row["top_log_probabilities"], strict=True):
        lines.append(f"{math.exp(log):.1%} {spelled(token)}")
    lines.append(f"entropy {number(row['entropy'])} nats")
    found = zip(targets, row["target_log_probabilities"], row["target_ranks"], strict=True) if targets else ()
    lines += [f"{spelled(target)}: log p {log:.2f}, rank {rank + 1:,}" for target, log, rank in found]
    return "\n".join(lines)


def spelled(token: str) -> str:
    """A token in quotation marks, its spaces and line ends visible."""
    return f"“{token.replace(chr(10), '↵').replace(chr(9), '⇥').replace(' ', '␣')}”"


def html(maps: Sequence[HeatMap], heading: str) -> str:
    """One self-contained page, without a script; a cell tells all it has when pointed at or reached by keyboard."""
    style = (
        ":root{color-scheme:light dark}body{font:15px/1.4 system-ui,sans-serif;margin:16px}"
        "h1{font-size:1.25rem}h2{font-size:1rem;margin:28px 0 6px}.map{overflow-x:auto}"
        "table{border-collapse:separate;border-spacing:2px}"
        "th{font-weight:600;padding:2px 6px;text-align:right;white-space:nowrap}"
        "thead th{text-align:center;position:sticky;top:0;background:Canvas}"
        "tbody th{position:sticky;left:0;background:Canvas;z-index:1}"
        "td{padding:2px 6px;text-align:center;white-space:nowrap;max-width:11ch;overflow:hidden;text-overflow:ellipsis;"
        "border-radius:3px;cursor:default;position:relative}"
        "td:hover,td:focus{outline:2px solid Highlight;overflow:visible}"
        ".scale{color:GrayText;font-size:.85rem}"
    )
    body = "\n".join(_html_map(shown) for shown in maps)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; style-src-attr 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{in_html(heading)}</title>\n<style>{style}</style>\n</head>\n<body>\n<h1>{in_html(heading)}</h1>\n"
        f"{body}\n</body>\n</html>\n"
    )


def _html_map(shown: HeatMap) -> str:
    head = "".join(f'<th dir="auto">{in_html(_seen(piece))}</th>' for piece in shown.pieces)
    lines = []
    for layer in reversed(range(len(shown.layers))):
        cells = []
        for token in range(len(shown.pieces)):
            shade, word, detail = shown.shades[layer, token], shown.words[layer][token], shown.details[layer][token]
            title = "&#10;".join(map(in_html, detail.split("\n")))
            color = f"background:rgba(230,140,20,{shade:.3f})"
            cells.append(f'<td tabindex="0" dir="auto" style="{color}" title="{title}">{in_html(_seen(word))}</td>')
        lines.append(f"<tr><th>{in_html(layer_label(shown.layers[layer]))}</th>{''.join(cells)}</tr>")
    return (
        f"<h2>{in_html(shown.title)}</h2>\n<p class=\"scale\">color: {in_html(shown.scale)}</p>\n"
        f'<div class="map"><table><thead><tr><th></th>{head}</tr></thead>\n<tbody>\n' + "\n".join(lines)
        + "\n</tbody></table></div>"
    )  # fmt: skip


def png(shown: HeatMap) -> bytes:
    """A PNG of the map, COLUMNS tokens across; MissingDependencyError where Matplotlib is not installed."""
    across = min(len(shown.pieces), COLUMNS)
    draws = [partial(_draw, shown, start, across) for start in range(0, len(shown.pieces), COLUMNS)]
    inches = 0.78 * across, 1.0 + 0.25 * len(shown.layers)
    title = visible(shown.title, 110)
    return axes_png(draws, 1, inches, margin=(1.6, 0.6), title=title, caption=f"color: {shown.scale}")


def draw_map(shown: HeatMap, axes: Any) -> None:
    """The whole map on one axes."""
    _draw(shown, 0, len(shown.pieces), axes)
    axes.set_title(in_matplotlib(visible(shown.title, TITLE_CHARACTERS)), fontsize=11)


def _draw(shown: HeatMap, start: int, across: int, axes: Any) -> None:
    stop = min(start + across, len(shown.pieces))
    shades = shown.shades[:, start:stop]
    axes.imshow(shades, cmap="Oranges", vmin=0, vmax=1.25, aspect="auto", origin="lower")
    axes.set_xlim(-0.5, across - 0.5)  # a last row that is not full keeps its cells' width
    axes.set_xticks(range(stop - start), [_word(piece) for piece in shown.pieces[start:stop]], fontsize=8)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(shown.layers)), shown.layers, fontsize=8)
    axes.set_ylabel("layer", fontsize=8)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for layer, words in enumerate(shown.words):
        for token, word in enumerate(words[start:stop]):
            axes.text(token, layer, _word(word), ha="center", va="center", fontsize=6.5)


def _seen(word: str) -> str:
    """A token without the spaces around it, or what it is made of where there is nothing else."""
    return word.replace("\n", "↵").strip() or "␣"


def _word(word: str) -> str:
    return in_matplotlib(visible(_seen(word), SHOWN_CHARACTERS))
