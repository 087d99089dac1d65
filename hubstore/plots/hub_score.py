"""The hubs of one or more models side by side: recall through the depth, and by family."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from hubstore.plots.experiment import LOOKS
from hubstore.plots.static import axes_png
from hubstore.plots.text import in_matplotlib

INCHES = (7.0, 4.6)


def hub_png(pages: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Recall of each model through its depth, with its controls dashed, and recall by family.

    Args:
        pages: by model, what `hubstore.analysis.hub_page` gives.

    Raises:
        MissingDependencyError: Matplotlib is not installed.
    """
    return axes_png([partial(_through_depth, pages), partial(_by_family, pages)], 2, INCHES)


def _through_depth(pages: Mapping[str, Mapping[str, Any]], axes: Any) -> None:
    for (model, page), (color, marker) in zip(pages.items(), LOOKS * len(pages), strict=False):
        layers = {layer: of for layer, of in page["layers"].items() if layer != "final"}
        depth = max(map(int, layers)) or 1
        across = [int(layer) / depth for layer in layers]
        for variant in ("model", *page["controls"]):
            values = [of.get(f"recall@1, {variant}", np.nan) for of in layers.values()]
            own = variant == "model"
            style = {"linestyle": "-", "marker": marker, "markersize": 4} if own else {"linestyle": ":"}
            axes.plot(across, values, color=color, linewidth=1.6 if own else 1.0,
                      label=in_matplotlib(model) if own else None, **style)  # fmt: skip
    axes.set_xlabel("depth (0: embeddings, 1: last block)")
    axes.set_ylabel("recall@1, calibrated: 0 by chance")
    axes.set_title("translations found, through the depth (dotted: controls)", fontsize=10)
    axes.set_ylim(-0.05, 1.05)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def _by_family(pages: Mapping[str, Mapping[str, Any]], axes: Any) -> None:
    families = list(dict.fromkeys(family for page in pages.values() for family in page["families"]))
    first = next(iter(pages.values()))["families"]
    families.sort(key=lambda family: -first[family]["calibrated"] if family in first else 1.0)
    values = np.array(
        [
            [
                page["families"][family]["calibrated"] if family in page["families"] else np.nan
                for page in pages.values()
            ]
            for family in families
        ]
    )
    image = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(families)), [in_matplotlib(family) for family in families], fontsize=8)
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(pages)), [in_matplotlib(model) for model in pages], fontsize=8, **turned)
    axes.set_title("a family's languages with all others", fontsize=10)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = "black" if value > 0.6 else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
    axes.figure.colorbar(image, ax=axes, label="recall@1, calibrated")
