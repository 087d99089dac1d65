"""Keyword arguments of the Python functions, as type checkers and editors see them.

Each class here has the fields of an options class by name; a test holds the two together. What a field means, the
options class says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

Layers = str | int | Sequence[str | int] | None
Names = str | Sequence[str] | None
Pairs = str | Sequence[str | tuple[str, str]] | None


class SearchNamed(TypedDict, total=False):
    """Of `hubstore.options.SearchOptions`."""

    k: int
    layers: Layers
    pooling: str | None
    languages: Names
    modalities: Names
    concepts: Names
    where: str | None
    exclude_same_language: bool
    exclude_self: bool
    centered: bool
    query_languages: Names
    search_effort: int | None
    allow_stale: bool


class CompareNamed(TypedDict, total=False):
    """Of `hubstore.options.CompareOptions`."""

    pairs: Pairs
    pivot: str | None
    partitions: Names
    layers: Layers
    pooling: str | None
    bootstrap: int
    seed: int


class CalibrationNamed(TypedDict, total=False):
    """Of `hubstore.options.CalibrationOptions`."""

    measures: Names
    k: int
    permutations: int
    sample: int


class ModelNamed(TypedDict, total=False):
    """Of `hubstore.options.ModelOptions`."""

    model_dtype: str
    extra_models: Names
    stack: str | None
    attention: str | None
    model_revision: str | None
    trust_remote_code: bool


class ComputeNamed(TypedDict, total=False):
    """Of `hubstore.extraction.engines.Compute`."""

    device: str | Sequence[str]
    engine: str
    address: str | None


class SettingsNamed(TypedDict, total=False):
    """Of `hubstore.extraction.Settings`."""

    poolings: Sequence[str]
    layers: Sequence[str]
    dtype: str
    template: str
    media_template: str
    previews: bool
    max_tokens: int | None
    batch_tokens: int | None
    media_tokens: int | None
    padding: Literal["right", "left"]
    batching: str
    compile: str
    memory_budget: int
    compressor: str


class IndexNamed(TypedDict, total=False):
    """Of `hubstore.options.IndexOptions`."""

    recall: float | None
    centered: bool
    seed: int
    rebuild: bool


class IndexCall(IndexNamed, ComputeNamed):
    """What `Store.index` takes by name."""


class SearchCall(SearchNamed, ComputeNamed):
    """What `Store.search` takes by name."""


class AnalyzeCall(CompareNamed, CalibrationNamed, ComputeNamed):
    """What `Store.analyze` takes by name; what `CalibrationNamed` has is of the analysis "calibrated"."""


class ExtractCall(SettingsNamed, ModelNamed, ComputeNamed):
    """What `extract` and `plan` take by name."""
