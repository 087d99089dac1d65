"""hubstore analyze."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from hubstore.cli import options
from hubstore.cli.output import err, labeled, out, print_json, table
from hubstore.cli.progress import naming
from hubstore.options import CalibrationOptions, CompareOptions

CURVES = {"similarity": "difference", "retrieval": "recall@1", "clustering": "concept_purity"}
"""The metric of each analysis whose course over the layers is drawn beside its numbers."""

WHOLE = "*"
"""The x of a row of all partitions' items together."""

BAR = 24
"""Characters of the longest bar."""


@options.with_options
def analyze(
    store: options.StoreArgument,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ANALYSIS]...",
            help="similarity, retrieval, clustering, alignment, geometry; all by default. Also calibrated: CKA, CKNNA, "
            "Procrustes, SVCCA, RSA, linear maps and MEXA, each beside what shuffled items give; subspace: how many "
            "directions carry the language, and what is left without them (LSAR, LEACE, INLP); probe: what a linear "
            "map reads of language, length and classes, and in other languages.",
        ),
    ] = None,
    *,
    compare: CompareOptions,
    calibration: CalibrationOptions,
    cross_layers: Annotated[
        bool,
        typer.Option("--cross-layers", help="Of calibrated: every layer of one side against every layer of the other."),
    ] = False,
    label: Annotated[
        str | None, typer.Option(help="Of probe: a column of the items, which says the class of their concepts.")
    ] = None,
    partition_by: options.PartitionByOption = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the layers; the results are the same.")] = 1,
    engine: options.EngineOption = options.Engine.local,
    address: options.AddressOption = None,
    device: options.DeviceOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Measure whether equivalent items lie near one another, layer by layer.

    Results are kept in the store and reused while nothing changes. Without --pair or --pivot, all pairs.
    """
    from hubstore import analysis
    from hubstore.opened import Store

    opened = Store(store) if partition_by is None else Store(store).partitioned_by(partition_by)
    with naming("analyzing") as advanced:
        tables = opened.analyze(
            names or None,
            compare,
            calibration=calibration,
            cross_layers=cross_layers,
            label=label,
            device=device,
            jobs=jobs,
            engine=engine,
            address=address,
            progress=advanced,
        )
    if as_json:
        print_json(
            {
                name: {"made_from": analysis.metadata(result), "rows": result.to_pylist()}
                for name, result in tables.items()
            }
        )
        return
    for name, result in tables.items():
        _show(name, result.to_pylist())
    if "similarity" in tables and (warning := analysis.unresolved(tables["similarity"], opened.dtype)):
        err.print(labeled("warning", warning))


def _show(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """A table for each variant: layers down, metrics across; the mean over pairs or partitions.

    Where there are partitions, the row of all their items together is none of them.
    """
    single = {(row["variant"], row["metric"]) for row in rows if row["x"] != WHOLE}
    rows = [row for row in rows if row["x"] != WHOLE or (row["variant"], row["metric"]) not in single]
    pairs = {(row["x"], row["y"]) for row in rows}
    compared = len({pair for pair in pairs if pair[0] != WHOLE} or pairs)
    of_what = "comparisons" if rows and rows[0]["y"] not in ("", WHOLE) else "partitions"
    what = f"one {of_what[:-1]}, 95 % interval" if compared == 1 else f"mean of {compared} {of_what}"
    for variant in dict.fromkeys(row["variant"] for row in rows):
        cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            if row["variant"] == variant:
                cells.setdefault((row["layer"], row["metric"]), []).append(row)
        layers = list(dict.fromkeys(layer for layer, _ in cells))
        columns = list(dict.fromkeys(column for _, column in cells))
        lines = [[layer, *(_cell(cells.get((layer, column), [])) for column in columns)] for layer in layers]
        curve = CURVES.get(name)
        if curve in columns:
            means = [_mean(cells.get((layer, curve), [])) or 0.0 for layer in layers]
            longest = max(means, default=0.0) or 1.0
            lines = [
                [*line, "█" * round(BAR * max(mean, 0.0) / longest)] for line, mean in zip(lines, means, strict=True)
            ]
            columns.append(f"{curve} over layers")
        out.print(table(("layer", *columns), lines, title=f"{name}, {variant.replace('_', ' ')}: {what}"))


def _mean(rows: Sequence[dict[str, Any]]) -> float | None:
    values = [row["value"] for row in rows if row["value"] is not None]
    return float(sum(values) / len(values)) if values else None


def _cell(rows: Sequence[dict[str, Any]]) -> float | str | None:
    mean = _mean(rows)
    if mean is not None and len(rows) == 1 and rows[0]["low"] is not None:
        return f"{mean:.3g} [{rows[0]['low']:.3g}, {rows[0]['high']:.3g}]"
    return mean
