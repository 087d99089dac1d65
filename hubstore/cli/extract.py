"""hubstore extract."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import typer
from rich.markup import escape

from hubstore.checks import check_number
from hubstore.cli import options
from hubstore.cli.output import err, out, print_json, table
from hubstore.cli.progress import watching
from hubstore.errors import StoreError
from hubstore.storage.location import shell_word


def extract(
    corpus: options.CorpusArgument,
    model: Annotated[str, typer.Option("--model", "-m", help="A model's folder or hub id.")],
    store: Annotated[
        Any,
        typer.Option(
            "--out", "-o", parser=options.place, metavar="STORE", help="The store to write, such as ntrex.hub."
        ),
    ],
    parallel: options.ParallelOption = False,
    pool: Annotated[
        str,
        typer.Option(
            "--pool",
            help="How an item becomes one row: last, mean, first; media or text: the mean over a medium's tokens or "
            "over those beside it; tokens: every token a row. Comma-separated.",
        ),
    ] = "mean",
    layers: Annotated[
        str, typer.Option("--layers", help="Comma-separated: 0,6,-1; final is after the final norm.")
    ] = "all",
    dtype: Annotated[str, typer.Option(help="The store's: auto, float16, bfloat16 or float32.")] = "auto",
    prefix: Annotated[str, typer.Option(help='Put before every text, such as "query: ".')] = "",
    template: Annotated[str, typer.Option(help="What the model reads; {text} is the item's text.")] = "{text}",
    media_template: Annotated[
        str, typer.Option(help="What goes with a picture or sound: {media} stands for it, {text} for its item's text.")
    ] = "{media}",
    previews: Annotated[
        bool, typer.Option("--previews", help="Keep thumbnails and short clips in the store, to show results with.")
    ] = False,
    max_tokens: Annotated[int | None, typer.Option(help="Cut longer texts here. The model's limit by default.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens in a batch, padding included.")] = None,
    media_tokens: Annotated[int | None, typer.Option(help="Tokens in a batch of pictures or sounds.")] = None,
    padding: Annotated[str, typer.Option(help="right or left, where batches are padded.")] = "right",
    batching: Annotated[
        str, typer.Option(help="packed (items end to end), padded, or auto: packed in half precision on a GPU.")
    ] = "auto",
    compile_blocks: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Compile the model's blocks. Where a long run gains, by default."),
    ] = None,
    memory: Annotated[float, typer.Option(help="GiB for a shard being assembled.")] = 1.0,
    compressor: Annotated[
        str, typer.Option(help="none, or blosc-lz4-bitshuffle (bfloat16: a quarter smaller, slower).")
    ] = "none",
    with_lens: Annotated[
        bool, typer.Option("--with-lens", help="Keep the unembedding too, so that `hubstore lens` needs no model.")
    ] = False,
    model_dtype: Annotated[str, typer.Option(help="What to compute in: auto, float32, bfloat16 or float16.")] = "auto",
    device: options.DevicesOption = "auto",
    readers: options.ReadersOption = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", help="A further model over the same language model, for another modality."),
    ] = None,
    stack: Annotated[
        str | None,
        typer.Option(help="Of a pair of towers: joint, text, image, audio; of a speech model: encoder, decoder."),
    ] = None,
    attention: Annotated[str | None, typer.Option(help="Attention implementation of transformers.")] = None,
    revision: Annotated[str | None, typer.Option("--model-revision", help="Revision of a hub's model.")] = None,
    trust_remote_code: options.TrustOption = False,
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
    ignore_space: options.IgnoreSpaceOption = False,
    engine: options.EngineOption = options.Engine.local,
    address: options.AddressOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Run a model over a corpus and keep every layer's hidden states in a store.

    Killed at any moment, the same command goes on from the last committed shard.
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
    from hubstore.extraction import extract as run
    from hubstore.extraction.engines import check_engine, extraction_engine
    from hubstore.models import devices_of

    check_engine(engine, address)
    settings = Settings(
        poolings=tuple(options.split_list(pool) or ()),
        layers=tuple(part.strip() for part in layers.split(",")),
        dtype=dtype,
        template=prefix.replace("{text}", "") + "{text}" if prefix else template,
        media_template=media_template,
        previews=previews,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        media_tokens=media_tokens,
        padding=padding,  # type: ignore[arg-type]  # checked when the settings are resolved
        batching=batching,
        compile={None: "auto", True: "on", False: "off"}[compile_blocks],
        memory_budget=int(check_number("memory", memory, above=0) * (1 << 30)),
        compressor=compressor,
    )
    first, *others = devices_of(device)
    load = functools.partial(
        load_on,
        name=model,
        revision=revision,
        dtype=model_dtype,
        attention=attention,
        trust_remote_code=trust_remote_code,
        head=with_lens,
        also=tuple(also or ()),
        stack=stack,
    )
    with err.status(f"loading {model}"):
        loaded = load(first)
    again = functools.partial(load, name=loaded.identity["source"], also=tuple(loaded.identity.get("also", ())))
    dealing = extraction_engine(engine, address, again, others)
    with watching(store.name) as watch:
        done = run(
            items,
            loaded,
            store,
            settings,
            watch=watch,
            engine=dealing,
            processes=readers,
            ignore_space=ignore_space,
        )
    if with_lens:
        from hubstore.lens import keep_lens
        from hubstore.store import StoreReader

        keep_lens(StoreReader(store), loaded)
    print_extraction(done, items, as_json)


def load_on(device: str, **options: Any) -> Any:
    """A model on a device: what a worker process is told to do."""
    from hubstore.models import load_model

    return load_model(device=device, **options)


def print_extraction(done: Any, corpus: Any, as_json: bool) -> None:
    """What an extraction did: for people with what to type next, for programs as JSON."""
    from hubstore.extraction import checks_of
    from hubstore.store import StoreReader

    store = StoreReader(done.path)
    progress = done.progress
    summary = {
        "store": str(done.path),
        "items": done.items,
        "extracted": done.extracted,
        "resumed": done.resumed,
        "layers": list(store.layers),
        "poolings": list(store.poolings),
        "dtype": store.layout.dtype,
        "partitions": {name: partition.size for name, partition in store.partitions.items()},
        "rows_read": corpus.skipped.rows,
        "skipped": corpus.skipped.count + progress.skipped,
        "truncated": progress.truncated,
        "seconds": round(progress.seconds, 3),
        "tokens": progress.tokens,
        "useful_tokens": round(progress.useful, 4),
    }
    if as_json:
        print_json(summary)
        return
    if not done.extracted:
        out.print(f"{done.path} is complete already: {done.items:,} items")
        return
    if corpus.skipped.rows:
        rows = corpus.skipped.rows
        out.print(f"{rows:,} {'row' if rows == 1 else 'rows'} read from {corpus.name}", markup=False)
    if done.resumed:
        out.print(f"{done.path}: an interrupted run was gone on with, and is finished", markup=False)
    rate = progress.seconds or 1.0
    out.print(
        f"{done.path}: {done.items:,} items x {len(store.layers)} layers x {store.width} ({store.layout.dtype}), "
        f"pooling {', '.join(store.poolings)}"
    )
    out.print(
        f"{done.extracted:,} items in {progress.seconds:.1f} s: {done.extracted / rate:,.1f} items/s, "
        f"{progress.tokens / rate:,.0f} tokens/s, {progress.useful:.0%} of them no padding"
    )
    out.print(table(("partition", "items"), summary["partitions"].items()))
    if progress.truncated:
        out.print(f"[yellow]note:[/] {progress.truncated:,} items were longer than the limit and cut")
    for modality, check in checks_of(store.attributes).items():
        if check.refused:
            which = {
                "padded": "padded, since the model cannot be packed",
                "alike": f"of {modality} items of one {'length' if modality == 'text' else 'shape'} only",
                "single": "of one item each",
            }[check.batching]
            out.print(f"[yellow]note:[/] batches of {modality} items are {which}: {escape(check.refused)}")
    if summary["skipped"]:
        out.print(f"[yellow]note:[/] {summary['skipped']:,} rows were skipped; the first:")
        for message in (*corpus.skipped.messages, *progress.broken)[:5]:
            out.print(f"  {message}", markup=False)
    path = shell_word(done.path)
    out.print(
        f"next: hubstore index {path}; hubstore query {path} --id ID; hubstore report {path}",
        markup=False,
        soft_wrap=True,
    )
