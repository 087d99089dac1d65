"""What experiments are done with: a model, loaded when it is first needed, and the folder of stores and results."""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hubstore.corpus import Corpus
from hubstore.errors import AnalysisError, CorpusError, MissingDependencyError
from hubstore.experiments.shuffled import ShuffledStore
from hubstore.experiments.twin import random_twin
from hubstore.extraction import Callbacks, Settings, extract
from hubstore.lens import Lens
from hubstore.media import MEDIA
from hubstore.models import Model, load_model
from hubstore.stats.bootstrap import Bootstrap
from hubstore.store import StoreReader

if TYPE_CHECKING:
    from hubstore.experiments.result import Row

T = TypeVar("T")
Progress = Callable[[str, int, int], None]

SHUFFLED, RANDOM_WEIGHTS = CONTROLS = ("shuffled states", "random weights")
"""What every experiment is done on besides: states in others' places, and the model before any training."""

LEAST_BOOTSTRAP = 100
"""Resamples below which a 95 % interval says nothing."""


@dataclass(frozen=True)
class ExperimentContext:
    """A model and how it is experimented on.

    Args:
        source: a folder or hub id, or a model in memory, loaded with its head.
        out: folder for stores and results.
        data: folder with files of the user's, used in place of what ships.
        limit: most items of an experiment; None for all.
        seed: of all random draws.
        bootstrap: resamples for the 95 % intervals.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: what the model computes in; stores keep the same, so that nothing is lost. The paper's is float32.
        progress: called with what is done now, how much of it is done, and how much there is.
        extra_models: further models over the same language model, for other modalities; see `hubstore.load_model`.
        media_template: what goes with an image or an audio clip, which `{media}` stands for.
        trust_remote_code: run the code that comes with the model; see `hubstore.load_model`.
        controls: whether every experiment is done on its controls too, without which no claim counts as shown.
        control: one of CONTROLS where this is no experiment on the model but its control; see `as_control`.
        made: what was made for the model and is its controls' too; see `once`.
    """

    source: str | Model
    out: Path
    data: Path | None = None
    limit: int | None = None
    seed: int = 0
    bootstrap: int = 1000
    device: str = "auto"
    dtype: str = "float32"
    progress: Progress = lambda what, done, total: None
    extra_models: tuple[str, ...] = ()
    media_template: str = MEDIA
    trust_remote_code: bool = False
    controls: bool = True
    control: str | None = None
    made: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    stores: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Stores read so far, by name, with what each is of."""
    twins: dict[str, Model] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The model with random weights, once one was needed."""

    def __post_init__(self) -> None:
        if self.bootstrap < LEAST_BOOTSTRAP:
            raise AnalysisError(f"bootstrap {self.bootstrap}: a verdict needs intervals; use {LEAST_BOOTSTRAP} or more")
        if self.limit is not None and self.limit < 2:
            raise AnalysisError(f"limit {self.limit}: an experiment compares items; use 2 or more")
        if self.data is not None and not self.data.is_dir():
            raise CorpusError(f"{self.data} is no folder; give one that holds the files `hubstore experiment` lists")

    @property
    def model(self) -> Model:
        """The model, with its head only where that was needed already."""
        if "language_model" in self.__dict__ or isinstance(self.source, Model):
            return self.language_model
        return self._trunk

    @cached_property
    def language_model(self) -> Model:
        """The model with its head; ModelError for an encoder."""
        if isinstance(self.source, Model):
            return self.source
        self.__dict__.pop("_trunk", None)  # not both in memory
        return self._loaded(head=True)

    @cached_property
    def _trunk(self) -> Model:
        return self._loaded()

    def as_control(self, control: str, *, head: bool) -> ExperimentContext:
        """The same with states in others' places, or with a model of random weights, with its head or without."""
        own = self.language_model if head else self.model
        return replace(self, source=own if control == SHUFFLED else self._twin_of(own, head), control=control)

    def _twin_of(self, own: Model, head: bool) -> Model:
        """The model's twin, made once; the same weights with a head as without."""
        twin = self.twins.get(own.identity["id"])
        if twin is None or (head and twin.head is None):
            self.twins.clear()  # not both in memory
            drawn = copy.deepcopy(own) if isinstance(self.source, Model) else self._loaded(head=head)
            twin = self.twins[own.identity["id"]] = random_twin(drawn, self.seed)
        return twin

    @property
    def is_shuffled(self) -> bool:
        """Whether states are to be read in others' places."""
        return self.control == SHUFFLED

    def folder(self, experiment: str) -> Path:
        """Where an experiment's result is written."""
        folder = self.out / experiment
        return folder if self.control is None else folder / self.control.replace(" ", "-")

    def _loaded(self, *, head: bool = False) -> Model:
        assert isinstance(self.source, str)
        return load_model(
            self.source,
            extra_models=self.extra_models,
            device=self.device,
            dtype=self.dtype,
            head=head,
            trust_remote_code=self.trust_remote_code,
        )

    @cached_property
    def lens(self) -> Lens:
        """The model's logit lens."""
        return Lens.of_model(self.language_model)

    @cached_property
    def resampling(self) -> Bootstrap:
        """Resamples of items, the same for every layer and quantity of as many items."""
        return Bootstrap(self.bootstrap, self.seed)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of the paper's curves: the output of every block but the last, and "final"."""
        return (*self.intermediate, "final")

    @property
    def intermediate(self) -> tuple[str, ...]:
        """The layers that a claim about intermediate layers is judged on: every block but the last."""
        return self.model.layer_names()[1:-2]

    def store(self, name: str, corpus: Corpus, **settings: Any) -> StoreReader:
        """The store of a corpus, extracted once: another corpus, model or setting gets another store.

        Args:
            name: the store is <out>/stores/<name>-<digest of what it is of>.hub.
            corpus: its items.
            settings: of `hubstore.Settings`; pooling "last", all layers and "final", in the model's dtype by default.

        Raises:
            What `hubstore.extract` raises; a run that was stopped goes on.
        """
        chosen = {
            "poolings": ("last",),
            "layers": ("all", "final"),
            "dtype": self.model.identity["dtype"],
            **settings,
        }
        what = {"corpus": {"name": corpus.name, **corpus.source}, "settings": chosen, "model": self.model_record()}
        path = self.out / "stores" / f"{name}-{_digest(what)[:12]}.hub"
        watch = Callbacks(progress=lambda done: self.progress(f"extracting {name}", done.items, done.total))
        extract(corpus, self.model, path, Settings(**chosen), watch=watch)
        store = StoreReader(path)
        self.stores[path.name] = {**what, "commits": store.digest}
        return ShuffledStore(store, self.seed) if self.is_shuffled else store

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` makes of the tokenizer and the data alone, which the controls have too and do not make anew."""
        if name not in self.made:
            self.made[name] = make()
        found: T = self.made[name]
        return found

    def file(self, name: str) -> Path | None:
        """The user's file of that name, where there is one."""
        path = None if self.data is None else self.data / name
        return path if path is not None and path.is_file() else None

    def over_layers(self, what: str, find: Callable[[str], Sequence[Row]]) -> list[Row]:
        """The rows that `find` finds at each layer of the paper's curves; `what` names the work for progress."""
        rows: list[Row] = []
        for number, layer in enumerate(self.layers, 1):
            rows += find(layer)
            self.progress(what, number, len(self.layers))
        return rows

    def sample(self, items: Sequence[T]) -> list[T]:
        """`limit` of the items, drawn without replacement by the seed, in their order; all where they are no more."""
        if self.limit is None or self.limit >= len(items):
            return list(items)
        drawn = np.random.default_rng(self.seed).choice(len(items), self.limit, replace=False)
        return [items[number] for number in sorted(drawn)]

    def model_record(self) -> dict[str, Any]:
        """What of the model decides a result."""
        identity = self.model.identity
        decisive = ("id", "weights", "tokenizer", "dtype", "attention")
        return {key: identity[key] for key in (*decisive, *(key for key in ("media", "stack") if key in identity))}


def package_version(name: str) -> str:
    """The version of an optional package; MissingDependencyError, with what to install, where it is not there."""
    try:
        importlib.import_module(name)
        return importlib.metadata.version(name)
    except ImportError as error:
        raise MissingDependencyError(
            f'this experiment needs {name}, which is not installed: `pip install "hubstore[experiments]"`'
        ) from error


def sha256_of(data: bytes) -> str:
    """The digest of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def _digest(value: Any) -> str:
    return sha256_of(json.dumps(value, sort_keys=True, default=list).encode())
