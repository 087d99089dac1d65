"""The hubs of several models as a table of the READMEs, and how alike the models are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

COMPARED, LANGUAGE, TUNED = "compare", "language", "tuned-lens"
"""Records of several models; every other is of one."""
FIGURES = "../../benchmarks/results/hub"


def hub_tables(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each model, best first, one for each two, and the figures; nothing where nothing was measured."""
    scored: dict[int, dict[str, Mapping[str, Any]]] = {}
    for name, of in records.items():
        if name not in (COMPARED, LANGUAGE, TUNED):
            which = f"-{of['languages']}"
            scored.setdefault(of["languages"], {})[name.removesuffix(which)] = of
    if not scored:
        return ""
    parts = []
    for languages, models in sorted(scored.items()):
        parts += [_measured_on(next(iter(models.values()))), _models(models)]
        figure = "hub.png" if languages == min(scored) else f"hub-{languages}.png"
        parts.append(f"![recall through the depth, and by family]({FIGURES}/{figure})")
    if COMPARED in records:
        alike = records[COMPARED]
        parts += [
            f"How alike the models are in {len(alike['languages'])} of these languages: the best of all pairs of "
            f"layers, calibrated by the best of each of {alike['permutations']} permutations; means over languages, "
            "and the largest p.",
            _alike(alike["stores"]),
            f"![CKA of every layer with every layer, calibrated]({FIGURES}/compare-cka.png)",
        ]
    if LANGUAGE in records:
        parts += [
            "What is left without the language, on the half of the sentences that nothing was fitted on: recall@1 over "
            "all pairs of languages, and in brackets the accuracy of a linear classifier of languages that is fitted "
            "anew on what is left. The last columns count LSAR's directions: those without which the classifier loses "
            "90 % of what it has above chance, and those that hold 90 % of the variance between languages.",
            _language(records[LANGUAGE]["models"]),
        ]
    if TUNED in records:
        parts += [
            f"The tuned lens of {records[TUNED]['model']} on held-out sentences, at their last tokens: -log p of the "
            "token that the last layer finds most probable, in nats, and in brackets how often it is the lens's own. "
            "Constant is the mean of the last layer's states, whatever is read.",
            _tuned(records[TUNED]["lines"]),
        ]
    return "\n\n".join(parts)


def _measured_on(first: Mapping[str, Any]) -> str:
    machine = first["machine"]
    on = machine.get("gpu") or f"{machine['cores']} cores of {machine['cpu']}"
    return (
        f"{first['languages']} languages of NTREX-128, {first['lines']} lines each ({first['items']:,} items), pooling "
        f"{first['pooling']}, seed {first['seed']}, on {on}, commit {first['commit']}."
    )


def _language(models: Mapping[str, Any]) -> str:
    first = next(iter(models.values()))[0]
    removed = [name for name, of in first.items() if isinstance(of, dict)]
    header = ("model", "layer", *removed, "directions for 90 %", "with 90 %")
    lines = [_row(header), _row(["---"] * len(header))]
    for model, layers in models.items():
        for of in layers:
            cells = [f"{of[name]['recall@1']:.2f} ({of[name]['language_accuracy']:.2f})" for name in removed]
            counts = [of["directions_for_90%"], of["directions_with_90%"]]
            lines.append(_row([model, of["layer"], *cells, *("" if one is None else f"{one:.0f}" for one in counts)]))
    return "\n".join(lines)


def _tuned(rows: Iterable[Mapping[str, Any]]) -> str:
    cells: dict[str, dict[tuple[str, str], float]] = {}
    for row in rows:
        cells.setdefault(row["layer"], {})[row["variant"], row["metric"]] = row["value"]
    variants = ("raw", "normed", "tuned", "constant")
    header = ("layer", *variants, "variance that the map misses")
    lines = [_row(header), _row(["---"] * len(header))]
    for layer, of in cells.items():
        shown = [f"{of[variant, 'loss']:,.2f} ({of[variant, 'agreement']:.2f})" for variant in variants]
        lines.append(_row([layer, *shown, f"{of['tuned', 'unexplained']:.2f}"]))
    return "\n".join(lines)


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
                    "**no**" if of["verdict"] == "no" else of["verdict"],
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
