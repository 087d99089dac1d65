"""Options that are declared once: frozen dataclasses whose fields carry their help and their spelling in a command.

The Python functions, the commands, the client and the server's schema read them here. Numbers and names are checked
when an instance is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from hubstore.checks import check_count, check_number, check_resamples, check_seed, check_strings
from hubstore.errors import AnalysisError, IndexingError, ModelError, QueryError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

FEWEST_COMPARED = 12
"""Items under which a linear map of half of them says nothing."""

MOST_SEARCH_EFFORT = 2**31 - 1
"""What FAISS holds."""

MOST_WHERE = 10_000
"""Characters of a condition."""


def option(
    default: Any, meaning: str, *, flags: tuple[str, ...] | None = (), typed: Any = None, http: bool = True
) -> Any:
    """A field of an options class.

    Args:
        default: its value where none is given.
        meaning: what it does, as `--help` and the server's schema say it.
        flags: how a command spells it: () after its name, None where it has no such option.
        typed: what a command reads it as, where that is another type.
        http: whether a client may send it to a server.
    """
    return field(default=default, metadata={"help": meaning, "flags": flags, "typed": typed, "http": http})


def take(kind: type[T], named: dict[str, Any], base: T | None = None) -> T:
    """The options of a class that are among keyword arguments, which are taken out of `named`, over those of `base`."""
    for old, new in getattr(kind, "DEPRECATED", {}).items():
        if old in named:
            named[new] = renamed(old, new, named, None)
    found = {one.name: named.pop(one.name) for one in fields(kind) if one.name in named}
    return kind(**found) if base is None else replace(base, **found)


def renamed(old: str, new: str, named: dict[str, Any], value: Any) -> Any:
    """The value that `named` has under an older name, which is taken out of it and warned of; else `value`."""
    if old not in named:
        return value
    warnings.warn(f"{old} is deprecated; it is called {new} now", DeprecationWarning, stacklevel=3)
    return named.pop(old)


def refuse_others(function: str, named: Mapping[str, Any]) -> None:
    """TypeError, as Python's own, for a keyword argument that no options class has taken."""
    for name in named:
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def http_options(options: DataclassInstance) -> dict[str, Any]:
    """What a client sends of options: those that a server takes and that are not the default."""
    sent = {one.name: (getattr(options, one.name), one.default) for one in fields(options) if one.metadata["http"]}
    return {name: value for name, (value, default) in sent.items() if value != default or default is MISSING}


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How to search; QueryError for a value that cannot be. The fields' help says what each is."""

    DEPRECATED: ClassVar = {"centred": "centered", "effort": "search_effort"}

    k: int = option(10, "Neighbors for each query and layer; fewer where fewer pass the filters.", flags=("-k",))
    layers: tuple[str | int, ...] | None = option(
        None, "Layers: 0,6,12; -1 is the last block. All by default.", flags=("--layers", "--layer")
    )
    pooling: str | None = option(None, "Pooling; the store's first by default.", flags=("--pooling",))
    languages: tuple[str, ...] | None = option(
        None, "Only items in this language.", flags=("--language",), typed=list[str] | None
    )
    modalities: tuple[str, ...] | None = option(
        None, "Only items of this modality.", flags=("--modality",), typed=list[str] | None
    )
    concepts: tuple[str, ...] | None = option(
        None, "Only items of this concept.", flags=("--concept",), typed=list[str] | None
    )
    where: str | None = option(
        None,
        "Only items for which this is true: \"year >= 2019 and source in ('wiki', 'news')\"; kept columns, language, "
        "modality, concept, ...",
        flags=("--where",),
    )
    exclude_same_language: bool = option(
        False, "No items in the query's own language.", flags=("--exclude-same-language",)
    )
    exclude_self: bool = option(True, "Leave out the item that is the query.", flags=None)
    centered: bool = option(
        False,
        "Remove each modality's and language's mean first; across them, finds more.",
        flags=("--centered",),
    )
    query_languages: str | tuple[str, ...] | None = option(
        None,
        "Language of what is asked, needed to exclude it or to remove its mean.",
        flags=("--query-language",),
        typed=str | None,
    )
    search_effort: int | None = option(
        None,
        "HNSW's efSearch or IVF's nprobe: recall against time.",
        flags=("--search-effort",),
    )
    allow_stale: bool = option(False, "Use an index older than its store.", flags=("--allow-stale",), http=False)

    def __post_init__(self) -> None:
        """Check the values, and turn lists into tuples."""
        put = {"k": check_count("k", self.k, error=QueryError), "layers": _several(self.layers)}
        if self.search_effort is not None:
            put["search_effort"] = check_count(
                "search_effort", self.search_effort, most=MOST_SEARCH_EFFORT, error=QueryError
            )
        for name in ("languages", "modalities", "concepts"):
            put[name] = strings(name, getattr(self, name))
        if self.where is not None and not (isinstance(self.where, str) and self.where.strip()):
            raise QueryError(f'where is {self.where!r}; give a condition such as "year >= 2019", or leave it out')
        if self.where is not None and len(self.where) > MOST_WHERE:
            raise QueryError(f"where has {len(self.where):,} characters; {MOST_WHERE:,} are the most")
        if not isinstance(self.query_languages, str):
            put["query_languages"] = strings("query_languages", self.query_languages)
        _set(self, put)

    def filters(self) -> dict[str, Any]:
        """What decides which items may answer."""
        names = ("languages", "modalities", "concepts", "where", "exclude_same_language", "exclude_self")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """How an index is built; IndexingError for a value that cannot be. The fields' help says what each is."""

    recall: float | None = option(
        None,
        "Share of the 10 true neighbors that a search is to find by default, measured on rows that are held out. By "
        "default what an index has that is there, or 0.95.",
    )
    centered: bool = option(
        False,
        "Index rows less the mean of their language and modality, for centered searches; beside the other index.",
        flags=("--centered",),
    )
    seed: int = option(0, "Seed of all random draws; kept with the results.")
    rebuild: bool = option(
        False, "Build from nothing, whatever is there; for the recall that was asked for before.", flags=("--rebuild",)
    )

    def __post_init__(self) -> None:
        """Check the numbers."""
        seed = check_count("seed", self.seed, least=0, most=2**31 - 1, error=IndexingError)  # FAISS has it as an int
        recall = self.recall
        if recall is not None:
            recall = check_number("recall", recall, least=0.01, most=1.0, error=IndexingError)
        _set(self, {"seed": seed, "recall": recall})


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a model is loaded for an extraction; see `hubstore.load_model`. The fields' help says what each is."""

    DEPRECATED: ClassVar = {"also": "extra_models"}

    model_dtype: str = option("auto", "What to compute in: auto, float32, bfloat16 or float16.")
    extra_models: tuple[str, ...] = option(
        (),
        "A further model over the same language model, for another modality.",
        flags=("--extra-model",),
        typed=list[str] | None,
    )
    stack: str | None = option(
        None, "Of a pair of towers: joint, text, image, audio; of a speech model: encoder, decoder."
    )
    attention: str | None = option(None, "Attention implementation of transformers.")
    model_revision: str | None = option(None, "Revision of a hub's model.")
    trust_remote_code: bool = option(
        False,
        "Run code that comes with the model; only where you trust its authors. A store does not say so for you.",
        flags=("--trust-remote-code/--no-trust-remote-code",),
    )

    def __post_init__(self) -> None:
        """Turn a list into a tuple."""
        _set(self, {"extra_models": strings("extra_models", self.extra_models, error=ModelError) or ()})

    def arguments(self) -> dict[str, Any]:
        """As `hubstore.load_model` takes them."""
        return {
            "dtype": self.model_dtype,
            "extra_models": self.extra_models,
            "stack": self.stack,
            "attention": self.attention,
            "revision": self.model_revision,
            "trust_remote_code": self.trust_remote_code,
        }


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What an analysis compares, and how it draws; AnalysisError for a value that cannot be.

    The fields' help says what each is. An analysis of single partitions takes those of its pairs.
    """

    pairs: tuple[tuple[str, str], ...] | None = option(
        None, "Two partitions, such as en:zh-Hans.", flags=("--pair",), typed=list[str] | None
    )
    pivot: str | None = option(None, "One partition against all others.")
    partitions: tuple[str, ...] | None = option(None, "Partitions of clustering and geometry.", flags=None)
    layers: tuple[str | int, ...] | None = option(
        None, "Layers: 0,6,12; -1 is the last block. All by default.", flags=("--layers", "--layer")
    )
    pooling: str | None = option(
        None,
        "Pooling; the store's first with a row per item by default. weighted: of a store of tokens.",
        flags=("--pooling",),
    )
    bootstrap: int = option(1000, "Resamples for the 95 % intervals; 0 for none.")
    seed: int = option(0, "Seed of all random draws; kept with the results.")

    def __post_init__(self) -> None:
        """Check the values, and turn lists into tuples."""
        put: dict[str, Any] = {
            "layers": _several(self.layers),
            "partitions": strings("partitions", self.partitions, error=AnalysisError),
            "seed": check_seed(self.seed, error=AnalysisError),
            "bootstrap": check_resamples("bootstrap", self.bootstrap, error=AnalysisError),
        }
        if self.pairs is not None:
            put["pairs"] = pair_options(self.pairs)
        _set(self, put)


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Which measures of alignment are calibrated, and how; AnalysisError for a value that cannot be.

    The fields' help says what each is.
    """

    measures: tuple[str, ...] | None = option(
        None,
        "Of calibrated: cka, rsa, mutual_knn, cknna, procrustes, svcca, linear_r2, mapped_recall@1, mexa; all by "
        "default.",
        flags=("--measure",),
        typed=list[str] | None,
    )
    k: int = option(10, "Of calibrated: neighbors of mutual_knn and cknna.", flags=("--k", "-k"))
    permutations: int = option(99, "Of calibrated: arrangements of one side's items that make the null; 0 for no p.")
    sample: int = option(512, "Of calibrated: items, drawn at random, where there are more.")

    def __post_init__(self) -> None:
        """Check the numbers, and turn a list into a tuple."""
        put = {
            "measures": strings("measures", self.measures or None, error=AnalysisError),
            "k": check_count("k", self.k, error=AnalysisError),
            "permutations": check_resamples("permutations", self.permutations, error=AnalysisError),
            "sample": check_count("sample", self.sample, least=FEWEST_COMPARED, error=AnalysisError),
        }
        _set(self, put)


def strings(name: str, values: Any, *, error: Any = QueryError) -> tuple[str, ...] | None:
    """One string or several as a tuple; None stays None."""
    if values is None:
        return None
    return tuple(check_strings(name, (values,) if isinstance(values, str) else values, error=error))


def pair_options(pairs: Any) -> tuple[tuple[str, ...], ...]:
    """ "en:de", ("en", "de"), or several of these in a list, as tuples."""
    one = isinstance(pairs, str) or (
        isinstance(pairs, tuple)
        and len(pairs) == 2
        and all(isinstance(name, str) and ":" not in name for name in pairs)
    )
    return tuple(map(_pair, (pairs,) if one else pairs))


def _pair(pair: Any) -> tuple[str, ...]:
    found = tuple(pair.split(":")) if isinstance(pair, str) else strings("a pair", pair, error=AnalysisError) or ()
    if len(found) != 2 or not all(found):
        raise AnalysisError(f"the pair {pair!r} is not two partitions; write it as ('en', 'zh-Hans') or 'en:zh-Hans'")
    return found


def _several(layers: Any) -> tuple[str | int, ...] | None:
    if layers is None:
        return None
    return (layers,) if isinstance(layers, str) or not isinstance(layers, Iterable) else tuple(layers)


def _set(options: object, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        object.__setattr__(options, name, value)
