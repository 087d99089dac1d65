"""hubstore export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubstore.cli import options
from hubstore.cli.output import out, print_json, size


def export(
    store: options.StoreArgument,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    layers: options.LayersOption = None,
    pooling: options.PoolingOption = None,
    partition: Annotated[str | None, typer.Option(help="One partition only, such as zh-Hans.")] = None,
    format: Annotated[str, typer.Option(help="npy, safetensors or parquet.")] = "npy",
    items_only: Annotated[bool, typer.Option("--items", help="The items alone, as Parquet.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Write hidden states and items for other tools."""
    from hubstore.opened import Store

    written = Store(store).export(
        folder,
        layers=options.split_list(layers),
        pooling=pooling,
        partition=partition,
        format=format,
        states=not items_only,
        overwrite=overwrite,
    )
    if as_json:
        print_json([str(path) for path in written])
        return
    for path in written:
        out.print(f"{path}  {size(path.stat().st_size)}")
