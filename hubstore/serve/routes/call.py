"""What the routes share: the store that is asked, the form of the answer, and where it is computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Path, Query, Request
from starlette.responses import Response

from hubstore.errors import QueryError
from hubstore.serve.failures import NotThereError
from hubstore.serve.formats import MEDIA_TYPES, Answers, Format, FormatName, json_response
from hubstore.serve.routes.parameters import Name
from hubstore.serve.schemas import ErrorAnswer, Table
from hubstore.serve.service import Service

if TYPE_CHECKING:
    import pyarrow as pa

    from hubstore.serve.snapshot import Snapshot

Answered = tuple["pa.Table", Mapping[str, Any]]
"""A table and what is to be known about it."""

Names = Annotated[list[Name] | None, Query(max_length=1024)]


# Dependencies are coroutines: FastAPI runs a plain function, or a class, on a thread, and waits for it.


async def service_of(request: Request) -> Service:
    """The running server."""
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(service_of)]


@dataclass(frozen=True)
class Call:
    """A request about one store.

    Args:
        service: the running server.
        snapshot: the store, as of when the request came.
        form: how the answer is to be written.
    """

    service: Service
    snapshot: Snapshot
    form: Format

    async def table(self, name: str, make: Callable[[], Answered]) -> Response:
        """The answer that a table is, made and written by a thread for short work."""
        return await self.service.work.run(lambda: self.written(name, *make()))

    async def computed(
        self, name: str, key: Hashable, make: Callable[[], pa.Table], fields: Sequence[str] | None = None
    ) -> Response:
        """The answer that a table is which may take long to make; only the columns named `fields`, where they are."""
        table = await self.service.computations.table((self.snapshot.name, self.snapshot.revision, key), make)

        def written() -> Response:
            from hubstore.analysis import metadata

            return self.written(name, _selected(table, fields), metadata(table))

        return await self.service.work.run(written)

    async def record(self, make: Callable[[], Any]) -> Response:
        """The answer that a record is."""
        return await self.service.work.run(lambda: json_response(make(), revision=self.snapshot.revision))

    def written(self, name: str, table: pa.Table, about: Mapping[str, Any]) -> Response:
        """A table as an answer about this store."""
        return self.parts(name, table, about).whole()

    def parts(self, name: str, table: pa.Table, about: Mapping[str, Any]) -> Answers:
        """A table whose rows are several answers about this store."""
        from hubstore.serve.answers.about import public

        return Answers(
            table,
            {**public(about), "store": self.snapshot.name, "revision": self.snapshot.revision},
            self.form,
            name=f"{self.snapshot.name}-{name}",
            revision=self.snapshot.revision,
            most=self.service.limits.answer,
        )


def _selected(table: pa.Table, fields: Sequence[str] | None) -> pa.Table:
    if fields is None:
        return table
    unknown = [field for field in fields if field not in table.column_names]
    if unknown:
        raise QueryError(f"there is no field {unknown[0]!r}; there are {', '.join(table.column_names)}")
    return table.select([name for name in table.column_names if name in fields])


async def call_of(
    request: Request,
    service: ServiceOf,
    store: Annotated[str, Path(description="The store's name.", max_length=4096)],
    format: Annotated[FormatName | None, Query(description="Before the Accept header; to be saved as a file.")] = None,
) -> Call:
    """The store that a request is about, and its snapshot."""
    served = service.stores.get(store)
    if served is None:
        raise NotThereError(f"there is no store {store!r}; there are {', '.join(service.stores)}")
    return Call(service, await served.snapshot(), Format.wanted(request.headers.get("accept", ""), format))


CallOf = Annotated[Call, Depends(call_of)]

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in (
        (400, "A value that the store cannot answer."),
        (401, "The token is missing or wrong."),
        (404, "No such store, item, layer, pooling, partition or table."),
        (409, "An index is older than its store."),
        (413, "The body or the answer is too large."),
        (415, "A body that cannot be read."),
        (422, "A parameter or a body of another form."),
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
