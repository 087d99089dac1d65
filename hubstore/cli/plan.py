"""hubstore plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubstore.cli import corpora, options
from hubstore.cli.corpora import CorpusArgument, CorpusOptions, SettingsOptions
from hubstore.cli.output import err, out, print_json, size, table
from hubstore.options import ModelOptions

if TYPE_CHECKING:
    from hubstore.api import CostEstimate
    from hubstore.extraction.estimate import Estimate


@options.with_options
def plan(
    corpus: CorpusArgument,
    model: Annotated[str, typer.Option("--model", "-m", help="A model's folder or hub id.")],
    store: Annotated[
        str, typer.Option("--out", "-o", help="Where the store would be: its disk is looked at. Here by default.")
    ] = ".",
    *,
    settings: SettingsOptions,
    loading: ModelOptions,
    device: options.DevicesOption = "auto",
    refresh: Annotated[
        bool, typer.Option("--again", help="Measure this machine again; else what was measured is kept.")
    ] = False,
    reading: CorpusOptions,
    as_json: options.JsonOption = False,
) -> None:
    """Say what an extraction would take: items, tokens, bytes, time, and whether there is room. Nothing is extracted.

    The corpus is read once, and the model runs for a few seconds, to see how fast this machine is.
    """
    from hubstore import api
    from hubstore.storage.location import location

    items, where = corpora.open_items(corpus, reading), location(store)
    with err.status(f"loading {model}, reading the corpus and measuring this machine"):
        found = api.plan(
            items,
            model,
            settings=settings.settings(),
            folder=where if isinstance(where, Path) else None,
            refresh=refresh,
            device=device,
            **vars(loading),
        )
    if as_json:
        print_json({"model": found.model, "corpus": items.name, **found.to_json()})
        return
    _show(found, found.model, ", ".join(found.devices))


def _show(found: CostEstimate, model: str, device: str) -> None:
    ahead = found.extraction
    counted, layout = ahead.counted, ahead.layout
    out.print(
        f"{counted.items:,} items, {_tokens(ahead)} through {model}: {len(layout.layers)} layers x {layout.width} "
        f"({layout.dtype}), pooling {', '.join(layout.poolings)}",
    )
    for modality, one in counted.tokens.items():
        if one.truncated or one.unreadable:
            out.print(
                f"of {one.read:,} {modality} items read: {one.truncated:,} too long, {one.unreadable:,} unreadable"
            )
    shards = f"{len(counted.shards):,} shard{'s' * (len(counted.shards) != 1)}"
    out.print(f"{size(ahead.store_bytes)} in {shards} of at most {layout.shard_rows:,} items, {ahead.files:,} files")
    if ahead.committed:
        out.print(f"{ahead.committed:,} of these items are in the store already; time and room are for the rest")
    low, high = ahead.between
    slowest = max(ahead.seconds, key=lambda part: ahead.seconds[part])
    parts = ", ".join(f"{part} {duration(seconds)}" for part, seconds in ahead.seconds.items())
    out.print(f"{duration(low)} to {duration(high)} on {device}, most of it {slowest} ({parts})")
    dtypes = list(next(iter(ahead.sizes.values())))
    sizes = [[pooling, *(size(of[dtype]) for dtype in dtypes)] for pooling, of in ahead.sizes.items()]
    out.print(table(("pooling", *dtypes), sizes, title=f"the arrays of these {len(layout.layers)} layers"))
    fits = {True: "fits", False: "DOES NOT FIT", None: "not known"}
    rooms = [
        [n.what, n.where, size(n.needed), "" if n.available is None else size(n.available), fits[n.fits]]
        for n in ahead.needs
    ]
    out.print(table(("room", "where", "needed", "free", ""), rooms))
    indexes = [
        [one.kind, size(one.disk), size(one.memory), _rate(one.alone), _rate(one.together), one.by or ""]
        for one in found.indexes
    ]
    columns = ("index", "file", "in memory", "queries/s, one by one", "64 at once", "times")
    out.print(table(columns, indexes, title=f"an index of one layer, {found.rows:,} rows"))


def _tokens(ahead: Estimate) -> str:
    counted = ahead.counted
    if not counted.error:
        return f"{round(counted.total_tokens):,} tokens"
    read = sum(one.read for one in counted.tokens.values())
    return (
        f"about {round(counted.total_tokens):,} tokens (\u00b1 {round(counted.error):,}, 95 %; "
        f"{read:,} items drawn at random were read)"
    )


def _rate(seconds: float | None) -> str:
    if seconds is None:
        return ""
    rate = 1 / seconds
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def duration(seconds: float) -> str:
    """Seconds for a person's eye."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
