"""One run of an extraction: it plans a generation, checks the model on it, and extracts its shards."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import hubstore.version
from hubstore.corpus import Corpus
from hubstore.errors import CorpusError, HubstoreError, StoppedError
from hubstore.extraction.batching import BatchingChecks
from hubstore.extraction.checks import SelfCheck, checks_of, described_checks
from hubstore.extraction.estimate import check_disk_space
from hubstore.extraction.generations import Generations
from hubstore.extraction.pipeline import Progress, run_shards
from hubstore.extraction.plan import (
    AlreadyAppended,
    NoItemsError,
    Plan,
    PlannedShard,
    discard_plan,
    make_plan,
)
from hubstore.extraction.prepare import Work
from hubstore.extraction.readers import Processes, media_ahead, processes_for, reading_processes, start_for
from hubstore.extraction.resume import (
    Begun,
    check_columns,
    fingerprints_of_appended,
    is_described,
)
from hubstore.extraction.settings import ResolvedSettings
from hubstore.extraction.token_counts import TokenCounts
from hubstore.extraction.workers import Engine
from hubstore.forward import Batching
from hubstore.forward.capture import Capture
from hubstore.models import Model
from hubstore.reading.processes import Nursery, ReadingProcesses
from hubstore.storage import Location, Storage
from hubstore.store import DTYPES, Layout, write_metadata
from hubstore.store.attributes import read_attributes, write_root
from hubstore.store.columns import named_types
from hubstore.store.layout import ROOT, commit_key
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
        missing: shards of the generation that other parts of the run have not committed yet.
        stages: seconds of what comes before the extraction itself: "loading" the model, where it was loaded for it,
            "planning" and "checking".
    """

    path: Location
    items: int
    extracted: int
    resumed: bool
    progress: Progress
    self_check: SelfCheck | None
    plan: Plan | None
    missing: int = 0
    stages: Mapping[str, float] = field(default_factory=dict)


@contextlib.contextmanager
def timed(stages: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds that this lasts to those of a stage."""
    began = time.perf_counter()
    try:
        yield
    finally:
        stages[stage] = stages.get(stage, 0.0) + time.perf_counter() - began


@dataclass(frozen=True)
class Callbacks:
    """Where a run tells how far it is, and asks whether to `stop` after the shard in hand; all may be left out."""

    loaded: Callable[[Model], None] = lambda model: None
    planned: Callable[[Plan], None] = lambda plan: None
    checked: Callable[[SelfCheck], None] = lambda check: None
    progress: Callable[[Progress], None] = lambda done: None
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Job:
    """One run: what it is asked for, and where. Its methods are called with the store locked.

    Args: as of `extract`.
    """

    storage: Storage
    corpus: Corpus
    model: Model
    settings: ResolvedSettings
    layout: Layout
    watch: Callbacks
    generation_items: int
    engine: Engine | None
    processes: Processes
    ignore_space: bool

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        """What is asked for, as the store keeps it: a run that goes on must ask for the same."""
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
        job, generations = self._on(begun)
        reads_media = bool(self.model.adapters) and self.engine is None
        with (
            contextlib.closing(generations),
            media_ahead(self.model.device, self.processes, reads_media=reads_media) as processes,
        ):
            job = replace(job, processes=processes)
            with job._reading(self.model.modalities) as readers:
                return job._run(begun, generations, readers)

    def plan_next(self, begun: Begun) -> Plan | None:
        """Plan the next generation, check the model on it and describe it; None where none is left.

        Nothing of it is extracted.
        """
        job, generations = self._on(begun)
        with contextlib.closing(generations), job._reading(self.model.modalities) as readers:
            plan = begun.plan or job._plan(generations, begun, readers)
            if plan is None:
                return None
            with job._refused_whole(begun=bool(begun.plan or begun.commits)):
                job._check_disk_space(plan.shards)
                job._check(job._checks(job._capture()), plan, begun.number)
        return plan

    def run_planned(self, begun: Begun, shards: Sequence[PlannedShard]) -> Progress:
        """Extract shards of a generation that is described, beside other writers: those that none has committed."""
        assert begun.attributes is not None
        assert begun.plan is not None
        job, plan = replace(self, layout=Layout.from_json(begun.attributes)), begun.plan
        capture = job._capture()
        batching = job._checks(capture).recorded(plan, begun.attributes)
        with job._reading(modality for modality, _, _ in plan.partitions) as readers:
            job._check_disk_space(shards)
            self.watch.planned(plan)
            return job._run_plan(plan, shards, batching, capture, readers, shared=True)

    def ended(self, done: Progress, plan: Plan | None, **known: Any) -> Extraction:
        """What a run did of which nothing more is to do, or nothing more by this process."""
        commits = read_commits(self.storage, self.layout)
        if not known.get("missing"):
            write_log(self.storage, self.layout, commits)
        items = sum(commit.items for commit in commits)
        if not items and not known.get("missing"):
            raise CorpusError(f"none of {done.skipped} items can be read; the first: {next(iter(done.broken), None)}")
        known = {"resumed": False, "self_check": None, **known}
        return Extraction(path=self.storage.root, items=items, extracted=done.items, progress=done, plan=plan, **known)

    def check_stopped(self) -> None:
        """StoppedError where the run is to end now."""
        if self.watch.stop():
            raise StoppedError(
                f"{self.storage.root}: ended as it was asked to, after the shard in hand; what was committed is kept, "
                "and the same command goes on from there"
            )

    def _on(self, begun: Begun) -> tuple[Job, Generations]:
        """The job with the layout that the store has, and the generations that are left."""
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
        return job, generations

    def _capture(self) -> Capture:
        return Capture(self.model, self.layout.layers, self.layout.poolings, DTYPES[self.layout.dtype])

    def _checks(self, capture: Capture) -> BatchingChecks:
        return BatchingChecks(self.storage, capture, self.settings, self.watch.checked)

    def _run(self, begun: Begun, generations: Generations, readers: ReadingProcesses) -> Extraction:
        """Every generation that is left; the same processes count their tokens and read their items."""
        resumed = begun.plan is not None or (begun.entry is not None and generations.next() is not None)
        committed = {commit.shard for commit in begun.commits}
        capture = self._capture()
        checks = self._checks(capture)
        stages: dict[str, float] = {}
        done, last = Progress(), None
        with timed(stages, "planning"):
            plan = begun.plan or self._plan(generations, begun, readers)
        while plan is not None:
            left = [shard for shard in plan.shards if shard.shard not in committed]
            with self._refused_whole(begun=resumed or last is not None), timed(stages, "checking"):
                self._check_disk_space(left)
                self.watch.planned(plan)
                if self.engine is None:  # they start while the model is checked
                    start_for(readers, ((modality, items) for modality, _, items in plan.partitions))
                batching = self._check(checks, plan, begun.number)
            self.check_stopped()
            now = self._run_plan(plan, left, batching, capture, readers)
            if now.shards < len(left):
                self.check_stopped()
            discard_plan(self.storage)
            whole = plan is not begun.plan and len(left) == len(plan.shards) and not now.skipped
            generations.extracted(plan, whole=whole)
            done, last = done.then(now), plan
            if generations.next() is not None:
                self.check_stopped()
            with timed(stages, "planning"):
                plan = self._plan(generations, begun, readers)
        return self.ended(done, last, resumed=resumed, self_check=checks.shown.get("text"), stages=stages)

    def _run_plan(
        self,
        plan: Plan,
        left: Sequence[PlannedShard],
        batching: Mapping[str, Batching],
        capture: Capture,
        readers: ReadingProcesses,
        *,
        shared: bool = False,
    ) -> Progress:
        skip = self.corpus.skip_errors
        processes = (
            processes_for(self.model.device, self.processes) if isinstance(self.processes, Nursery) else self.processes
        )
        work = Work(self.storage, self.layout, self.settings, plan, batching, skip, processes, shared)
        watch, total = self.watch, sum(shard.stop - shard.start for shard in left)
        if self.engine is not None:
            return self.engine.run_shards(work, capture, left, total=total, progress=watch.progress, stop=watch.stop)
        free: Iterable[PlannedShard] = left
        if shared:
            free = (shard for shard in left if not self.storage.exists(commit_key(shard.shard)))
        return run_shards(work, capture, free, total=total, progress=watch.progress, readers=readers, stop=watch.stop)

    def _reading(self, modalities: Iterable[str]) -> ReadingProcesses:
        return reading_processes(self.model, self.settings, modalities, self.processes)

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

    def _plan(self, generations: Generations, begun: Begun, readers: ReadingProcesses) -> Plan | None:
        """The next generation's plan; None where nothing is left."""
        start = generations.next()
        if start is None:
            return None
        if begun.attributes is not None and begun.entry is None:
            start = replace(start, appended=fingerprints_of_appended(begun.attributes))
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
