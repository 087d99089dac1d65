"""hubstore bench."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hubstore.cli import options
from hubstore.cli.command import Command
from hubstore.cli.output import err, out, print_json, shown, table

if TYPE_CHECKING:
    from hubstore.bench.figure import Report

Sizes = TypeVar("Sizes", bound=Any)

RunsOption = Annotated[int, typer.Option(min=1, help="Turns that hubstore and its ceiling take; medians are shown.")]
ScratchOption = Annotated[
    Path | None,
    typer.Option(help="A folder on the disk to measure; nothing stays there.", exists=True, file_okay=False),
]
Count = int | None
"""A size; None for what suits the device."""


class StateDtype(StrEnum):
    """Dtypes of hidden states."""

    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"


DtypeOption = Annotated[StateDtype, typer.Option(help="What the states are kept as.")]

bench = typer.Typer(
    no_args_is_help=True,
    help="Measure hubstore on this machine, beside what the machine can do at best, in the same turns.",
)


@bench.command(cls=Command)
def extract(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A model's folder or hub id. A random one by default.")
    ] = None,
    lines: Annotated[Count, typer.Option(min=1, help="Of the sample, in 14 languages. 300 on a GPU, 10 else.")] = None,
    scratch: ScratchOption = None,
    runs: RunsOption = 3,
    trust_remote_code: options.TrustOption = False,
    device: options.DeviceOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Extraction of all layers beside a plain batched forward of the same texts that keeps nothing."""
    from hubstore.bench.extract import measure_extract
    from hubstore.devices import resolve_device

    with err.status("extracting"):
        found = measure_extract(
            model, resolve_device(device), lines=lines, scratch=scratch, runs=runs, trust=trust_remote_code
        )
    _show(found, as_json)


@bench.command(cls=Command)
def search(
    rows: Annotated[Count, typer.Option(min=1, help="Rows to search. 1,000,000 on a GPU, 100,000 else.")] = None,
    width: Annotated[Count, typer.Option(min=1, help="Their width. 1024 on a GPU, 768 else.")] = None,
    queries: Annotated[Count, typer.Option(min=1, help="Queries at once. 4096 on a GPU, 256 else.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbors for each query.")] = 10,
    dtype: DtypeOption = StateDtype.float16,
    runs: RunsOption = 5,
    device: options.DeviceOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Exact search beside the bare product of queries and rows, one query beside a single read of the rows."""
    from hubstore.bench.search import SearchSizes, measure_search
    from hubstore.devices import resolve_device

    on = resolve_device(device)
    sizes = _sized(SearchSizes.default(on), rows=rows, width=width, queries=queries, k=k, dtype=dtype.value)
    with err.status("searching"):
        found = measure_search(sizes, on, runs)
    _show(found, as_json)


@bench.command(cls=Command)
def store(
    rows: Annotated[int, typer.Option(min=1, help="Rows of each layer.")] = 32_768,
    width: Annotated[int, typer.Option(min=4, help="Their width, a multiple of 4.")] = 768,
    layers: Annotated[int, typer.Option(min=1, help="Layers.")] = 4,
    taken: Annotated[int, typer.Option(min=1, help="Random rows to take at once.")] = 1000,
    dtype: DtypeOption = StateDtype.float16,
    scratch: ScratchOption = None,
    runs: RunsOption = 5,
    as_json: options.JsonOption = False,
) -> None:
    """Writing beside a raw append; a layer's scan and random rows beside a memory map of the same bytes."""
    from hubstore.bench.store import StoreSizes, measure_store

    with err.status("writing and reading"):
        found = measure_store(StoreSizes(rows, width, layers, taken, dtype.value), scratch, runs)
    _show(found, as_json)


@bench.command(cls=Command)
def lens(
    states: Annotated[Count, typer.Option(min=1, help="Hidden states. 8192 on a GPU, 256 else.")] = None,
    width: Annotated[Count, typer.Option(min=1, help="Their width. 4096 on a GPU, 384 else.")] = None,
    vocabulary: Annotated[Count, typer.Option(min=1, help="Tokens. 128,256 on a GPU, 32,000 else.")] = None,
    k: Annotated[int, typer.Option("-k", min=0, help="Most probable tokens to give.")] = 10,
    dtype: DtypeOption = StateDtype.bfloat16,
    runs: RunsOption = 5,
    device: options.DeviceOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """The logit lens beside the bare product of states and unembedding."""
    from hubstore.bench.lens import LensSizes, measure_lens
    from hubstore.devices import resolve_device

    on = resolve_device(device)
    sizes = _sized(LensSizes.default(on), states=states, width=width, vocabulary=vocabulary, k=k, dtype=dtype.value)
    with err.status("sweeping"):
        found = measure_lens(sizes, on, runs)
    _show(found, as_json)


def _sized(default: Sizes, **sizes: int | str | None) -> Sizes:
    changed: Sizes = replace(default, **{name: value for name, value in sizes.items() if value is not None})
    return changed


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        print_json(report.to_json())
        return
    columns = ("work", "median", "least to greatest", "unit", "share", "of", "its median")
    lines = [
        (
            one.work,
            shown(one.value),
            f"{shown(one.spread[0])} to {shown(one.spread[1])}",
            one.unit,
            f"{one.share:.0%}",
            one.ceiling,
            shown(one.ceiling_value),
        )
        for one in report.figures
    ]
    runs = report.figures[0].runs
    out.print(table(columns, lines, title=f"{report.of} on {_machine(report.machine)}, {runs} turns"))
    for note in report.notes:
        out.print(note, style="dim")


def _machine(machine: Mapping[str, Any]) -> str:
    return f"{machine['device']}, torch {machine['torch']}"
