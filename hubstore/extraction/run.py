"""`extract` and `append`: from a corpus and a model to committed shards, and on from where a run was stopped."""

from __future__ import annotations

import os
from collections.abc import Callable

from hubstore.corpus import Corpus
from hubstore.errors import ModelError
from hubstore.extraction.job import Callbacks, Extraction, Job
from hubstore.extraction.parts import Part, run_part
from hubstore.extraction.plan import (
    GENERATION_ITEMS,
)
from hubstore.extraction.readers import Processes
from hubstore.extraction.resume import (
    Begun,
    begin_append,
    begin_extract,
)
from hubstore.extraction.settings import Settings
from hubstore.extraction.workers import Engine
from hubstore.models import Model
from hubstore.storage import Url
from hubstore.store import StoreReader
from hubstore.store.files import store_files
from hubstore.store.layout import HIDDEN, ROOT


def extract(  # noqa: PLR0913
    corpus: Corpus,
    model: Model,
    path: str | os.PathLike[str] | Url,
    settings: Settings | None = None,
    *,
    watch: Callbacks | None = None,
    generation_items: int = GENERATION_ITEMS,
    engine: Engine | None = None,
    processes: Processes = None,
    ignore_space: bool = False,
    part: str | None = None,
) -> Extraction:
    """Extract a corpus into a new store, or go on with the store that an earlier run of the same left.

    Args:
        corpus: the items.
        model: the model; it stays as it is.
        path: folder of the store, or a URL: s3://bucket/x.hub.
        settings: poolings, layers, dtype, template and so on.
        watch: called as the run goes.
        generation_items: most items to order at once.
        engine: further devices, of this host (`Workers`) or of a cluster; the store is the same to the byte.
        processes: that tokenize texts and read images and audio for each device; by default as many as there are CPUs
            to spare for a GPU, and none for a CPU, where reading goes on beside the model in one process. Or those that
            were started before the model was loaded: `hubstore.extraction.loading.readers_ahead`.
        ignore_space: begin even where the disk has no room for what was planned.
        part: "3/16": do the third of sixteen parts, whose processes share the store; see `hubstore.extraction.parts`.

    Raises:
        StoreExistsError: something else is at `path`.
        StoreLockedError: another process writes there.
        CorpusError, ModelError, SelfCheckError, NonFiniteError, StoreError: see each; what was committed stays.
    """
    settings = (settings or Settings()).resolve(model)
    storage = store_files(path)
    storage.check_vacant((ROOT, "plan", "commits", HIDDEN))
    layout = settings.layout(model.width)
    watching = watch or Callbacks()
    job = Job(storage, corpus, model, settings, layout, watching, generation_items, engine, processes, ignore_space)
    return _run(job, part, lambda: begin_extract(storage, job.identity, corpus))


def append(  # noqa: PLR0913
    corpus: Corpus,
    model: Model,
    path: str | os.PathLike[str] | Url,
    *,
    watch: Callbacks | None = None,
    generation_items: int = GENERATION_ITEMS,
    engine: Engine | None = None,
    processes: Processes = None,
    ignore_space: bool = False,
    part: str | None = None,
) -> Extraction:
    """Add a corpus to a store, with the settings and the model that the store was made with.

    Where an earlier run of the same corpus was interrupted, go on with it.

    Raises:
        StoreNotFoundError: no store is at `path`.
        ModelError: the model is not the store's.
        StoreError: another corpus of the store is unfinished; the message names it, and what finishes it.
    """
    storage = store_files(path)
    store = StoreReader(path, storage)
    require_same_model(store, model)
    settings = Settings.of_store(store.attributes).resolve(model)
    layout, watching = store.layout, watch or Callbacks()
    job = Job(storage, corpus, model, settings, layout, watching, generation_items, engine, processes, ignore_space)
    return _run(job, part, lambda: begin_append(storage, job.identity, corpus))


def _run(job: Job, part: str | None, begin: Callable[[], Begun]) -> Extraction:
    if part is not None:
        return run_part(job, Part.of(part), begin)
    with job.storage.lock():
        return job.run(begin())


def require_same_model(store: StoreReader, model: Model) -> None:
    """ModelError unless the model is the one that the store was made with.

    Weights and tokenizer must be the same, and for every modality that the model reads and the store was made to
    read, the weights before the trunk and the processor.
    """
    made_with = store.attributes["model"]
    loaded, recorded = model.identity, made_with
    differ = [what for what in ("weights", "tokenizer", "stack") if recorded.get(what) != loaded.get(what)]
    media, read = recorded.get("media", {}), loaded.get("media", {})
    for modality in media.keys() & read.keys():
        differ += [
            f"{modality} {what}" for what in ("weights", "processor") if media[modality][what] != read[modality][what]
        ]
    if differ:
        raise ModelError(
            f"{store.path} was made with {made_with['id']}, whose {' and '.join(differ)} differ from those of "
            f"{model.identity['id']}; use the model that the store was made with"
        )
