"""hubstore plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubstore.checks import check_number
from hubstore.cli import options
from hubstore.cli.output import err, out, print_json, size, table
from hubstore.errors import StoreError

if TYPE_CHECKING:
    from hubstore.extraction.estimate import Estimate
    from hubstore.planning import Plan


def plan(
    corpus: options.CorpusArgument,
    model: Annotated[str, typer.Option("--model", "-m", help="A model's folder or hub id.")],
    store: Annotated[
        str, typer.Option("--out", "-o", help="Where the store would be: its disk is looked at. Here by default.")
    ] = ".",
    parallel: options.ParallelOption = False,
    pool: Annotated[str, typer.Option("--pool", help="As for extract; comma-separated.")] = "mean",
    layers: Annotated[str, typer.Option("--layers", help="As for extract; comma-separated.")] = "all",
    dtype: Annotated[str, typer.Option(help="The store's: auto, float16, bfloat16 or float32.")] = "auto",
    prefix: Annotated[str, typer.Option(help='Put before every text, such as "query: ".')] = "",
    template: Annotated[str, typer.Option(help="What the model reads; {text} is the item's text.")] = "{text}",
    media_template: Annotated[str, typer.Option(help="What goes with a picture or sound.")] = "{media}",
    max_tokens: Annotated[int | None, typer.Option(help="Cut longer texts here.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens in a batch, padding included.")] = None,
    memory: Annotated[float, typer.Option(help="GiB for a shard being assembled.")] = 1.0,
    compressor: Annotated[str, typer.Option(help="none, or blosc-lz4-bitshuffle.")] = "none",
    model_dtype: Annotated[str, typer.Option(help="What to compute in: auto, float32, bfloat16 or float16.")] = "auto",
    device: options.DevicesOption = "auto",
    also: Annotated[
        list[str] | None, typer.Option("--also", help="A further model over the same language model.")
    ] = None,
    stack: Annotated[str | None, typer.Option(help="Which of a model's stacks of blocks.")] = None,
    trust_remote_code: options.TrustOption = False,
    again: Annotated[
        bool, typer.Option("--again", help="Measure this machine again; else what was measured is kept.")
    ] = False,
    text_column: options.TextOption = None,
    id_column: options.IdOption = None,
    concept_column: options.ConceptOption = None,
    language_column: options.LanguageColumnOption = None,
    language_tag: options.LanguageTagOption = None,
    image_column: options.ImageColumnOption = None,
    audio_column: options.AudioColumnOption = None,
    speech: options.SpeechOption = False,
    metadata: options.MetadataOption = None,
    modality: options.ModalityOption = None,
    concept_from: options.ConceptFromOption = None,
    delimiter: options.DelimiterOption = None,
    quotes: options.QuotesOption = None,
    config: options.ConfigOption = None,
    split: options.SplitOption = None,
    corpus_revision: options.RevisionOption = None,
    limit: options.LimitOption = None,
    on_error: options.OnErrorOption = options.OnError.stop,
    as_json: options.JsonOption = False,
) -> None:
    """Say what an extraction would take: items, tokens, bytes, time, and whether there is room. Nothing is extracted.

    The corpus is read once, and the model runs for a few seconds, to see how fast this machine is.
    """
    if prefix and template != "{text}":
        raise StoreError("give --prefix or --template, not both")
    items = options.open_items(
        corpus,
        parallel=parallel,
        limit=limit,
        on_error=on_error,
        text=text_column,
        id=id_column,
        concept=concept_column,
        language=language_column,
        language_tag=language_tag,
        image=image_column,
        audio=audio_column,
        speech=speech,
        metadata=metadata,
        modality=modality,
        concept_from=concept_from,
        delimiter=delimiter,
        quotes=quotes,
        config=config,
        split=split,
        revision=corpus_revision,
    )
    from hubstore.extraction import Settings
    from hubstore.models import devices_of, load_model
    from hubstore.planning import plan_extraction
    from hubstore.storage.location import location

    where = location(store)
    settings = Settings(
        poolings=tuple(options.split_list(pool) or ()),
        layers=tuple(part.strip() for part in layers.split(",")),
        dtype=dtype,
        template=prefix.replace("{text}", "") + "{text}" if prefix else template,
        media_template=media_template,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        memory_budget=int(check_number("memory", memory, above=0) * (1 << 30)),
        compressor=compressor,
    )
    devices = devices_of(device)
    with err.status(f"loading {model}"):
        loaded = load_model(
            model,
            device=devices[0],
            dtype=model_dtype,
            also=tuple(also or ()),
            stack=stack,
            trust_remote_code=trust_remote_code,
        )
    with err.status("reading the corpus and measuring this machine"):
        folder = where if isinstance(where, Path) else None
        found = plan_extraction(items, loaded, settings, folder=folder, devices=len(devices), again=again)
    if as_json:
        print_json({"model": loaded.identity["id"], "corpus": items.name, **found.to_json()})
        return
    _show(found, loaded.identity["id"], ", ".join(devices))


def _show(found: Plan, model: str, device: str) -> None:
    ahead = found.extraction
    counted, layout = ahead.counted, ahead.layout
    out.print(
        f"{counted.items:,} items, {_tokens(ahead)} through {model}: {len(layout.layers)} layers x {layout.width} "
        f"({layout.dtype}), pooling {', '.join(layout.poolings)}",
        markup=False,
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
        [n.what, n.where, size(n.needed), "" if n.there is None else size(n.there), fits[n.fits]] for n in ahead.needs
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
