"""hubstore projection."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hubstore.cli import options
from hubstore.cli.output import err, out, print_json, table
from hubstore.cli.progress import counting


def projection(
    store: options.StoreArgument,
    method: Annotated[str, typer.Option(help="pca, or umap where umap-learn is installed.")] = "pca",
    layers: options.LayersOption = None,
    pooling: options.PoolingOption = None,
    points: Annotated[int, typer.Option(help="The most items to show; of more, whole concepts are drawn.")] = 20_000,
    languages: options.LanguagesOption = None,
    modalities: options.ModalitiesOption = None,
    seed: options.SeedOption = 0,
    device: options.DeviceOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Map a sample of items in two or three dimensions, layer by layer, and keep the map in the store.

    Layers are turned to lie near the one before, so that points move from layer to layer and do not jump. Without
    --layers, all are mapped.
    """
    from hubstore.analysis import metadata
    from hubstore.opened import Store
    from hubstore.store.result import result_key

    opened = Store(store)
    with counting("mapping") as advanced:
        found = opened.projection(
            layers=options.split_list(layers),
            pooling=pooling,
            method=method,
            points=points,
            seed=seed,
            languages=languages or None,
            modalities=modalities or None,
            device=device,
            progress=advanced,
        )
    provenance = metadata(found)
    if as_json:
        print_json({"made_from": provenance, "rows": found.to_pylist()})
        return
    shown = f"{provenance['sampled']:,} of {provenance['items']:,} items"
    if method == "pca":
        lines = [[layer, *_shares(provenance, layer)] for layer in provenance["components"]]
        out.print(table(("layer", "axis 1", "axis 2", "axis 3", "together"), lines, title=f"{shown}: variance shown"))
    else:
        out.print(f"{shown}, {len(provenance['scale'])} layers")
    kept = result_key(provenance)
    if opened.storage.exists(kept):
        out.print(opened.path / kept, soft_wrap=True)
    else:
        err.print(f"{store} may not be written to: the map was not kept; --json prints it")


def _shares(provenance: dict[str, Any], layer: str) -> list[str | None]:
    """The principal axes' shares of a layer's variance and their sum, as percentages."""
    shares = provenance["components"][layer]
    return [None] * 4 if shares is None else [f"{share:.1%}" for share in (*shares, sum(shares))]
