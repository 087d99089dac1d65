"""hubstore compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubstore.cli import options
from hubstore.cli.output import err, out, print_json, results_folder, table
from hubstore.cli.progress import counting
from hubstore.options import CalibrationOptions

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("measure", "value", "null", "calibrated", "p at most", "layer", "layer of the other")
MAPPED = ("cka", "mutual_knn")
"""Measures of the heat maps, where they are among those computed; else the first that is."""


@options.with_options
def compare(
    stores: Annotated[
        list[Any],
        typer.Argument(metavar="STORE STORE...", parser=options.place, help="Stores over the same items."),
    ],
    *,
    calibration: CalibrationOptions,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--pair",
            callback=options.split_names,
            help="A partition of one store and one of the other: en:zh-Hans. Repeatable.",
        ),
    ] = None,
    partitions: Annotated[
        list[str] | None,
        typer.Option(
            "--partition", callback=options.split_names, help="Only this partition, with itself; all that all have."
        ),
    ] = None,
    layers: options.LayersOption = None,
    poolings: Annotated[
        list[str] | None,
        typer.Option(
            "--pooling",
            callback=options.split_names,
            help="Pooling of all stores; or one for each; of one store, the poolings to compare.",
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="What the same items have the same of: id (by default), or concept.")
    ] = None,
    same_layers: Annotated[
        bool, typer.Option("--same-layers", help="Only layers of one name, as checkpoints of one model have them.")
    ] = False,
    seed: options.SeedOption = 0,
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for compare.csv, compare.parquet and the heat maps.")
    ] = None,
    device: options.DeviceOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Measure how alike models, checkpoints or poolings are over the same items, every layer against every layer.

    Each measure stands beside what shuffled items give, and is calibrated by it: 0 by chance, 1 at best. p is of the
    best of all pairs of layers that are compared, corrected for having been picked.
    """
    from hubstore import analysis

    with counting("comparing") as advanced:
        found = analysis.compare(
            *stores,
            pairs=options.split_pairs(pairs),
            calibration=calibration,
            cross_layers=not same_layers,
            partitions=options.split_names(partitions),
            layers=options.split_list(layers),
            poolings=options.split_names(poolings),
            by=by,
            seed=seed,
            device=device,
            progress=advanced,
        )
    if folder is not None:
        _write(found, folder)
    if as_json:
        print_json({"made_from": analysis.metadata(found), "rows": found.to_pylist()})
        return
    rows = found.to_pylist()
    for x, y in dict.fromkeys((row["store_x"], row["store_y"]) for row in rows):
        _show(x, y, [row for row in rows if (row["store_x"], row["store_y"]) == (x, y)])


def _show(x: str, y: str, rows: Sequence[dict[str, Any]]) -> None:
    """A line for each measure: where two stores are most alike, means over the partitions."""
    partitions = list(dict.fromkeys((row["x"], row["y"]) for row in rows))
    lines = []
    for name in dict.fromkeys((row["metric"], row["variant"]) for row in rows):
        own = [row for row in rows if (row["metric"], row["variant"]) == name]
        cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in own:
            cells.setdefault((row["layer"], row["layer_y"]), []).append(row)
        best = cells.pop(("best", "best"))
        at = max(cells, key=lambda place: _mean(cells[place], "calibrated") or -1.0)
        p = [row["p_value"] for row in best if row["p_value"] is not None]
        values = [_mean(best, column) for column in ("value", "null_mean", "calibrated")]
        lines.append([" ".join(dict.fromkeys(name)).removesuffix(" raw"), *values, max(p, default=None), *at])
    over = f"partition {partitions[0][0]}" if len(partitions) == 1 else f"mean of {len(partitions)} partitions"
    title = f"{x} and {y}: {over}, n = {min(row['n'] for row in rows):,}, the best layers"
    out.print(table(COLUMNS, lines, title=title))


def _mean(rows: Sequence[dict[str, Any]], column: str) -> float | None:
    values = [row[column] for row in rows if row[column] is not None]
    return float(sum(values) / len(values)) if values else None


def _write(found: pa.Table, folder: Path) -> None:

    from hubstore.arrow import csv_bytes, parquet_bytes
    from hubstore.errors import AnalysisError
    from hubstore.plots.compare import compare_png

    storage = results_folder(folder, AnalysisError)
    storage.write("compare.parquet", parquet_bytes(found))
    storage.write("compare.csv", csv_bytes(found))
    computed = list(dict.fromkeys(found["metric"].to_pylist()))
    drawn = [name for name in MAPPED if name in computed] or computed[:1]
    for metric in drawn:
        storage.write(f"compare-{metric}.png", compare_png(found, metric))
    err.print(f"{folder}: compare.csv, compare.parquet, {', '.join(f'compare-{metric}.png' for metric in drawn)}")
