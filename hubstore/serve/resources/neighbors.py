"""Neighbors of items, texts, vectors, images and audio, layer by layer: many requests' queries through one search."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from fastapi import APIRouter, Query, Request
from pydantic import Field, FiniteFloat, ValidationError
from starlette.responses import Response

from hubstore.errors import CorpusUnreachableError, HubstoreError, QueryError
from hubstore.options import MOST_WHERE, SearchOptions
from hubstore.serve.arrow_bodies import read_vectors
from hubstore.serve.context import (
    TABLE,
    Context,
    Layers,
    Name,
    Names,
    Once,
    Params,
    RequestContext,
    StoreParams,
    Text,
    either,
)
from hubstore.serve.deprecated import CENTERED, SEARCH_EFFORT
from hubstore.serve.http_errors import InvalidError, NeedsModelError, UnreadableError, invalid_error
from hubstore.serve.redaction import file_names
from hubstore.serve.resources.items import previews
from hubstore.serve.responses import MEDIA_TYPES, TableResponse

if TYPE_CHECKING:
    from hubstore.serve.encoders import Encoders
    from hubstore.serve.limits import Limits
    from hubstore.serve.snapshot import Snapshot

router = APIRouter(prefix="/api/v1/stores/{store}/neighbors", tags=["neighbors"])

DECLARED = {one.name: one for one in fields(SearchOptions)}

HIT_BYTES = 40
"""Of a neighbor in a table, at least: its rank and score, and where each of its eight texts ends."""

Vectors = npt.NDArray[np.float32]
Texts = Annotated[tuple[Text, ...], Field(min_length=1, max_length=1024), Once]


def _declared(name: str, **bounds: Any) -> Any:
    """A field as `hubstore.options.SearchOptions` declares it, within what a server allows."""
    declared = DECLARED[name]
    return Field(declared.default, description=declared.metadata["help"], **bounds)


class SearchFields(Params):
    """How to search, as query parameters and bodies say it alike."""

    k: int = _declared("k", ge=1, le=1000)
    pooling: Name | None = _declared("pooling")
    where: str | None = _declared("where", max_length=MOST_WHERE)
    exclude_same_language: bool = _declared("exclude_same_language")
    exclude_self: bool = _declared("exclude_self")
    centered: bool = _declared("centered", validation_alias=CENTERED)
    query_language: Name | None = _declared("query_languages")
    search_effort: int | None = _declared("search_effort", ge=1, le=1_000_000, validation_alias=SEARCH_EFFORT)


class SearchParams(SearchFields, StoreParams):
    """How to search, as query parameters."""

    layers: Names | None = _declared("layers", validation_alias=either("layers"))
    languages: Names | None = _declared("languages", validation_alias=either("languages"))
    modalities: Names | None = _declared("modalities", validation_alias=either("modalities"))
    concepts: Names | None = _declared("concepts", validation_alias=either("concepts"))


class ItemSearchParams(SearchParams):
    """Which items' neighbors."""

    ids: Names = Field(validation_alias=either("ids"))


class NeighborsQuery(SearchFields):
    """What to look for, and how, as a body: exactly one of ids, texts and vectors."""

    ids: Texts | None = None
    texts: Texts | None = Field(None, description="Need the server's model.")
    vectors: list[FiniteFloat] | list[list[FiniteFloat]] | None = Field(
        None, min_length=1, description="[width] or [queries, width], for every layer alike."
    )
    layers: Layers | None = _declared("layers", validation_alias=either("layers"))
    languages: Names | None = _declared("languages", validation_alias=either("languages"))
    modalities: Names | None = _declared("modalities", validation_alias=either("modalities"))
    concepts: Names | None = _declared("concepts", validation_alias=either("concepts"))


def _body(*kinds: str, **schemas: Any) -> dict[str, Any]:
    """A body, for OpenAPI: bytes of some kinds, or JSON."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": {**dict.fromkeys(kinds, binary), **schemas}}}


JSON_BODY = {MEDIA_TYPES["json"]: {"schema": NeighborsQuery.model_json_schema()}}


@router.get("", responses=TABLE)
async def by_id(context: Context, params: Annotated[ItemSearchParams, Query()]) -> Response:
    """The nearest items to items of the store."""
    return await _answered(context, params, Question("ids", params.ids))


@router.post("", responses=TABLE, openapi_extra=_body(MEDIA_TYPES["arrow"], **JSON_BODY))
async def by_body(request: Request, context: Context, params: Annotated[SearchParams, Query()]) -> Response:
    """The nearest items to items, texts or vectors in JSON; or to a column `vector` of an Arrow stream, with the rest
    as query parameters."""
    body, limits = await request.body(), context.service.limits
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == MEDIA_TYPES["arrow"]:
        vectors = await context.service.work.run(lambda: read_vectors(body, limits.ids, limits.upload))
        return await _answered(context, params, Question("vectors", vectors))
    if kind != MEDIA_TYPES["json"]:
        raise UnreadableError(f"a body is application/json or {MEDIA_TYPES['arrow']}, and this one {kind or 'nothing'}")
    if outside := params.model_fields_set - {"format"}:
        raise InvalidError(f"{', '.join(sorted(outside))}: with a body of JSON this belongs into the body")
    query, question = await context.service.work.run(lambda: _read(body))
    return await _answered(context, query, question)


@router.post("/image", responses=TABLE, openapi_extra=_body("image/*"))
async def by_image(request: Request, context: Context, params: Annotated[SearchParams, Query()]) -> Response:
    """The nearest items to an image, whose file is the body. Needs the server's model."""
    return await _uploaded(request, context, params, "images")


@router.post("/audio", responses=TABLE, openapi_extra=_body("audio/*"))
async def by_audio(request: Request, context: Context, params: Annotated[SearchParams, Query()]) -> Response:
    """The nearest items to audio, whose file is the body. Needs the server's model."""
    return await _uploaded(request, context, params, "audio")


@dataclass(frozen=True)
class Search:
    """How to search, checked against the store; questions of one search are answered together.

    Args:
        layers: by the store's names.
        pooling: likewise.
        options: the other ones of `hubstore.query.search`, by name.
    """

    layers: tuple[str, ...]
    pooling: str
    options: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, eq=False)
class Question:
    """What one request looks for.

    Args:
        kind: "ids", "texts", "vectors", "images" or "audio".
        queries: ids or texts, each once; or float32 [queries, width]; or the media's bytes.
    """

    kind: str
    queries: Any

    def __len__(self) -> int:
        return len(self.queries)


async def _uploaded(request: Request, context: RequestContext, params: SearchParams, kind: str) -> Response:
    body = await request.body()
    if not body:
        raise UnreadableError("the body is empty; send the file's bytes")
    return await _answered(context, params, Question(kind, [body]))


async def _answered(context: RequestContext, params: SearchParams | NeighborsQuery, question: Question) -> Response:
    service, snapshot, limits = context.service, context.snapshot, context.service.limits
    if params.k > limits.k or len(question) > limits.ids:
        raise QueryError(f"this server gives {limits.k} neighbors and takes {limits.ids} queries at most")
    if question.kind == "vectors" and question.queries.shape[1] != snapshot.width:
        raise QueryError(f"vectors have {question.queries.shape[1]} elements; the store's have {snapshot.width}")
    if question.kind not in ("ids", "vectors") and not service.encoders.available:
        raise NeedsModelError(
            f"{question.kind} need the store's model; start the server with --model, or ask by id or vector"
        )
    layers, pooling = tuple(snapshot.layer_names(params.layers)), snapshot.pooling_name(params.pooling)
    options = params.options("layers", "pooling", "ids", "texts", "vectors")
    options["query_languages"] = options.pop("query_language")
    search = Search(layers, pooling, tuple(options.items()))
    alone = object() if pooling == "tokens" else None  # whose queries are tokens, with names of their own
    response: Response = await service.searches.ask(
        (snapshot, context.form, question.kind, search, alone),
        question,
        len(question),
        functools.partial(answer_batch, snapshot, search, service.encoders, limits, context.response),
    )
    return response


def answer_batch(
    snapshot: Snapshot,
    search: Search,
    encoders: Encoders,
    limits: Limits,
    respond: Callable[[str, pa.Table, Mapping[str, Any]], TableResponse],
    questions: Sequence[Question],
) -> list[Any]:
    """The answer to each question, all of one kind; an error in the place of one that has none."""
    try:
        found = _found(snapshot, search, encoders, limits, questions)
    except (HubstoreError, MemoryError) as error:
        if len(questions) == 1:
            return [error]
        # One of them is wrong: each is searched for alone, so that it costs no other its answer.
        alone = functools.partial(answer_batch, snapshot, search, encoders, limits, respond)
        return [alone([question])[0] for question in questions]
    provenance = json.loads(found.schema.metadata[b"hubstore"])
    response = respond("neighbors", _shown(snapshot, found), provenance)
    if len(questions) == 1:
        return [_or_error(response.whole)]
    return _split(found["query"], response, questions)


def _found(
    snapshot: Snapshot, search: Search, encoders: Encoders, limits: Limits, questions: Sequence[Question]
) -> pa.Table:
    import torch

    from hubstore import query
    from hubstore.corpus import Media

    kind, options = questions[0].kind, dict(search.options)
    queries: Any
    if kind == "vectors":
        queries = torch.from_numpy(np.concatenate([question.queries for question in questions]))
    elif kind in ("images", "audio"):
        media = [data for question in questions for data in question.queries]
        for data in media:
            limits.check_media(kind.removesuffix("s"), data)
        queries = [Media(name, data) for name, data in zip(_numbered(kind, 0, len(media)), media, strict=True)]
    else:
        queries = list(dict.fromkeys(name for question in questions for name in question.queries))
    rows = len(queries)
    if kind == "ids":
        positions = snapshot.positions(queries)  # says so where one is not there, without looking for the closest
        rows = snapshot.rows_of(positions, search.pooling)
    hits = min(options["k"], snapshot.hidden(search.layers[0], search.pooling).shape[0])
    limits.check_answer(rows * len(search.layers) * hits * HIT_BYTES)
    encoder = None if kind in ("ids", "vectors") else encoders.encoder(snapshot, search.layers, search.pooling)
    indexes = snapshot.centered_indexes if options["centered"] else snapshot.indexes
    try:
        return query.search(
            snapshot,
            **{kind: queries},
            layers=search.layers,
            pooling=search.pooling,
            encoder=encoder,
            indexes=indexes(search.layers, search.pooling),
            device=snapshot.device,
            **options,
        )
    except CorpusUnreachableError as error:  # the media are here: it is memory that did not suffice
        raise MemoryError from error


def _shown(snapshot: Snapshot, found: pa.Table) -> pa.Table:
    """With the names of files alone, and whether there are previews."""
    found = found.set_column(found.column_names.index("media"), "media", file_names(found["media"]))
    with_preview = np.zeros(len(found), np.bool_)
    if snapshot.keeps_previews:
        with_preview = previews(snapshot, snapshot.positions(found["id"].to_pylist()))
    return found.append_column("preview", pa.array(with_preview))


def _split(labels: pa.ChunkedArray, response: TableResponse, questions: Sequence[Question]) -> list[Any]:
    """Each question's rows; those of one query are together, under its label."""
    names = labels.to_pylist()
    starts = [place for place, name in enumerate(names) if place == 0 or name != names[place - 1]]
    ranges = {names[start]: (start, stop) for start, stop in zip(starts, [*starts[1:], len(names)], strict=True)}
    found, first = [], 0
    for question in questions:
        if question.kind in ("ids", "texts"):
            own = [ranges[name] for name in question.queries if name in ranges]
            found.append(_or_error(functools.partial(response.rows, own)))
            continue
        # Vectors, images and audio have numbers for names, and each request's are counted from 0.
        batch_names = _numbered(question.kind, first, len(question))
        own_names = _numbered(question.kind, 0, len(question))
        own = [ranges[name] for name in batch_names if name in ranges]
        column = [
            own_name
            for own_name, name in zip(own_names, batch_names, strict=True)
            for _ in range(*ranges.get(name, (0, 0)))
        ]
        found.append(_or_error(functools.partial(response.rows, own, column)))
        first += len(question)
    return found


def _or_error(answer: Callable[[], Any]) -> Any:
    try:
        return answer()
    except HubstoreError as error:
        return error


def _numbered(kind: str, first: int, count: int) -> list[str]:
    """The names of queries that have none: "vector 0", "image 0", "audio 0"."""
    return [f"{kind.removesuffix('s')} {number}" for number in range(first, first + count)]


def _read(body: bytes) -> tuple[NeighborsQuery, Question]:
    """A body of JSON."""
    try:
        query = NeighborsQuery.model_validate_json(body)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_input=False)
        raise invalid_error(mistakes, NeighborsQuery.model_fields) from None
    by_kind = {name: getattr(query, name) for name in ("ids", "texts", "vectors") if getattr(query, name) is not None}
    if len(by_kind) != 1:
        raise QueryError("give exactly one of ids, texts and vectors")
    ((kind, queries),) = by_kind.items()
    return query, Question(kind, _vectors(queries) if kind == "vectors" else queries)


def _vectors(values: Sequence[Any]) -> Vectors:
    """float32 [queries, width] of one vector or several."""
    rows = values if isinstance(values[0], list) else [values]
    widths = {len(row) for row in rows}
    if len(widths) != 1 or widths == {0}:
        raise QueryError("vectors must be of one width, and not empty")
    with np.errstate(over="ignore"):  # infinity is refused by the search
        return np.asarray(rows, np.float32)
