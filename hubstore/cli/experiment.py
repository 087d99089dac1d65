"""hubstore experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubstore.cli import options
from hubstore.cli.output import err, out, print_json, shown, table
from hubstore.cli.progress import naming
from hubstore.errors import QueryError

if TYPE_CHECKING:
    from hubstore.experiments import Experiment, Result, Run

ALL = "all"


def experiment(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT]...", help="Names that --list lists; `all` for all that the model reads."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="A model's folder or hub id.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for stores, tables, figures and summary.json.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with files of yours, such as en.txt, in place of what ships.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Most items of an experiment.")] = None,
    seed: options.SeedOption = 0,
    bootstrap: Annotated[int, typer.Option(min=100, help="Resamples for the 95 % intervals.")] = 1000,
    trust_remote_code: options.TrustOption = False,
    device: options.DeviceOption = "auto",
    model_dtype: Annotated[
        str, typer.Option(help="What the model computes in and stores keep: float32 (the paper's), bfloat16, auto.")
    ] = "float32",
    extra_models: Annotated[
        list[str] | None,
        typer.Option(
            "--extra-model",
            callback=options.split_names,
            help="A further model over the same language model, for another modality.",
        ),
    ] = None,
    media_template: Annotated[
        str, typer.Option(help="What goes with an image or an audio clip, which {media} stands for.")
    ] = "{media}",
    controls: Annotated[
        bool,
        typer.Option(
            help="Do each experiment also on states in others' places and on the model with random weights, more than "
            "which it must find for its claim to count as shown."
        ),
    ] = True,
    list_all: Annotated[bool, typer.Option("--list", help="List experiments, claims and data.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Do the semantic hub paper's experiments on a model, and say which of its claims the model shows.

    Stores and results are kept in the folder and reused while nothing changes.
    """
    from hubstore.experiments import EXPERIMENTS, ExperimentContext, run_experiments

    if list_all:
        _list(EXPERIMENTS, as_json)
        return
    if not names or model is None or folder is None:
        raise QueryError(
            "name an experiment, a model and a folder: `hubstore experiment NAME --model MODEL --out FOLDER`; "
            "`hubstore experiment --list` lists the names"
        )
    with naming("loading the model") as advanced:
        context = ExperimentContext(
            model,
            folder,
            data,
            limit,
            seed,
            bootstrap,
            device,
            model_dtype,
            advanced,
            tuple(extra_models or ()),
            media_template,
            trust_remote_code,
            controls,
        )
        chosen = [one.name for one in EXPERIMENTS if one.fits(context.model)] if names == [ALL] else names
        done = run_experiments(chosen, context)
    if as_json:
        print_json([{**one.to_json(), **_rows(one.result)} for one in done])
    else:
        for one in done:
            _show(one, folder)
        _summarize(done)
    if any(one.error is not None for one in done):
        raise typer.Exit(1)


def _list(experiments: Sequence[Experiment], as_json: bool) -> None:
    if as_json:
        print_json([{key: getattr(one, key) for key in ("name", "title", "claim", "data")} for one in experiments])
        return
    for one in experiments:
        out.print(one.name, style="bold")
        for label, words in (("what is done", one.title), ("claim", one.claim), ("data", one.data)):
            out.print(f"  {label}: {words}")


def _rows(result: Result | None) -> dict[str, Any]:
    return {} if result is None else {"notes": result.notes, "rows": result.table.to_pylist()}


def _show(done: Run, folder: Path) -> None:
    """The plotted quantities by layer, beside the claim."""
    if done.result is None:
        err.print(f"{done.experiment.name}: ", style="bold red", end="")
        err.print(str(done.error))
        return
    rows = done.result.table.to_pylist()
    for plot in done.result.plots:
        cells = {(str(row[plot.x]), row["quantity"]): row for row in rows}
        across = list(dict.fromkeys(str(row[plot.x]) for row in rows if row["quantity"] in plot.quantities))
        lines = [[place, *(_cell(cells.get((place, name))) for name in plot.quantities)] for place in across]
        title = f"{done.experiment.name}: {plot.title} ({plot.y_label}; 95 % intervals)"
        out.print(table((plot.x_label, *plot.quantities), lines, title=title))
    out.print(f"claim: {done.experiment.claim}")
    out.print(f"here: {done.result.figure}")
    for note in done.result.notes:
        out.print(note, style="dim")
    out.print(f"{folder / done.experiment.name}\n", style="dim")


def _cell(row: dict[str, Any] | None) -> str | None:
    if row is None or row["value"] is None:
        return None
    if row["low"] is None:
        return shown(row["value"])
    return f"{row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"


def _summarize(done: Sequence[Run]) -> None:
    lines = [
        (one.experiment.name, "not done", str(one.error), None)
        if one.result is None
        else (one.experiment.name, one.result.verdict, one.result.figure, one.result.n)
        for one in done
    ]
    out.print(table(("experiment", "shown", "figure", "n"), lines, title="does this model show it?"))
