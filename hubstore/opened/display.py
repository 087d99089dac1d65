"""A store in a few lines, as text and as HTML: what a notebook shows of it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from hubstore.errors import HubstoreError
from hubstore.store.layout import INDEX, LENS
from hubstore.store.result import METADATA, decode_result

if TYPE_CHECKING:
    from hubstore.store import StoreReader

BLOCKS = "▁▂▃▄▅▆▇█"
SHOWN_PARTITIONS = 16
CURVE = {"metric": "difference", "variant": "centered"}
"""The rows of an analysis of similarity that are the hub curve."""


def store_text(store: StoreReader) -> str:
    """A line for each thing that one asks first."""
    shape = f"{len(store):,} items x {len(store.layers)} layers x {store.width} ({store.layout.dtype})"
    lines = [f"<{type(store).__name__} {store.path}: {shape}>"]
    lines += [f"  {name:<10} {words}" for name, words in facts(store).items()]
    if curve := hub_curve(store):
        lines.append(f"  {'hub curve':<10} {sparkline(list(curve.values()))} {_curve_words(curve)}")
    return "\n".join(lines)


def store_html(store: StoreReader) -> str:
    """The same as a table, with the curve drawn."""
    rows = {"store": str(store.path), "items": f"{len(store):,}", **facts(store)}
    left = 'style="text-align:left"'
    cells = "".join(
        f"<tr><th {left}>{html.escape(name)}</th><td {left}>{html.escape(words)}</td></tr>"
        for name, words in rows.items()
    )
    curve = hub_curve(store)
    drawn = ""
    if curve:
        drawn = (
            f"<figure>{_svg(list(curve.values()))}<figcaption>{html.escape(_curve_words(curve))}</figcaption></figure>"
        )
    return f"<div><table>{cells}</table>{drawn}</div>"


def facts(store: StoreReader) -> dict[str, str]:
    """Model, partitions, layers, poolings, indexes and lens in words."""
    model: Mapping[str, object] = store.attributes.get("model") or {}
    parts = list(store.partitions.values())
    shown = ", ".join(f"{part.name} {part.size:,}" for part in parts[:SHOWN_PARTITIONS])
    more = f" and {len(parts) - SHOWN_PARTITIONS} more" if len(parts) > SHOWN_PARTITIONS else ""
    found = {
        "model": f"{model.get('id', 'not named')}" + (f", {model['blocks']} blocks" if "blocks" in model else ""),
        "partitions": shown + more,
        "layers": ", ".join(store.layers),
        "poolings": ", ".join(store.poolings),
    }
    if store.storage.is_local:  # to describe a store asks no object store anything
        count = len([key for key in store.storage.list("indexes") if key.endswith(f"/{INDEX}")])
        found["indexes"] = f"{count} layers" if count else "none: searched exactly"
        found["lens"] = "kept" if store.storage.exists(LENS) else "none"
    if store.unfinished is not None:
        found["unfinished"] = str(store.unfinished)
    return found


def hub_curve(store: StoreReader) -> dict[str, float]:
    """By layer matched less baseline, centered, the mean over pairs, from a table that the store keeps; or nothing."""
    if not store.storage.is_local:
        return {}
    best: dict[str, float] = {}
    for key in store.storage.list("analyses/similarity"):
        try:
            table, _ = decode_result(store.storage.read(key), key)
            made = json.loads(table.schema.metadata[METADATA])
            found = _means(table) if made["commits"] == store.digest else {}
        except (HubstoreError, OSError, KeyError, TypeError, ValueError, pa.ArrowException):
            continue  # a damaged table is made again where it is asked for
        best = found if len(found) > len(best) else best
    return best


def _means(table: pa.Table) -> dict[str, float]:
    for column, value in CURVE.items():
        table = table.filter(pc.equal(table[column], value))
    means = table.group_by("layer", use_threads=False).aggregate([("value", "mean")])
    return {row["layer"]: row["value_mean"] for row in means.to_pylist() if row["value_mean"] is not None}


def sparkline(values: Sequence[float]) -> str:
    """Numbers as blocks of text, from 0 or the least to the largest."""
    low, high = min(0.0, *values), max(0.0, *values)
    steps = len(BLOCKS) - 1
    return "".join(BLOCKS[round(steps * (value - low) / ((high - low) or 1.0))] for value in values)


def _curve_words(curve: Mapping[str, float]) -> str:
    best = max(curve, key=lambda layer: curve[layer])
    return f"matched - baseline, centered: {curve[best]:.3g} at most, at layer {best}"


def _svg(values: Sequence[float], width: int = 240, height: int = 48) -> str:
    low, high = min(0.0, *values), max(0.0, *values)
    step = width / max(len(values) - 1, 1)
    points = " ".join(
        f"{number * step:.1f},{height - (value - low) / ((high - low) or 1.0) * height:.1f}"
        for number, value in enumerate(values)
    )
    return (
        f'<svg role="img" aria-label="hub curve" width="{width + 4}" height="{height + 4}" '
        f'viewBox="-2 -2 {width + 4} {height + 4}"><polyline fill="none" stroke="#0a7abf" stroke-width="2" '
        f'points="{points}"/></svg>'
    )
