"""What a store's JSON records hold, by type and range, and the one way in which they are decoded.

A store may be anybody's: a record is held against its description before anything is read, made or allocated by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, Required, TypedDict, TypeVar

from msgspec import Meta, Struct, convert

from hubstore.decoding import decode_object, one_line
from hubstore.errors import CorruptStoreError, StoreFormatError
from hubstore.storage import FileRecord, Location
from hubstore.store.layout import content_digest, encode_json

T = TypeVar("T")

MOST_SHARDS = 1 << 22
"""Of one generation, which has 4,000,000 items at most by default."""

Modality = Literal["text", "image", "audio"]
Pooling = Literal["last", "mean", "first", "tokens", "media", "text"]
Padding = Literal["right", "left"]
BatchKind = Literal["packed", "padded", "same_shape", "single", "alike"]
"""How batches are made; the last is the name of an older release for "same_shape"."""
Dtype = Literal["float32", "float16", "bfloat16"]
Count = Annotated[int, Meta(ge=0, le=1 << 40)]
Width = Annotated[int, Meta(ge=1, le=1 << 24)]
ShardNumber = Annotated[int, Meta(ge=0, le=1 << 32)]
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
LayerName = Annotated[str, Meta(pattern=r"\A(0|[1-9][0-9]{0,4}|final)\Z")]
Language = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9-]{0,199}\Z")]
Line = Annotated[str, Meta(max_length=4096)]
Partition = tuple[Modality, Language, Count]
Digits = Annotated[str, Meta(pattern=r"\A[0-9a-f]{8}\Z")]


class FileJson(Struct, frozen=True, forbid_unknown_fields=True):
    """Size and CRC32C of a file."""

    size: Annotated[int, Meta(ge=0, le=1 << 50)]
    crc32c: Digits

    def record(self) -> FileRecord:
        """As other code has it."""
        return FileRecord(self.size, int(self.crc32c, 16))


class CommitJson(Struct, frozen=True, forbid_unknown_fields=True):
    """`commits/<shard>.json`."""

    shard: ShardNumber
    items: Count
    generation: ShardNumber
    first_token_shard: ShardNumber
    tokens: Count
    runs: list[Partition]
    files: dict[Line, FileJson]
    digest: Digest
    times: dict[str, float | int | str | None]


class SettingsJson(TypedDict, total=False):
    """How states were extracted."""

    poolings: list[str]
    layers: list[str]
    dtype: str
    template: str
    media_template: str
    previews: bool
    max_tokens: Count | None
    batch_tokens: Count | None
    media_tokens: Count | None
    padding: Padding
    batching: str
    compile: str
    memory_budget: Count
    compressor: str


class BatchingJson(TypedDict, total=False):
    """How batches of a modality were made."""

    kind: Required[BatchKind]
    padding: Padding
    explicit_positions: bool
    first_position: Count
    compiled: bool
    borders: list[Count]
    varies_beyond: Count | None
    restores: bool


class GenerationJson(TypedDict, total=False):
    """One generation of a corpus."""

    generation: ShardNumber
    items: Count
    skipped: Count
    fingerprint: Line | None
    partitions: list[Partition]
    single_concepts: Count
    no_concept: Count
    shards: tuple[ShardNumber, ShardNumber]
    batching: dict[Modality, BatchingJson]


class IdentityJson(TypedDict, total=False):
    """What a corpus was asked for with."""

    settings: SettingsJson
    model: dict[str, Any]
    corpus: dict[str, Any]
    generation_items: Count


class CorpusJson(TypedDict, total=False):
    """One corpus of a store."""

    name: str
    identity: IdentityJson
    items: Count
    generation: ShardNumber
    more: bool
    generations: list[GenerationJson]


class MediaJson(TypedDict, total=False):
    """What a model reads a modality with."""

    weights: Required[str]
    processor: Required[str]


class ModelJson(TypedDict, total=False):
    """The model that a store was made with."""

    id: str
    source: str
    revision: str | None
    type: str
    kind: str
    blocks: Annotated[int, Meta(ge=0, le=1 << 17)]
    width: Width
    dtype: str
    weights: str
    tokenizer: str | None
    transformers: str
    torch: str
    media: dict[Modality, MediaJson]
    also: list[str]
    stack: Any


class CheckJson(TypedDict, total=False):
    """What a self-check measured."""

    items: Required[Count]
    deviation: Required[float]
    layer: Required[str]
    tolerance: Required[float]
    reference: Required[str]
    padding: Padding
    explicit_positions: bool
    batching: BatchKind
    first_position: Count
    compiled: bool
    refused: str
    borders: list[Count]
    varies_beyond: Count | None
    restores: bool
    longest: Count
    checked_borders: list[Count]


class RootJson(TypedDict):
    """What every store's `attributes.hubstore` has."""

    layers: Annotated[list[LayerName], Meta(min_length=1, max_length=10_000)]
    poolings: Annotated[list[Pooling], Meta(min_length=1, max_length=6)]
    dtype: Dtype
    width: Width
    shard_rows: Annotated[int, Meta(ge=1, le=1 << 30)]
    chunk_rows: Annotated[int, Meta(ge=1, le=1 << 30)]
    compressor: Literal["none", "blosc-lz4-bitshuffle"]


ColumnJson = tuple[Annotated[str, Meta(min_length=1, max_length=200)], Annotated[str, Meta(max_length=100)]]
"""Name and type of a kept column; see `hubstore.store.columns`."""


class ProvenanceJson(TypedDict, total=False):
    """What `attributes.hubstore` may have besides."""

    columns: Annotated[list[ColumnJson], Meta(max_length=256)]
    model: ModelJson
    settings: SettingsJson
    self_check: CheckJson | None
    media_checks: dict[Modality, CheckJson]
    corpora: list[CorpusJson]
    hubstore: Line
    digest: Digest


ROOT_FIELDS = frozenset({"format", *RootJson.__annotations__, *ProvenanceJson.__annotations__})


class IndexCommitJson(Struct, frozen=True, forbid_unknown_fields=True):
    """A commit whose rows an index holds."""

    shard: ShardNumber
    digest: Digest


class RecallJson(Struct, frozen=True, forbid_unknown_fields=True):
    """What an index was set to find, and did."""

    target: Annotated[float, Meta(gt=0, le=1)]
    measured: Annotated[float, Meta(ge=0, le=1)]
    k: Annotated[int, Meta(ge=1)]
    queries: Annotated[int, Meta(ge=1)]


class IndexJson(Struct, frozen=True, forbid_unknown_fields=True):
    """`indexes/<pooling>/<layer>/index.json`."""

    format: Literal[1]
    layer: LayerName
    pooling: Pooling
    kind: Literal["exact", "hnsw", "ivf", "ivfpq", "ivfrabitq"]
    requested: Line
    rows: Count
    width: Width
    commits: list[IndexCommitJson]
    seed: Count
    hubstore: Line
    factory: Line | None = None
    parameters: dict[str, Annotated[int, Meta(ge=0, le=1 << 31)]] | None = None
    trained_rows: Count | None = None
    file: FileJson | None = None
    faiss: Line | None = None
    metric: Line = "cosine"
    distance: Line | None = None
    head: FileJson | None = None
    recall: RecallJson | None = None
    centered: Annotated[list[Line], Meta(min_length=1)] | None = None
    digest: Digest | None = None


class NormJson(Struct, frozen=True, forbid_unknown_fields=True):
    """The norm before the unembedding."""

    kind: Literal["rms", "layer", "none"]
    eps: Annotated[float, Meta(ge=0, le=1)]


class LensJson(Struct, frozen=True, forbid_unknown_fields=True):
    """`lens/lens.json`."""

    vocabulary: Annotated[int, Meta(ge=1, le=1 << 31)]
    width: Width
    dtype: Dtype
    norm: NormJson
    scale: float
    softcap: float | None
    files: dict[Line, FileJson]
    digest: Digest


class ParametersJson(TypedDict, total=False):
    """What analyses that have such parameters keep of them."""

    layers: list[str] | None
    partitions: list[str] | None
    pairs: list[Any] | None
    pooling: str | None
    method: str
    points: int | None
    seed: int | None
    bootstrap: int | None


class ResultJson(TypedDict):
    """The record in a kept table's metadata, as far as every analysis has it."""

    analysis: Line
    parameters: ParametersJson
    seed: int | None
    commits: Line
    version: Line


class PlanJson(Struct, frozen=True, forbid_unknown_fields=True):
    """The plan in `plan/plan.json`."""

    generation: ShardNumber
    corpus_offset: Count
    last: bool
    items: Count
    fingerprint: Line
    partitions: list[Partition]
    single_concepts: Count
    no_concept: Count
    shards: Annotated[list[tuple[ShardNumber, Count, Count, ShardNumber, Count]], Meta(min_length=1)]
    identity: dict[str, Any]
    skipped: Count = 0
    columns: Annotated[list[ColumnJson], Meta(max_length=256)] = []


class PlanFileJson(Struct, frozen=True, forbid_unknown_fields=True):
    """`plan/plan.json`; that of an older version has no digest."""

    plan: PlanJson
    files: dict[Line, Annotated[int, Meta(ge=0, lt=1 << 32)]]
    digest: Digest | None = None


def of_known_fields(kind: type[T], values: Mapping[str, Any], what: str) -> T:
    """A dataclass of what a store keeps; StoreFormatError, with `what` it is, for a field that it does not have."""
    unknown = sorted(values.keys() - {field.name for field in fields(kind)})  # type: ignore[arg-type]
    if unknown:
        raise StoreFormatError(
            f"the store was made with {what} {unknown[0]!r:.60}, which this hubstore does not know; use the one that "
            "wrote it"
        )
    return kind(**values)


def decode_record(data: bytes | str, kind: type[T], where: Location | str, remedy: str) -> T:
    """A record that was written with `sealed`, as a `kind`.

    Args:
        data: of its file.
        kind: describes it.
        where: names it in messages.
        remedy: follows what is wrong.

    Raises:
        CorruptStoreError: it is no such record, or not what its digest was made of.
    """
    try:
        content = decode_object(data)
        found = convert(content, kind, strict=True)
        check_digest(content)
    except (ValueError, RecursionError) as error:
        raise CorruptStoreError(f"{where} is not as it was written: {one_line(error)}; {remedy}") from error
    return found


def check_digest(content: Mapping[str, Any]) -> bool:
    """Whether a record has a digest, which older ones have not; ValueError where it is not that of all else in it."""
    digest = content.get("digest")
    if digest is None:
        return False
    if digest != content_digest({key: value for key, value in content.items() if key != "digest"}):
        raise ValueError("it does not match its digest")
    return True


def sealed(content: Mapping[str, Any]) -> bytes:
    """The file of a record, which has the digest of all else in it."""
    return encode_json({**content, "digest": content_digest(content)})


def is_canonical(data: bytes) -> bool:
    """Whether a record's bytes are those that hubstore writes for what they say, not just others that say it."""
    try:
        return encode_json(decode_object(data)) == data
    except (ValueError, RecursionError):
        return False
