"""What the resources share: a request's store and parameters, and where its answer is computed and written."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Path, Request
from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from hubstore.errors import QueryError
from hubstore.serve.http_errors import NotFoundError
from hubstore.serve.redaction import redact
from hubstore.serve.responses import MEDIA_TYPES, Format, FormatName, TableResponse, json_response
from hubstore.serve.service import Service

if TYPE_CHECKING:
    import pyarrow as pa

    from hubstore.serve.snapshot import Snapshot

DESCRIBED_TABLE = tuple["pa.Table", Mapping[str, Any]]
"""A table, and JSON-able where it is from and how it was made."""

Name = Annotated[str, StringConstraints(max_length=4096)]
Text = Annotated[str, StringConstraints(max_length=1_000_000)]
Words = Annotated[str, StringConstraints(min_length=1, max_length=1_000_000)]
"""A text that a model goes on from: there is none to read in an empty one."""
Once = AfterValidator(lambda values: tuple(dict.fromkeys(values)))
Several = BeforeValidator(lambda values: [values] if isinstance(values, str | int) else values)
"""Of a parameter that is given once and has several names, FastAPI hands on its value and no list."""

Names = Annotated[tuple[Name, ...], Field(min_length=1, max_length=1024), Once, Several]
FewNames = Annotated[tuple[Name, ...], Field(min_length=1, max_length=64), Once, Several]
"""The values of one parameter, each once."""
Layers = Annotated[
    tuple[str | int, ...],
    Field(min_length=1, max_length=1024),
    AfterValidator(lambda layers: tuple({str(layer): layer for layer in layers}.values())),
    Several,
]
"""Layers by name or number, each once: what is asked twice is not computed twice."""


def either(plural: str) -> AliasChoices:
    """The names of a list: that of bodies and of Python, and the singular, for parameters one by one.

    A request may say `layers=1&layers=2` or `layer=1&layer=2`, whether it is a GET or a POST.
    """
    singular = plural.removesuffix("ies") + "y" if plural.endswith("ies") else plural.removesuffix("s")
    return AliasChoices(plural, singular)


class Params(BaseModel):
    """The query parameters of a route: one that it does not have is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def options(self, *without: str) -> dict[str, Any]:
        """By name, but for those `without`, and the form of the answer."""
        return self.model_dump(exclude={"format", *without})


class StoreParams(Params):
    """What every route about a store has."""

    format: FormatName | None = Field(None, description="Before the Accept header; to be saved as a file.")


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


@dataclass(frozen=True)
class RequestContext:
    """A request about one store.

    Args:
        service: the running server.
        snapshot: the store, as of when the request came.
        form: how the answer is to be written.
    """

    service: Service
    snapshot: Snapshot
    form: Format

    async def table(self, name: str, make: Callable[[], DESCRIBED_TABLE]) -> Response:
        """A table, made and written by a thread for short work."""
        return await self.service.work.run(lambda: self.response(name, *make()).whole())

    async def computed(
        self,
        name: str,
        key: Hashable,
        make: Callable[[], pa.Table],
        fields: Sequence[str] | None = None,
        complete: Callable[[pa.Table], pa.Table] | None = None,
    ) -> Response:
        """A table which may take long to make; only the columns named `fields`, where they are.

        `key` is all that it depends on, beside the store's content; `complete` adds what is read and not computed.
        """
        key = self.snapshot.name, self.snapshot.revision, name, key
        table = await self.service.computations.table(key, make)

        def written() -> Response:
            from hubstore.analysis import metadata

            whole = table if complete is None else complete(table)
            return self.response(name, _selected(whole, fields), metadata(table)).whole()

        return await self.service.work.run(written)

    async def record(self, make: Callable[[], BaseModel]) -> Response:
        """A record, made by a thread for short work."""
        return await self.service.work.run(lambda: json_response(make().model_dump(), revision=self.snapshot.revision))

    def response(self, name: str, table: pa.Table, provenance: Mapping[str, Any]) -> TableResponse:
        """A table as an answer about this store, or as several of which each has some rows."""
        return TableResponse(
            table,
            {**redact(provenance), "store": self.snapshot.name, "revision": self.snapshot.revision},
            self.form,
            name=f"{self.snapshot.name}-{name}",
            revision=self.snapshot.revision,
            limits=self.service.limits,
            csv_safe=self.service.options.csv_safe,
        )


def _selected(table: pa.Table, fields: Sequence[str] | None) -> pa.Table:
    if fields is None:
        return table
    unknown = [field for field in fields if field not in table.column_names]
    if unknown:
        raise QueryError(f"there is no field {unknown[0]!r}; there are {', '.join(table.column_names)}")
    return table.select([name for name in table.column_names if name in fields])


# Dependencies are coroutines: FastAPI runs a plain function, or a class, on a thread, and waits for it.


async def service_of(request: Request) -> Service:
    """The running server."""
    service: Service = request.app.state.service
    return service


async def form_of(request: Request) -> Format:
    """How the answer is to be written."""
    return Format.negotiated(request.headers.get("accept", ""), request.query_params.get("format"))


async def context_of(
    request: Request, store: Annotated[str, Path(description="The store's name.", max_length=4096)]
) -> RequestContext:
    """The store that a request is about, and its snapshot."""
    service = await service_of(request)
    handle = service.stores.get(store)
    if handle is None:
        raise NotFoundError(f"there is no store {store!r}; there are {', '.join(service.stores)}")
    return RequestContext(service, await handle.snapshot(), await form_of(request))


Serving = Annotated[Service, Depends(service_of)]
Form = Annotated[Format, Depends(form_of)]
Context = Annotated[RequestContext, Depends(context_of)]

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in (
        (400, "A value that the store cannot answer."),
        (401, "The token is missing or wrong."),
        (403, "A page of another site made the request."),
        (404, "No such store, item, layer, pooling, partition or table."),
        (409, "An index is older than its store."),
        (413, "The body or the answer is too large."),
        (415, "A body that cannot be read."),
        (422, "A parameter or a body of another form."),
        (429, "Too many wrong tokens came from the address."),
        (431, "The path, the parameters and the headers are too large."),
        (501, "Needs a model, a lens or a package that the server does not have."),
        (503, "Busy; try again after as many seconds as Retry-After says."),
        (504, "It took too long."),
    )
}
"""What any route about a store may answer beside what was asked for."""

TABLE: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Table,
        "description": "The table.",
        "content": {media: {} for name, media in MEDIA_TYPES.items() if name != "json"},
    },
    **ERRORS,
}
