"""A store on a server: the verbs of `hubstore.Store` that need no writing, and those verbs awaited."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyarrow as pa

from hubstore.client import verbs
from hubstore.client.connection import AsyncConnection, Connection, Endpoint, Steps
from hubstore.client.verbs import BaseRemoteStore, RemotePartition

TIMEOUT = 60.0
TOKEN = "HUBSTORE_TOKEN"

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(verb: Callable[Concatenate[BaseRemoteStore, P], Steps[T]]) -> Callable[Concatenate[RemoteStore, P], T]:
    @functools.wraps(verb)
    def method(self: RemoteStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.connection.run(verb(self, *args, **kwargs))

    return method


def _awaiting(
    verb: Callable[Concatenate[BaseRemoteStore, P], Steps[T]],
) -> Callable[Concatenate[AsyncRemoteStore, P], Coroutine[Any, Any, T]]:
    @functools.wraps(verb)
    async def method(self: AsyncRemoteStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.connection.run(verb(self, *args, **kwargs))

    return method


class RemoteStore(BaseRemoteStore):
    """A store on a server, with what can be asked of a `hubstore.Store`; made by `hubstore.connect`.

    A local store is as it was when it was opened. A server's gains commits while it is asked: every answer is of one
    state of the store, and so is every table here that takes several answers.
    """

    def __init__(self, connection: Connection, name: str, info: Mapping[str, Any]) -> None:
        super().__init__(connection.endpoint, name, info)
        self.connection = connection

    def __enter__(self) -> RemoteStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Items committed, now."""
        return int(self.info()["items"])

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    @property
    def digest(self) -> str:
        """Of the store's content, now; answers have it in their metadata."""
        return str(self.info()["revision"])

    @property
    def partitions(self) -> Mapping[str, RemotePartition]:
        """Every partition by name, in the store's order, now."""
        return self.connection.run(verbs.partitions(self))

    @property
    def items(self) -> pa.Table:
        """One row per item, in position order: all of them, in pages of a thousand; `find_items` gives some."""
        return self.connection.run(verbs.items(self))

    info = _blocking(verbs.info)
    find_items = _blocking(verbs.find_items)
    preview = _blocking(verbs.preview)
    search = _blocking(verbs.search)
    vectors = _blocking(verbs.vectors)
    analyze = _blocking(verbs.analyze)
    analyses = _blocking(verbs.analyses)
    analysis = _blocking(verbs.analysis)
    lens = _blocking(verbs.lens)
    lens_summary = _blocking(verbs.lens_summary)
    projection = _blocking(verbs.projection)


class AsyncRemoteStore(BaseRemoteStore):
    """A store on a server, for programs with an event loop; made by `hubstore.connect_async`.

    Its verbs are those of `RemoteStore`, awaited; `items` and `partitions` are verbs here too. What takes several
    requests sends them at once.
    """

    def __init__(self, connection: AsyncConnection, name: str, info: Mapping[str, Any]) -> None:
        super().__init__(connection.endpoint, name, info)
        self.connection = connection

    async def __aenter__(self) -> AsyncRemoteStore:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self.connection.close()

    info = _awaiting(verbs.info)
    items = _awaiting(verbs.items)
    partitions = _awaiting(verbs.partitions)
    find_items = _awaiting(verbs.find_items)
    preview = _awaiting(verbs.preview)
    search = _awaiting(verbs.search)
    vectors = _awaiting(verbs.vectors)
    analyze = _awaiting(verbs.analyze)
    analyses = _awaiting(verbs.analyses)
    analysis = _awaiting(verbs.analysis)
    lens = _awaiting(verbs.lens)
    lens_summary = _awaiting(verbs.lens_summary)
    projection = _awaiting(verbs.projection)


def connect(url: str, token: str | None = None, store: str | None = None, timeout: float = TIMEOUT) -> RemoteStore:
    """A store that `hubstore serve` serves.

    Args:
        url: the server's address, such as http://127.0.0.1:8000.
        token: its bearer token, where it wants one; by default that of HUBSTORE_TOKEN in the environment.
        store: the store's name; may be left out where the server has one.
        timeout: seconds to wait for an answer, and in all for a server that is busy or works on the answer.

    Raises:
        QueryError: an address that is none, or a store that the server does not have.
        ServerError: no server answers there, or none of hubstore's.
        TokenError: the token is missing or wrong.

    Example:
        >>> hubstore.connect("http://127.0.0.1:8000").search(ids=["en:1"], k=3).to_pandas()
    """
    connection = Connection(_endpoint(url, token, timeout))
    return RemoteStore(connection, *connection.run(verbs.connect(connection.endpoint, store)))


async def connect_async(
    url: str, token: str | None = None, store: str | None = None, timeout: float = TIMEOUT
) -> AsyncRemoteStore:
    """A store that `hubstore serve` serves, for programs with an event loop; as `connect`.

    Example:
        >>> async with await hubstore.connect_async("http://127.0.0.1:8000") as store:
        ...     first, second = await asyncio.gather(store.search(ids=["en:1"]), store.search(ids=["en:2"]))
    """
    connection = AsyncConnection(_endpoint(url, token, timeout))
    try:
        return AsyncRemoteStore(connection, *await connection.run(verbs.connect(connection.endpoint, store)))
    except BaseException:
        await connection.close()
        raise


def _endpoint(url: str, token: str | None, timeout: float) -> Endpoint:
    return Endpoint(url, token or os.environ.get(TOKEN, "").strip() or None, timeout)
