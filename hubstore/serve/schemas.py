"""What requests may ask and what answers look like, as OpenAPI describes them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

Text = Annotated[str, Field(max_length=1_000_000)]


class ErrorDetail(BaseModel):
    """What went wrong."""

    kind: str
    message: str


class ErrorAnswer(BaseModel):
    """The form of every error."""

    error: ErrorDetail


class Table(BaseModel):
    """A table, column by column."""

    about: dict[str, Any] = Field(description="Where it is from and how it was made.")
    columns: dict[str, list[Any]]
    rows: int


class Health(BaseModel):
    """That the server answers."""

    status: str
    version: str
    stores: int


class StoreSummary(BaseModel):
    """A store in a list."""

    name: str
    revision: str = Field(description="Digest of the store's commits: changes when, and only when, its content does.")
    items: int
    complete: bool = Field(description="Whether all items of its corpora are in it.")
    unfinished: str | None = Field(description="What is missing, and how to finish it.")
    model: str | None
    layers: list[str]
    poolings: list[str]
    languages: list[str]
    modalities: list[str]


class Stores(BaseModel):
    """All stores that can be opened."""

    stores: list[StoreSummary]


class PartitionInfo(BaseModel):
    """All items of one modality and language."""

    name: str
    modality: str
    language: str
    items: int


class IndexInfo(BaseModel):
    """The index of a layer."""

    layer: str
    pooling: str
    kind: str
    rows: int
    stale: bool = Field(description="Whether it lacks rows of the store.")


class AnalysisInfo(BaseModel):
    """A table of results that the store keeps."""

    analysis: str
    key: str
    parameters: dict[str, Any]
    seed: int | None
    rows: int
    current: bool = Field(description="Whether it was made from the store as it is now.")


class ProjectionInfo(BaseModel):
    """A map of a layer that the store keeps."""

    layer: str
    pooling: str
    method: str
    points: int


class Analyses(BaseModel):
    """All tables of results that the store keeps."""

    analyses: list[AnalysisInfo]


class StoreInfo(StoreSummary):
    """All about a store."""

    dtype: str
    width: int
    partitions: list[PartitionInfo]
    concepts: int
    indexes: list[IndexInfo]
    analyses: list[AnalysisInfo]
    projections: list[ProjectionInfo]
    lens: bool = Field(description="Whether it keeps an unembedding to read states with.")
    previews: bool = Field(description="Whether it keeps thumbnails or clips.")
    originals: bool = Field(description="Whether the server gives items' own files.")
    encoder: bool = Field(description="Whether texts, pictures and sounds may be asked for: the server has the model.")
    provenance: dict[str, Any]


class ItemInfo(BaseModel):
    """One item."""

    id: str
    concept: str | None
    language: str
    modality: str
    text: str
    media: str | None = Field(description="Name of the picture's or sound's file.")
    tokens: int | None
    truncated: bool | None
    preview: bool = Field(description="Whether there is a thumbnail or a clip of it.")
    position: int
    equivalents: list[str] = Field(description="Other items of its concept, 200 at most.")


class NeighboursQuery(BaseModel):
    """What to look for: exactly one of ids, texts and vectors."""

    model_config = ConfigDict(extra="forbid")

    ids: list[Text] | None = Field(None, min_length=1, max_length=1024)
    texts: list[Text] | None = Field(None, min_length=1, max_length=1024, description="Need the server's model.")
    vectors: list[FiniteFloat] | list[list[FiniteFloat]] | None = Field(
        None, min_length=1, description="[width] or [queries, width], for every layer alike."
    )
    layers: list[str | int] | None = Field(None, min_length=1, max_length=1024, description="All by default.")
    k: int = Field(10, ge=1, le=1000)
    pooling: str | None = None
    languages: list[str] | None = Field(None, min_length=1, max_length=1024)
    modalities: list[str] | None = Field(None, min_length=1, max_length=1024)
    concepts: list[str] | None = Field(None, min_length=1, max_length=1024)
    exclude_same_language: bool = False
    exclude_self: bool = True
    centred: bool = Field(False, description="Remove each partition's mean, and the query's, first.")
    query_language: str | None = None
    effort: int | None = Field(None, ge=1, le=1_000_000)


class ExperimentInfo(BaseModel):
    """An experiment that was done."""

    name: str
    experiment: str
    title: str
    claim: str
    model: str | None
    shown: bool
    figure: str = Field(description="The headline in words.")
    n: int
    notes: list[str]
    plots: list[dict[str, Any]]


class Experiments(BaseModel):
    """All experiments in the server's folders."""

    experiments: list[ExperimentInfo]
