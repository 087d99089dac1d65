"""The hubs of several models as a table of the READMEs, and how alike the models are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

COMPARED = "compare"
"""The record of how alike they are; every other is of one model."""
FIGURES = "../../benchmarks/results/hub"


def hub_tables(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each model, best first, one for each two, and the figures; nothing where nothing was measured."""
    models = {name: of for name, of in records.items() if name != COMPARED}
    if not models:
        return ""
    first = next(iter(models.values()))
    parts = [
        f"{first['languages']} languages of NTREX-128, {first['lines']} lines each ({first['items']:,} items), pooling "
        f"{first['pooling']}, seed {first['seed']}, on {first['machine']['cores']} cores of {first['machine']['cpu']}, "
        f"commit {first['commit']}.",
        _models(models),
        f"![recall through the depth, and by family]({FIGURES}/hub.png)",
    ]
    if COMPARED in records:
        alike = records[COMPARED]
        parts += [
            f"How alike the models are in {len(alike['languages'])} of these languages: the best of all pairs of "
            f"layers, calibrated by the best of each of {alike['permutations']} permutations; means over languages, "
            "and the largest p.",
            _alike(alike["stores"]),
            f"![CKA of every layer with every layer, calibrated]({FIGURES}/compare-cka.png)",
        ]
    return "\n\n".join(parts)


def _models(models: Mapping[str, Mapping[str, Any]]) -> str:
    header = (
        "model", "a hub", "recall@1", "above shuffled", "above random weights", "middle above first, last, embeddings",
        "best at a depth of (90 % of that)", "breadth", "of one family", "of one script", "of neither",
    )  # fmt: skip
    lines = [_row(header), _row(["---"] * len(header))]
    for name, of in sorted(models.items(), key=lambda one: -one[1]["recall"]["calibrated"]):
        left = [of["left"].get(control) for control in ("shuffled", "random_weights")]
        middle = [of["middle"].get(f"middle less {end}") for end in ("first", "last", "embeddings")]
        depth = f"{of['depth']['depth']:.0%} ({of['depth']['first']:.0%} to {of['depth']['last']:.0%})"
        pairs = [of["pairs"].get(pair) for pair in ("of one family", "of one script", "of neither")]
        lines.append(
            _row(
                [
                    name,
                    of["verdict"] if of["verdict"] == "yes" else "**no**",
                    _recall(of["recall"]),
                    *("" if one is None else _tested(one) for one in left),
                    "; ".join(_tested(one) for one in middle if one is not None),
                    depth,
                    f"{of['breadth']:.0%}",
                    *("" if one is None else f"{one['calibrated']:.2f}" for one in pairs),
                ]
            )
        )
    return "\n".join(lines)


def _recall(one: Mapping[str, Any]) -> str:
    return f"{one['calibrated']:.2f} ({one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}])"


def _tested(one: Mapping[str, Any]) -> str:
    return f"{one['value']:.2f}, p {one['p']:.2g}"


def _alike(stores: Iterable[Mapping[str, Any]]) -> str:
    found: dict[tuple[str, str], dict[str, str]] = {}
    for one in stores:
        if one["variant"] == "raw":
            shown = f"{one['calibrated']:.2f} (p {one['p_at_most']:.2g})"
            found.setdefault((one["x"], one["y"]), {})[one["metric"]] = shown
    measures = list(dict.fromkeys(name for of in found.values() for name in of))
    header = ("two models", *(name.replace("_", " ") for name in measures))
    rows = [[f"{x}, {y}", *(of.get(name, "") for name in measures)] for (x, y), of in found.items()]
    return "\n".join([_row(header), _row(["---"] * len(header)), *map(_row, rows)])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
