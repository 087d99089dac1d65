"""A store on a server: the verbs of `hubstore.Store` that need no writing, and those verbs awaited."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc

from hubstore.client import verbs
from hubstore.client.base import BaseRemoteStore, RemotePartition
from hubstore.client.connection import AsyncConnection, Connection, Endpoint, Steps
from hubstore.errors import HubstoreError, Parameter, QueryError, TokenError
from hubstore.store.columns import ITEM_SCHEMA

if TYPE_CHECKING:
    from hubstore.client.item import AsyncStoredItem
    from hubstore.client.states import AsyncRemoteStates, RemoteStates
    from hubstore.opened.item import StoredItem
    from hubstore.plots.store import StorePlots

TIMEOUT = 60.0
TOKEN = "HUBSTORE_TOKEN"
TOKEN_FIRST = "the token before the store's name is deprecated; write connect(url, store, token=...)"

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

    def __getitem__(self, item: str) -> StoredItem:
        """An item by its id, or by PARTITION:CONCEPT, with its states and its equivalents; as of `hubstore.Store`."""
        from hubstore.opened.item import StoredItem

        found = self.connection.run(verbs.item(self, item))

        def states(name: str, layers: Any, pooling: str | None) -> pa.Table:
            return self.vectors([name], layers=layers, pooling=pooling)

        def others() -> pa.Table:
            if found["concept"] is None:
                return self.find_items(limit=1).slice(0, 0)
            table = self.connection.run(verbs.items(self, ("concept", found["concept"])))
            return table.filter(pc.not_equal(table["id"], found["id"]))

        return StoredItem(**_fields(found), _states=states, _others=others)

    @property
    def plot(self) -> StorePlots:
        """Figures, as of `hubstore.Store.plot`; `lens` with the lens that the store keeps."""
        from hubstore.plots.store import StorePlots

        return StorePlots(self)

    def hidden(self, layer: str | int, pooling: str | None = None) -> RemoteStates:
        """The hidden states of one layer, of the items of now; QueryError for a layer or pooling that is not kept.

        Raises:
            QueryError: pooling "tokens", whose rows are no items: `vectors` gives an item's.
        """
        from hubstore.client.states import RemoteStates

        name, pooled = self.layer_name(layer), _of_items(self.pooling_name(pooling))
        fetch = functools.partial(self.vectors, layers=[name], pooling=pooled)
        return RemoteStates(name, pooled, self.width, self.dtype, self.items["id"].to_pylist(), fetch)

    def partition(self, name: str) -> RemotePartition:
        """The partition called `name`; QueryError, naming those there are, when there is none."""
        return self.connection.run(verbs.partition(self, name))

    def export(
        self,
        out: str | Path,
        *,
        layers: Sequence[str | int] | None = None,
        pooling: str | None = None,
        partition: str | None = None,
        format: str = "npy",
        states: bool = True,
        overwrite: bool = False,
    ) -> list[Path]:
        """Write hidden states or items into a folder here; see `hubstore.store.export.export`."""
        from hubstore.store import export

        return export.export(
            cast(Any, self),  # it reads what both kinds of stores have
            Path(out),
            layers=layers,
            pooling=pooling,
            partition=partition,
            format=format,
            states=states,
            overwrite=overwrite,
        )

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

    Its verbs are those of `RemoteStore`, awaited: `await store.hidden(2)`, whose rows are awaited in turn, and
    `await store["en:3"]`. `items` and `partitions` are verbs too. What takes several requests sends them at once.
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

    def __getitem__(self, item: str) -> Awaitable[AsyncStoredItem]:
        """An item by its id, or by PARTITION:CONCEPT: `await store["en:3"]`."""
        return self._item(item)

    async def _item(self, item: str) -> AsyncStoredItem:
        from hubstore.client.item import AsyncStoredItem

        found = await self.connection.run(verbs.item(self, item))

        async def states(names: list[str], layers: Any, pooling: str | None) -> pa.Table:
            return await self.vectors(names, layers=layers, pooling=pooling)

        async def others() -> pa.Table:
            if found["concept"] is None:
                return (await self.find_items(limit=1)).slice(0, 0)
            table = await self.connection.run(verbs.items(self, ("concept", found["concept"])))
            return table.filter(pc.not_equal(table["id"], found["id"]))

        return AsyncStoredItem(**_fields(found), _states=states, _others=others)

    async def hidden(self, layer: str | int, pooling: str | None = None) -> AsyncRemoteStates:
        """The hidden states of one layer, of the items of now: `await (await store.hidden(2))[:4]`.

        Raises:
            QueryError: a layer or pooling that is not kept, or pooling "tokens", whose rows are no items.
        """
        from hubstore.client.states import AsyncRemoteStates

        name, pooled = self.layer_name(layer), _of_items(self.pooling_name(pooling))
        fetch = functools.partial(self.vectors, layers=[name], pooling=pooled)
        ids = (await self.items())["id"].to_pylist()
        return AsyncRemoteStates(name, pooled, self.width, self.dtype, ids, fetch)

    async def export(self, out: str | Path, **options: Any) -> list[Path]:
        """Write hidden states or items into a folder here, on a thread; `options` are those of `RemoteStore.export`."""

        def written() -> list[Path]:
            with RemoteStore(Connection(self._endpoint), self.name, self._info) as store:
                return store.export(out, **options)

        return await asyncio.to_thread(written)

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


def _fields(found: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an item from what a server says of it."""
    named = {name: found[name] for name in ("id", "text", "language", "concept", "modality", "media", "position")}
    return named | {
        "columns": {name: value for name, value in found.items() if name in ITEM_SCHEMA.names} | found["columns"]
    }


def _of_items(pooling: str) -> str:
    """QueryError for a pooling whose rows are no items."""
    if pooling == "tokens":
        raise QueryError(
            "rows of pooling tokens are no items, and a server gives an item's own: ask for vectors of ids with ",
            Parameter("pooling", "tokens"),
        )
    return pooling


def connect(url: str, store: str | None = None, token: str | None = None, timeout: float = TIMEOUT) -> RemoteStore:
    """A store that `hubstore serve` serves.

    Args:
        url: the server's address, such as http://127.0.0.1:8000.
        store: the store's name; may be left out where the server has one.
        token: the server's bearer token, where it wants one; by default that of HUBSTORE_TOKEN in the environment.
            That it comes before the store's name is deprecated.
        timeout: seconds to wait for an answer, and in all for a server that is busy or works on the answer.

    Raises:
        QueryError: an address that is none, or a store that the server does not have.
        ServerError: no server answers there, or none of hubstore's.
        TokenError: the token is missing or wrong.

    Example:
        >>> with hubstore.connect(url) as served:
        ...     served.search(ids=["en:1"], k=3, layers=[2]).num_rows
        3
    """

    def opened(name: str | None, secret: str | None) -> RemoteStore:
        connection = Connection(_endpoint(url, secret, timeout))
        return RemoteStore(connection, *connection.run(verbs.connect(connection.endpoint, name)))

    try:
        return opened(store, token)
    except (QueryError, TokenError) as error:
        if not _may_be_swapped(error, store, token):
            raise
        with contextlib.suppress(HubstoreError):  # as in the release before
            found = opened(token, store)
            warnings.warn(TOKEN_FIRST, DeprecationWarning, stacklevel=2)
            return found
        raise


async def connect_async(
    url: str, store: str | None = None, token: str | None = None, timeout: float = TIMEOUT
) -> AsyncRemoteStore:
    """A store that `hubstore serve` serves, for programs with an event loop; as `connect`.

    Example:
        >>> async def both(url):
        ...     async with await hubstore.connect_async(url) as store:
        ...         searches = (store.search(ids=[name], layers=[2], k=1) for name in ("en:1", "en:2"))
        ...         return await asyncio.gather(*searches)
        >>> [hits["query"].to_pylist() for hits in asyncio.run(both(url))]
        [['en:1'], ['en:2']]
    """

    async def opened(name: str | None, secret: str | None) -> AsyncRemoteStore:
        connection = AsyncConnection(_endpoint(url, secret, timeout))
        try:
            return AsyncRemoteStore(connection, *await connection.run(verbs.connect(connection.endpoint, name)))
        except BaseException:
            await connection.close()
            raise

    try:
        return await opened(store, token)
    except (QueryError, TokenError) as error:
        if not _may_be_swapped(error, store, token):
            raise
        with contextlib.suppress(HubstoreError):  # as in the release before
            found = await opened(token, store)
            warnings.warn(TOKEN_FIRST, DeprecationWarning, stacklevel=2)
            return found
        raise


def _may_be_swapped(error: HubstoreError, store: str | None, token: str | None) -> bool:
    """Whether the store's name may have been given as the token and the token as the name, as before this release."""
    return (isinstance(error, TokenError) and store is not None) or (store is None and token is not None)


def _endpoint(url: str, token: str | None, timeout: float) -> Endpoint:
    return Endpoint(url, token or os.environ.get(TOKEN, "").strip() or None, timeout)
