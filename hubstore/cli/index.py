"""hubstore index."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from hubstore.cli import options
from hubstore.cli.output import out, print_json, size, table
from hubstore.cli.progress import naming
from hubstore.options import IndexOptions


@options.with_options
def index(
    store: options.StoreArgument,
    layers: options.LayersOption = None,
    pooling: options.PoolingOption = None,
    kind: Annotated[str, typer.Option(help="auto (by size), exact, hnsw, ivf, ivfpq or ivfrabitq.")] = "auto",
    *,
    build: IndexOptions,
    device: options.DeviceOption = "auto",
    engine: options.EngineOption = options.Engine.local,
    address: options.AddressOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Build a nearest-neighbor index on each layer, or bring it up to date after an append."""
    from hubstore.opened import Store

    opened = Store(store)
    started = time.perf_counter()
    with naming(f"indexing {store.name}", "indexing layer {}") as advanced:
        built = opened.index(
            options.split_list(layers),
            pooling,
            kind,
            options=build,
            device=device,
            engine=engine,
            address=address,
            progress=advanced,
        )
    if built and not any(one.file for one in built) and not as_json:
        out.print(
            f"nothing to build: the {built[0].rows:,} rows of each of {len(built)} layers are searched exactly where "
            "they are; --kind hnsw builds an index all the same"
        )
        return
    rows = [
        (
            *(one.layer, one.pooling, one.kind, one.rows),
            one.recall.measured if one.recall else None,
            one.file.size if one.file else 0,
        )
        for one in built
    ]
    if as_json:
        keys = ("layer", "pooling", "kind", "rows", "recall", "bytes")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
        return
    shown = [
        (
            *row[:-2],
            "" if row[-2] is None else f"{row[-2]:.3f}",
            size(row[-1]) if row[-1] else "none: searched in the store",
        )
        for row in rows
    ]
    out.print(table(("layer", "pooling", "kind", "rows", "recall@10", "file"), shown))
    out.print(f"{len(built)} layers in {time.perf_counter() - started:.1f} s")
