"""`extract` and `append`: from a corpus and a model to committed shards, and on from where a run was stopped."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import hubstore.version
from hubstore.corpus import Corpus
from hubstore.errors import CorpusError, HubstoreError, ModelError
from hubstore.extraction.batching import BatchingChecks
from hubstore.extraction.checks import SelfCheck, checks_of, described_checks
from hubstore.extraction.estimate import check_disk_space
from hubstore.extraction.generations import Generations
from hubstore.extraction.pipeline import Progress, run_shards
from hubstore.extraction.plan import (
    GENERATION_ITEMS,
    AlreadyAppended,
    NoItemsError,
    Plan,
    PlannedShard,
    discard_plan,
    make_plan,
)
from hubstore.extraction.prepare import Work
from hubstore.extraction.readers import processes_for, reading_processes, start_for
from hubstore.extraction.resume import (
    Begun,
    begin_append,
    begin_extract,
    check_columns,
    fingerprints_of_appended,
    is_described,
)
from hubstore.extraction.settings import ResolvedSettings, Settings
from hubstore.extraction.token_counts import TokenCounts
from hubstore.extraction.workers import Engine
from hubstore.forward import Batching
from hubstore.forward.capture import Capture
from hubstore.models import Model
from hubstore.reading.processes import ReadingProcesses
from hubstore.storage import Location, Storage, Url
from hubstore.store import DTYPES, Layout, StoreReader, write_metadata
from hubstore.store.attributes import read_attributes, write_root
from hubstore.store.columns import named_types
from hubstore.store.files import store_files
from hubstore.store.layout import HIDDEN, ROOT
from hubstore.store.log import read_commits, write_log
from hubstore.store.metadata import wrong_metadata


@dataclass(frozen=True)
class Extraction:
    """What a run did.

    Args:
        path: the store.
        items: items in the store now.
        extracted: items extracted by this run; 0 when there was nothing left to do.
        resumed: whether the run went on with an unfinished one.
        progress: tokens, times and rates of this run, of all its generations.
        self_check: what the self-check measured, when this run made one.
        plan: the last generation's plan: partitions, concepts with a single item.
    """

    path: Location
    items: int
    extracted: int
    resumed: bool
    progress: Progress
    self_check: SelfCheck | None
    plan: Plan | None


@dataclass(frozen=True)
class Callbacks:
    """Where a run tells how far it is; every call may be left out."""

    loaded: Callable[[Model], None] = lambda model: None
    planned: Callable[[Plan], None] = lambda plan: None
    checked: Callable[[SelfCheck], None] = lambda check: None
    progress: Callable[[Progress], None] = lambda done: None


def extract(  # noqa: PLR0913
    corpus: Corpus,
    model: Model,
    path: str | os.PathLike[str] | Url,
    settings: Settings | None = None,
    *,
    watch: Callbacks | None = None,
    generation_items: int = GENERATION_ITEMS,
    engine: Engine | None = None,
    processes: int | None = None,
    ignore_space: bool = False,
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
            to spare for a GPU, and none for a CPU, where reading goes on beside the model in one process.
        ignore_space: begin even where the disk has no room for what was planned.

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
    job = _Job(storage, corpus, model, settings, layout, watching, generation_items, engine, processes, ignore_space)
    with storage.lock():
        return job.run(begin_extract(storage, job.identity, corpus))


def append(
    corpus: Corpus,
    model: Model,
    path: str | os.PathLike[str] | Url,
    *,
    watch: Callbacks | None = None,
    generation_items: int = GENERATION_ITEMS,
    engine: Engine | None = None,
    processes: int | None = None,
    ignore_space: bool = False,
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
    job = _Job(storage, corpus, model, settings, layout, watching, generation_items, engine, processes, ignore_space)
    with storage.lock():
        return job.run(begin_append(storage, job.identity, corpus))


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


@dataclass(frozen=True)
class _Job:
    storage: Storage
    corpus: Corpus
    model: Model
    settings: ResolvedSettings
    layout: Layout
    watch: Callbacks
    generation_items: int
    engine: Engine | None
    processes: int | None
    ignore_space: bool

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        keys = ("id", "weights", "tokenizer", "dtype", "attention", "media", "stack")
        model = {key: self.model.identity[key] for key in keys if key in self.model.identity}
        return {
            "settings": self.settings.to_json(),
            "model": model,
            "corpus": dict(self.corpus.source),
            "generation_items": self.generation_items,
        }

    def run(self, begun: Begun) -> Extraction:
        """Extract what is left of the corpus: generation by generation, in one pass over it."""
        job = self
        if begun.attributes is not None:
            job = replace(self, layout=Layout.from_json(begun.attributes))
            for key, content in wrong_metadata(self.storage, job.layout, begun.attributes, begun.commits):
                self.storage.write(key, content)
            check_columns(self.storage.root, begun.attributes, self.corpus, begun.number)
        rows = job.layout.shard_rows
        generations = Generations(
            self.storage, self.corpus, begun.entry, begun.commits, rows, begun.plan, self.generation_items
        )
        with contextlib.closing(generations):
            return job._run(begun, generations)

    def _run(self, begun: Begun, generations: Generations) -> Extraction:
        resumed = begun.plan is not None or (begun.entry is not None and generations.next() is not None)
        committed = {commit.shard for commit in begun.commits}
        capture = Capture(self.model, self.layout.layers, self.layout.poolings, DTYPES[self.layout.dtype])
        checks = BatchingChecks(self.storage, capture, self.settings, self.watch.checked)
        done, last = Progress(), None
        plan = begun.plan or self._plan(generations, begun)
        while plan is not None:
            left = [shard for shard in plan.shards if shard.shard not in committed]
            with self._reading(modality for modality, _, _ in plan.partitions) as readers:
                with self._refused_whole(begun=resumed or last is not None):
                    self._check_disk_space(left)
                    self.watch.planned(plan)
                    if self.engine is None:  # they start while the model is checked
                        start_for(readers, ((modality, items) for modality, _, items in plan.partitions))
                    batching = self._check(checks, plan, begun.number)
                now = self._run_plan(plan, left, batching, capture, readers)
            discard_plan(self.storage)
            whole = plan is not begun.plan and len(left) == len(plan.shards) and not now.skipped
            generations.extracted(plan, whole=whole)
            done, last = done.then(now), plan
            plan = self._plan(generations, begun)
        commits = read_commits(self.storage, self.layout)
        write_log(self.storage, self.layout, commits)
        items = sum(commit.items for commit in commits)
        if not items:
            raise CorpusError(f"none of {done.skipped} items can be read; the first: {next(iter(done.broken), None)}")
        return Extraction(self.storage.root, items, done.items, resumed, done, checks.shown.get("text"), last)

    def _run_plan(
        self,
        plan: Plan,
        left: Sequence[PlannedShard],
        batching: Mapping[str, Batching],
        capture: Capture,
        readers: ReadingProcesses,
    ) -> Progress:
        skip = self.corpus.skip_errors
        work = Work(self.storage, self.layout, self.settings, plan, batching, skip, self.processes)
        total = sum(shard.stop - shard.start for shard in left)
        if self.engine is None:
            return run_shards(work, capture, left, total=total, progress=self.watch.progress, readers=readers)
        return self.engine.run_shards(work, capture, left, total=total, progress=self.watch.progress)

    def _reading(self, modalities: Iterable[str]) -> ReadingProcesses:
        processes = processes_for(self.model.device, self.processes)
        return reading_processes(self.model, self.settings, modalities, processes)

    @contextlib.contextmanager
    def _refused_whole(self, *, begun: bool) -> Iterator[None]:
        """What is refused leaves no plan behind, unless an earlier run had begun."""
        try:
            yield
        except HubstoreError:
            if not begun:
                discard_plan(self.storage)
            raise

    def _check_disk_space(self, left: Sequence[PlannedShard]) -> None:
        if not self.ignore_space:
            check_disk_space(self.storage, self.layout, left)

    def _plan(self, generations: Generations, begun: Begun) -> Plan | None:
        """The next generation's plan; None where nothing is left."""
        start = generations.next()
        if start is None:
            return None
        if begun.attributes is not None and begun.entry is None:
            start = replace(start, appended=fingerprints_of_appended(begun.attributes))
        with self._reading(self.model.modalities) as readers:
            count = TokenCounts(self.corpus, self.model, readers)
            try:
                plan = make_plan(
                    self.storage,
                    self.layout,
                    generations.stream(start),
                    start,
                    self.identity,
                    known_ids=generations.known_ids(),
                    count=count if "tokens" in self.layout.poolings else None,
                    memory_budget=self.settings.memory_budget,
                    generation_items=self.generation_items,
                    columns=self.corpus.columns,
                )
            except AlreadyAppended:
                return None
            except NoItemsError as error:
                if start.rows is not None or not start.corpus_offset or not error.skipped:
                    raise
                self._describe_end(begun.number)
                return None
        generations.planned(plan)
        for modality, _, _ in plan.partitions:
            if modality not in self.model.modalities:
                discard_plan(self.storage)
                self.model.require_modality(modality)
        return plan

    def _check(self, checks: BatchingChecks, plan: Plan, number: int) -> Mapping[str, Batching]:
        """By modality, how to make batches: from the store, or from self-checks that then go into the store."""
        described = read_attributes(self.storage) if self.storage.exists(ROOT) else None
        if described is not None and is_described(described, plan.generation):
            return checks.recorded(plan, described)
        found = checks.check(plan, described)
        self._describe(plan, described, found, number)
        return {modality: check.to_batching() for modality, check in found.items()}

    def _describe(
        self, plan: Plan, described: Mapping[str, Any] | None, checks: Mapping[str, SelfCheck], number: int
    ) -> None:
        """Write the store's metadata for a new generation: everything that is known before its first shard.

        `number` is that of its corpus, which others may have been appended to since.
        """
        corpora = list(described["corpora"]) if described else []
        batching = {modality: check.to_batching().to_json() for modality, check in checks.items()}
        summary = {**plan.summary(), "batching": batching}
        if plan.corpus_offset:
            entry = dict(corpora[number])
            entry["generations"] = [*entry["generations"], summary]
        else:
            entry = {"name": self.corpus.name, "identity": self.identity, "generations": [summary]}
        entry |= {
            "items": entry.get("items", 0) + plan.items,
            "generation": plan.generation,
            "more": not plan.last,
        }
        corpora[number : number + 1] = [entry]
        last = plan.shards[-1]
        rows = last.shard * self.layout.shard_rows + last.stop - last.start
        token_rows = last.first_token_shard * self.layout.shard_rows + last.tokens
        attributes = (
            dict(described)
            if described
            else {
                "model": dict(self.model.identity),
                "settings": self.settings.to_json(),
                "hubstore": hubstore.version.__version__,
                **({"columns": named_types(self.corpus.columns)} if self.corpus.columns else {}),
            }
        )
        attributes |= described_checks({**checks_of(attributes), **checks})
        write_metadata(self.storage, self.layout, {**attributes, "corpora": corpora}, rows, token_rows)

    def _describe_end(self, number: int) -> None:
        """What was left of a corpus has no item that can be read: it ends with the generation before."""
        described = read_attributes(self.storage)
        corpora = [{**one, "more": False} if i == number else one for i, one in enumerate(described["corpora"])]
        write_root(self.storage, {**described, "corpora": corpora})
