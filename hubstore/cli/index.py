"""hubstore index."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from hubstore.cli import options
from hubstore.cli.output import out, print_json, size, table
from hubstore.cli.progress import bar


def index(
    store: options.StoreArgument,
    layers: options.LayersOption = None,
    pool: options.PoolOption = None,
    kind: Annotated[str, typer.Option(help="auto (by size), exact, hnsw, ivf or ivfpq.")] = "auto",
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build from nothing, whatever is there.")] = False,
    seed: options.SeedOption = 0,
    device: options.DeviceOption = "auto",
    engine: options.EngineOption = options.Engine.local,
    address: options.AddressOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Build a nearest-neighbor index on each layer, or bring it up to date after an append."""
    from hubstore.api import Store

    opened = Store(store)
    started = time.perf_counter()
    with bar(f"indexing {store.name}") as (progress, task):

        def advanced(layer: str, done: int, total: int) -> None:
            progress.update(task, description=f"indexing layer {layer}", completed=done, total=total)

        built = opened.index(
            options.split_list(layers),
            pool,
            kind,
            seed=seed,
            rebuild=rebuild,
            device=device,
            engine=engine,
            address=address,
            progress=advanced,
        )
    rows = [(one.layer, one.pooling, one.kind, one.rows, one.file.size if one.file else 0) for one in built]
    if as_json:
        keys = ("layer", "pooling", "kind", "rows", "bytes")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
        return
    shown = [(*row[:-1], size(row[-1]) if row[-1] else "none: searched in the store") for row in rows]
    out.print(table(("layer", "pooling", "kind", "rows", "file"), shown))
    out.print(f"{len(built)} layers in {time.perf_counter() - started:.1f} s")
