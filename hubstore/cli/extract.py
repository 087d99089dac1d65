"""hubstore extract."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hubstore.cli import corpora, options
from hubstore.cli.corpora import CorpusArgument, CorpusOptions, RunOptions, SettingsOptions
from hubstore.cli.output import labeled, out, print_json, table
from hubstore.cli.progress import watching
from hubstore.options import ModelOptions
from hubstore.storage.location import shell_word

BEFORE = {"loading": "loading the model", "planning": "planning", "checking": "self-check"}
"""What a run does before it extracts, in words."""


@options.with_options
def extract(
    corpus: CorpusArgument,
    model: Annotated[str, typer.Option("--model", "-m", help="A model's folder or hub id.")],
    store: Annotated[
        Any,
        typer.Option(
            "--out", "-o", parser=options.place, metavar="STORE", help="The store to write, such as ntrex.hub."
        ),
    ],
    *,
    settings: SettingsOptions,
    with_lens: Annotated[
        bool, typer.Option("--with-lens", help="Keep the unembedding too, so that `hubstore lens` needs no model.")
    ] = False,
    loading: ModelOptions,
    run: RunOptions,
    reading: CorpusOptions,
    as_json: options.JsonOption = False,
) -> None:
    """Run a model over a corpus and keep every layer's hidden states in a store.

    Killed at any moment, the same command goes on from the last committed shard.
    """
    from hubstore import api

    items = corpora.open_items(corpus, reading)
    with watching(store.name, model, stoppable=run.engine == options.Engine.local) as watch:
        found = api.extract(
            items,
            model,
            store,
            settings=settings.settings(),
            with_lens=with_lens,
            watch=watch,
            **vars(run),
            **vars(loading),
        )
    print_extraction(found, items, as_json)


def print_extraction(store: Any, corpus: Any, as_json: bool) -> None:
    """What the extraction of a store did: for people with what to type next, for programs as JSON."""
    from hubstore.extraction import checks_of

    done = store.extraction
    progress = done.progress
    summary = {
        "store": str(done.path),
        "items": done.items,
        "extracted": done.extracted,
        "resumed": done.resumed,
        "shards_missing": done.missing,
        "layers": list(store.layers),
        "poolings": list(store.poolings),
        "dtype": store.layout.dtype,
        "partitions": {name: partition.size for name, partition in store.partitions.items()},
        "rows_read": corpus.skipped.rows,
        "skipped": corpus.skipped.count + progress.skipped,
        "truncated": progress.truncated,
        "seconds": round(progress.seconds, 3),
        "stages": {stage: round(seconds, 3) for stage, seconds in done.stages.items()},
        "tokens": progress.tokens,
        "useful_tokens": round(progress.useful, 4),
    }
    if as_json:
        print_json(summary)
        return
    if done.missing:
        out.print(f"{done.path}: this part is done; other parts have {done.missing:,} shards still to commit")
    if not done.extracted and not done.missing:
        out.print(f"{done.path} is complete already: {done.items:,} items")
        return
    if not done.extracted:
        return
    if corpus.skipped.rows:
        rows = corpus.skipped.rows
        out.print(f"{rows:,} {'row' if rows == 1 else 'rows'} read from {corpus.name}")
    if done.resumed and not done.missing:
        out.print(f"{done.path}: an interrupted run was gone on with, and is finished")
    rate = progress.seconds or 1.0
    out.print(
        f"{done.path}: {done.items:,} items x {len(store.layers)} layers x {store.width} ({store.layout.dtype}), "
        f"pooling {', '.join(store.poolings)}"
    )
    out.print(
        f"{done.extracted:,} items in {progress.seconds:.1f} s: {done.extracted / rate:,.1f} items/s, "
        f"{progress.tokens / rate:,.0f} tokens/s, {progress.useful:.0%} of them no padding"
    )
    if done.stages:
        others = ", ".join(f"{BEFORE[stage]} {seconds:.1f} s" for stage, seconds in done.stages.items())
        out.print(f"apart from that: {others}")
    out.print(table(("partition", "items"), summary["partitions"].items()))
    if progress.truncated:
        out.print(labeled("note", f"{progress.truncated:,} items were longer than the limit and cut"))
    for modality, check in checks_of(store.attributes).items():
        if check.refused:
            which = {
                "padded": "padded, since the model cannot be packed",
                "same_shape": f"of {modality} items of one {'length' if modality == 'text' else 'shape'} only",
                "single": "of one item each",
            }[check.batching]
            out.print(labeled("note", f"batches of {modality} items are {which}: {check.refused}"))
    if summary["skipped"]:
        out.print(labeled("note", f"{summary['skipped']:,} rows were skipped; the first:"))
        for message in (*corpus.skipped.messages, *progress.broken)[:5]:
            out.print(f"  {message}")
    path = shell_word(done.path)
    out.print(
        f"next: hubstore index {path}; hubstore query {path} --id ID; hubstore report {path}",
        soft_wrap=True,
    )
