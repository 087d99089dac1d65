"""hubstore append."""

from __future__ import annotations

from hubstore.cli import corpora, options
from hubstore.cli.corpora import CorpusArgument, CorpusOptions, RunOptions
from hubstore.cli.extract import print_extraction
from hubstore.cli.progress import watching


@options.with_options
def append(
    store: options.StoreArgument,
    corpus: CorpusArgument,
    *,
    model: options.ModelOption = None,
    trust_remote_code: options.TrustOption = False,
    run: RunOptions,
    reading: CorpusOptions,
    as_json: options.JsonOption = False,
) -> None:
    """Add items to a store, read by the model and the settings that the store was made with.

    Killed at any moment, the same command goes on from the last committed shard.
    """
    from hubstore import api

    items = corpora.open_items(corpus, reading)
    with watching(store.name, "the model", stoppable=run.engine == options.Engine.local) as watch:
        found = api.append(items, store, model=model, trust_remote_code=trust_remote_code, watch=watch, **vars(run))
    print_extraction(found, items, as_json)
