"""hubstore append."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from hubstore.cli import options
from hubstore.cli.extract import print_extraction
from hubstore.cli.output import err
from hubstore.cli.progress import watching


def append(
    store: options.StoreArgument,
    corpus: options.CorpusArgument,
    parallel: options.ParallelOption = False,
    model: options.ModelOption = None,
    device: options.DevicesOption = "auto",
    readers: options.ReadersOption = None,
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
    """Add items to a store, read by the model and the settings that the store was made with.

    Killed at any moment, the same command goes on from the last committed shard.
    """
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
    from hubstore.extraction import append as run
    from hubstore.extraction.engines import check_engine, extraction_engine
    from hubstore.models import devices_of
    from hubstore.storage.location import location

    check_engine(engine, address)
    first, *others = devices_of(device)
    load = functools.partial(load_again_on, store=store, source=model, trust_remote_code=trust_remote_code)
    with err.status("loading the model"):
        loaded = load(first)
    again = functools.partial(load, store=location(store).absolute(), source=loaded.identity["source"])
    dealing = extraction_engine(engine, address, again, others)
    with watching(store.name) as watch:
        done = run(items, loaded, store, watch=watch, engine=dealing, processes=readers, ignore_space=ignore_space)
    print_extraction(done, items, as_json)


def load_again_on(device: str, store: Path, source: str | None, trust_remote_code: bool) -> Any:
    """A store's model on a device: what a worker process is told to do."""
    from hubstore.extraction import load_model_of
    from hubstore.store import StoreReader

    return load_model_of(StoreReader(store), source, device, trust_remote_code=trust_remote_code)
