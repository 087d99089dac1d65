"""Neighbours of items, texts, vectors, pictures and sounds, layer by layer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field, ValidationError
from starlette.responses import Response

from hubstore.errors import QueryError
from hubstore.serve.failures import InvalidError, NeedsModelError, UnreadableError
from hubstore.serve.formats import MEDIA_TYPES
from hubstore.serve.routes.call import TABLE, Call, call_of, service_of
from hubstore.serve.routes.parameters import Name, Several, Tabular, described, invalid, read
from hubstore.serve.schemas import NeighboursQuery

if TYPE_CHECKING:
    from hubstore.serve.answers.neighbours import Options

router = APIRouter(prefix="/api/stores/{store}/neighbours", tags=["neighbours"])

BINARY = {"schema": {"type": "string", "format": "binary"}}


class Choice(Tabular):
    """How to search, as query parameters say it."""

    layer: Several | None = None
    k: int = Field(10, ge=1, le=1000, description="Neighbours of each query at each layer.")
    pooling: Name | None = None
    language: Several | None = None
    modality: Several | None = None
    concept: Several | None = None
    exclude_same_language: bool = False
    exclude_self: bool = True
    centred: bool = Field(False, description="Remove each partition's mean, and the query's, first.")
    query_language: Name | None = Field(
        None, description="Of what is no item; needed to leave its language out, or to remove its mean."
    )
    effort: int | None = Field(None, ge=1, le=1_000_000, description="HNSW's efSearch or IVF's nprobe.")

    def query(self, **asked: Any) -> NeighboursQuery:
        """The same as a body says it."""
        return NeighboursQuery(
            layers=None if self.layer is None else [*self.layer],
            k=self.k,
            pooling=self.pooling,
            languages=self.language,
            modalities=self.modality,
            concepts=self.concept,
            exclude_same_language=self.exclude_same_language,
            exclude_self=self.exclude_self,
            centred=self.centred,
            query_language=self.query_language,
            effort=self.effort,
            **asked,
        )


class OfItems(Choice):
    """Whose neighbours."""

    id: Annotated[list[Name], Field(min_length=1, max_length=1024)]


def _body(*kinds: str, **schemas: Any) -> dict[str, Any]:
    """A body, for OpenAPI: bytes of some kinds, or JSON."""
    content = {**dict.fromkeys(kinds, BINARY), **schemas}
    return {"requestBody": {"required": True, "content": content}}


@router.get("", responses=TABLE, openapi_extra=described(OfItems))
async def by_id(request: Request) -> Response:
    """The nearest items to items of the store."""
    choice = read(OfItems, request)
    return await _answer(await _call(request, choice), choice.query(ids=choice.id))


JSON_QUERY = {"application/json": {"schema": NeighboursQuery.model_json_schema()}}


@router.post("", responses=TABLE, openapi_extra=described(Choice, **_body(MEDIA_TYPES["arrow"], **JSON_QUERY)))
async def by_body(request: Request) -> Response:
    """The nearest items to items, texts or vectors in JSON; or to a column `vector` of an Arrow stream, with the rest
    as query parameters."""
    choice = read(Choice, request)
    call, body = await _call(request, choice), await request.body()
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == MEDIA_TYPES["arrow"]:
        vectors = await call.service.work.run(lambda: _streamed(body, call.service.limits.ids))
        return await _asked(call, choice.query(), "vectors", vectors)
    if kind != "application/json":
        raise UnreadableError(f"a body is application/json or {MEDIA_TYPES['arrow']}, and this one {kind or 'nothing'}")
    if beside := choice.model_fields_set - {"format"}:
        raise InvalidError(f"{', '.join(sorted(beside))}: with a body of JSON this belongs into the body")
    try:
        query = await call.service.work.run(lambda: NeighboursQuery.model_validate_json(body))
    except ValidationError as error:
        raise invalid(error, NeighboursQuery) from None
    return await _answer(call, query)


@router.post("/image", responses=TABLE, openapi_extra=described(Choice, **_body("image/*")))
async def by_image(request: Request) -> Response:
    """The nearest items to a picture, whose file is the body. Needs the server's model."""
    return await _uploaded(request, "images")


@router.post("/audio", responses=TABLE, openapi_extra=described(Choice, **_body("audio/*")))
async def by_audio(request: Request) -> Response:
    """The nearest items to a sound, whose file is the body. Needs the server's model."""
    return await _uploaded(request, "audio")


async def _call(request: Request, choice: Choice) -> Call:
    return await call_of(request, await service_of(request), request.path_params["store"], choice.format)


async def _uploaded(request: Request, kind: str) -> Response:
    choice = read(Choice, request)
    call, body = await _call(request, choice), await request.body()
    if not body:
        raise UnreadableError("the body is empty; send the file's bytes")
    return await _asked(call, choice.query(), kind, [body])


async def _answer(call: Call, query: NeighboursQuery) -> Response:
    given = {name: getattr(query, name) for name in ("ids", "texts", "vectors") if getattr(query, name) is not None}
    if len(given) != 1:
        raise QueryError("give exactly one of ids, texts and vectors")
    [(kind, asked)] = given.items()
    if kind == "vectors":
        asked = await call.service.work.run(lambda: _vectors(asked))
    return await _asked(call, query, kind, asked if kind == "vectors" else list(dict.fromkeys(asked)))


async def _asked(call: Call, query: NeighboursQuery, kind: str, asked: Any) -> Response:
    from hubstore.serve.answers.neighbours import Question, answers

    service, snapshot, limits = call.service, call.snapshot, call.service.limits
    if query.k > limits.k or len(asked) > limits.ids:
        raise QueryError(f"this server gives {limits.k} neighbours and takes {limits.ids} queries at most")
    if kind == "vectors" and asked.shape[1] != snapshot.width:
        raise QueryError(f"vectors have {asked.shape[1]} elements; the store's have {snapshot.width}")
    if kind not in ("ids", "vectors") and not service.encoders.given:
        raise NeedsModelError(f"{kind} need the store's model; start the server with --model, or ask by id or vector")
    options = _options(call, query)
    question = Question(kind, asked)
    alone = object() if options.pooling == "tokens" else None  # whose queries are tokens, with names of their own
    answer: Response = await service.searches.ask(
        (snapshot, call.form, kind, options, alone),
        question,
        len(question),
        functools.partial(
            answers,
            snapshot,
            options,
            service.encoders,
            limits.answer,
            functools.partial(call.parts, "neighbours"),
        ),
    )
    return answer


def _options(call: Call, query: NeighboursQuery) -> Options:
    from hubstore.serve.answers.neighbours import Options

    snapshot = call.snapshot
    return Options(
        layers=tuple(dict.fromkeys(snapshot.layer_name(layer) for layer in query.layers or snapshot.layers)),
        pooling=snapshot.pooling_name(query.pooling),
        k=query.k,
        languages=_tuple(query.languages),
        modalities=_tuple(query.modalities),
        concepts=_tuple(query.concepts),
        exclude_same_language=query.exclude_same_language,
        exclude_self=query.exclude_self,
        centred=query.centred,
        query_language=query.query_language,
        effort=query.effort,
    )


def _vectors(given: Sequence[Any]) -> Any:
    """float32 [queries, width] of one vector or several."""
    import numpy as np

    rows = given if isinstance(given[0], list) else [given]
    widths = {len(row) for row in rows}
    if len(widths) != 1 or widths == {0}:
        raise QueryError("vectors must be of one width, and not empty")
    with np.errstate(over="ignore"):  # infinity is refused by the search
        return np.asarray(rows, np.float32)


def _streamed(body: bytes, most: int) -> Any:
    """float32 [queries, width] of the column `vector` of an Arrow stream."""
    import numpy as np
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
            table.validate(full=True)
        column = table["vector"].combine_chunks()
        if not pa.types.is_fixed_size_list(column.type) or not pa.types.is_floating(column.type.value_type):
            raise UnreadableError(f"column vector is {column.type}; it must be a fixed-size list of floats")
        if column.null_count or column.flatten().null_count:
            raise UnreadableError("column vector has nulls")
    except (pa.ArrowException, KeyError, OSError, ValueError, TypeError) as error:
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError("the body is no Arrow stream with a column `vector` of fixed-size lists") from None
    if not 1 <= len(column) <= most or not column.type.list_size:
        raise QueryError(f"there are {len(column)} vectors; give 1 to {most}")
    with np.errstate(over="ignore"):
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(len(column), -1)


def _tuple(names: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(dict.fromkeys(names))
