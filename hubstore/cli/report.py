"""hubstore report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubstore.cli import options
from hubstore.cli.output import out, print_json
from hubstore.cli.progress import naming
from hubstore.storage.location import Location


def report(
    store: options.StoreArgument,
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write to; STORE-report by default.")
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option("--pair", callback=options.split_names, help="Two partitions, such as en:zh-Hans."),
    ] = None,
    pivot: Annotated[str | None, typer.Option(help="One partition against all others.")] = None,
    partition_by: options.PartitionByOption = None,
    layers: options.LayersOption = None,
    pooling: options.PoolingOption = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples for the 95 % intervals.")] = 1000,
    seed: options.SeedOption = 0,
    as_json: options.JsonOption = False,
) -> None:
    """Write everything the store says about its hub as one self-contained HTML page, with PNGs and tables."""
    from hubstore.opened import Store

    opened = Store(store) if partition_by is None else Store(store).partitioned_by(partition_by)
    with naming("analyzing") as advanced:
        page = opened.report(
            folder or _beside(store),
            pairs=options.split_pairs(pairs),
            pivot=pivot,
            layers=options.split_list(layers),
            pooling=pooling,
            seed=seed,
            bootstrap=bootstrap,
            progress=advanced,
        )
    if as_json:
        print_json({"report": str(page)})
    else:
        out.print(f"{page}")


def _beside(store: Location) -> Path:
    """STORE-report beside a folder; of a remote store, in the folder that the command runs in."""
    if isinstance(store, Path):
        return store.with_name(f"{store.stem}-report")
    return Path(f"{store.name.removesuffix('.hub')}-report")
