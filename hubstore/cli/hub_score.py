"""hubstore hub-score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubstore.cli import options
from hubstore.cli.output import err, out, print_json, results_folder, table
from hubstore.cli.progress import counting

if TYPE_CHECKING:
    import pyarrow as pa


def hub_score(
    store: options.StoreArgument,
    twin: Annotated[
        Any,
        typer.Option(
            "--twin",
            metavar="STORE",
            parser=options.place,
            help="A store of the same items, extracted with the model before any training.",
        ),
    ] = None,
    partitions: options.PartitionsOption = None,
    layers: options.LayersOption = None,
    pooling: options.PoolingOption = None,
    seed: options.SeedOption = 0,
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for hub-score.json, .parquet and .png.")
    ] = None,
    device: options.DeviceOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Say on one page how much of a hub a model has: recall by family and script, depth, breadth, and beyond controls.

    Needs parallel items of two partitions or more. 0 is chance and 1 is perfect; layers are picked on other concepts.
    """
    from hubstore import analysis
    from hubstore.opened import Store

    opened = Store(store)
    with counting("scoring") as advanced:
        found = analysis.hub_score(
            opened,
            partitions or None,
            twin=None if twin is None else Store(twin),
            layers=options.split_list(layers),
            pooling=pooling,
            seed=seed,
            device=device,
            progress=advanced,
        )
    page = {"model": opened.attributes["model"]["id"], **analysis.hub_page(found)}
    if folder is not None:
        _write(found, page, folder)
    if as_json:
        print_json({"made_from": analysis.metadata(found), **page})
    else:
        _show(page)


def _show(page: Mapping[str, Any]) -> None:
    out.print(f"{page['model']}: a hub by every control and in the middle: {page['verdict']}", style="bold")
    if page["untested"]:
        out.print(f"not tested: {', '.join(page['untested'])}")
    if page["missing"]:
        out.print(f"layers that were not read: {', '.join(page['missing'])}; extract them: --layers all,final")
    summary = [["recall@1, held out", _interval(page["recall"]), page["recall"]["calibrated"], None]]
    summary += [
        [f"the same, {name}", _interval(one), one["calibrated"], None] for name, one in page["controls"].items()
    ]
    summary += [[f"above {name}", one["value"], None, one["p"]] for name, one in page["left"].items()]
    if page["characters"]:
        found, above = page["characters"]["recall"], page["characters"]["above"]
        summary.append(["the same, by the texts' characters", _interval(found), found["calibrated"], None])
        summary.append(["above the texts' characters", above["value"], None, above["p"]])
    summary += [[name, one["value"], None, one["p"]] for name, one in page["middle"].items()]
    summary += [[f"depth: {name}", value, None, None] for name, value in page["depth"].items()]
    summary.append(["breadth: partitions above controls", page["breadth"], None, None])
    out.print(table(("", "value", "calibrated", "p"), summary, title=f"{page['n']:,} concepts"))
    for what in ("pairs", "families", "scripts"):
        lines = [[name, _interval(one), one["calibrated"]] for name, one in page[what].items()]
        out.print(table((what, "recall@1", "calibrated"), lines))
    columns = list(dict.fromkeys(name for of in page["layers"].values() for name in of))
    lines = [[layer, *(of.get(name) for name in columns)] for layer, of in page["layers"].items()]
    out.print(table(("layer", *columns), lines, title="by layer, calibrated"))


def _interval(one: Mapping[str, Any]) -> str:
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def _write(found: pa.Table, page: Mapping[str, Any], folder: Path) -> None:
    import json

    from hubstore.arrow import parquet_bytes
    from hubstore.errors import AnalysisError
    from hubstore.plots.hub_score import hub_png

    storage = results_folder(folder, AnalysisError)
    storage.write("hub-score.parquet", parquet_bytes(found))
    storage.write("hub-score.json", json.dumps(page, indent=1).encode())
    storage.write("hub-score.png", hub_png({page["model"]: page}))
    err.print(f"{folder}: hub-score.json, hub-score.parquet, hub-score.png")
