"""Requests to an object store for what is below one URL, large objects in parts side by side."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hubstore.errors import CorruptStoreError, StoreError
from hubstore.storage.cache import page_aligned
from hubstore.storage.cloud import no_place, translate_errors
from hubstore.storage.interface import FileStat
from hubstore.storage.location import Url
from hubstore.storage.record import Buffer, Bytes

if TYPE_CHECKING:
    from obstore import Bytes as Readable
    from obstore import GetResult, ObjectMeta
    from obstore.store import ObjectStore

STREAMED = 1 << 18
"""Bytes that are taken over from the client at a time: gathered first, they would be copied twice."""

REFUSED = re.compile(r"\b40[013]\b")
"""In what the client says of an answer that refuses."""

READERS = 16
"""Requests of one process at a time."""

PART = 8 << 20
"""Bytes of one request: larger objects are read and written in parts, side by side."""

PARTS = 9_000
"""Parts of an upload at most; servers take 10,000."""


class ObjectClient:
    """Requests for objects below one URL.

    Errors are hubstore's, except that FileNotFoundError says that there is no such object.

    Args:
        root: the URL.
        store: obstore's client for what is below it.
        first: a client of less patience, for as long as the server has not answered.
    """

    def __init__(self, root: Url, store: ObjectStore, first: ObjectStore | None = None) -> None:
        self.root = root
        self._patient = store
        self._first = first

    def store(self) -> ObjectStore:
        """The patient client, once the server has answered."""
        return self._patient if self._first is None else self._first

    def head(self, key: str) -> ObjectMeta | None:
        """The object's metadata; None where there is none."""
        import obstore

        with self.asking("looking up", key):
            try:
                return obstore.head(self.store(), key)
            except FileNotFoundError:
                return None
            except obstore.exceptions.BaseError as error:
                if not REFUSED.search(str(error)):
                    raise
            with contextlib.suppress(FileNotFoundError):
                return obstore.get(self.store(), key).meta  # refused as well, and with the reason that HEAD leaves out
            return None

    def list(self, prefix: str) -> list[ObjectMeta]:
        """The metadata of every object below `prefix`."""
        import obstore

        with self.asking("listing", prefix, absent=False):
            return [found for page in obstore.list(self.store(), prefix or None) for found in page]

    def whole(self, key: str, size: int = 0) -> Bytes:
        """The object's bytes in memory; `size` is what they should be, where it is known."""
        import obstore

        meta = self.head(key) if size > 2 * PART else None
        if meta is None:
            with self.asking("reading", key):
                found = obstore.get(self.store(), key)
                meta = found.meta
                if meta["size"] <= 2 * PART:
                    return _streamed(found)
        return self.parts(key, meta)

    def parts(self, key: str, meta: ObjectMeta) -> Bytes:
        """As `whole`, of the version that `meta` is of, in parts side by side."""
        out = page_aligned(meta["size"])

        def put(start: int, part: Bytes) -> None:
            out[start : start + len(part)] = part

        self._in_parts(key, meta, put)
        return out

    def download(self, key: str, meta: ObjectMeta, path: Path) -> None:
        """Write an object to a new file, as old as the object is, while its parts arrive."""
        with path.open("xb") as file:
            self._in_parts(key, meta, lambda start, part: _write_at(file.fileno(), start, part))
        os.utime(path, ns=(time.time_ns(), stat_of(key, meta).mtime_ns))

    def ranges(self, key: str, starts: Sequence[int], stops: Sequence[int]) -> Sequence[Bytes]:
        """Bytes [start, stop) of an object, side by side; shorter where the object is."""
        import obstore

        with self.asking("reading", key):
            found = obstore.get_ranges(self.store(), key, starts=starts, ends=stops, coalesce=0)
        return [_array(part) for part in found]

    def put(self, key: str, content: bytes | memoryview | Path, size: int) -> None:
        """Put the object, in parts of one upload where it is large: it is there when the last part is."""
        import obstore

        with self.asking("writing", key, absent=False):
            obstore.put(self.store(), key, content, chunk_size=max(PART, -(-size // PARTS)))

    def put_if_absent(self, key: str, content: bytes | memoryview) -> bool:
        """Put the object on the condition that there is none, which the server decides; whether it held."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        token = uuid.uuid4().hex
        with self.asking("writing", key, absent=False):
            try:
                obstore.put(
                    self.store(), key, content, mode="create", use_multipart=False, attributes={"writer": token}
                )
            except (AlreadyExistsError, PreconditionError):
                with contextlib.suppress(FileNotFoundError):  # ours, where an answer was lost and the put tried again
                    return bool(obstore.get(self.store(), key).attributes.get("writer") == token)
                return False
        return True

    def delete(self, key: str) -> None:
        """Remove the object, if it is there."""
        import obstore

        with contextlib.suppress(FileNotFoundError), self.asking("removing", key):
            obstore.delete(self.store(), key)

    @contextlib.contextmanager
    def asking(self, doing: str, key: str, *, absent: bool = True) -> Iterator[None]:
        """Turn what the client raises into hubstore's errors.

        FileNotFoundError of a key is raised as it is, unless the request is such that there need be none (`absent`).
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        what = f"{doing} {self.root / key if key else self.root}"
        try:
            with translate_errors(what, self.root):
                yield
        except StoreError:
            raise
        except FileNotFoundError:
            if absent:
                raise
            raise no_place(what) from None
        except (AlreadyExistsError, PreconditionError):
            raise StoreError(
                f"{what}: the server refused it, since something else was done to the object at the same time; run the "
                "same command again"
            ) from None
        self._first = None  # the server answers

    def _in_parts(self, key: str, meta: ObjectMeta, put: Callable[[int, Bytes], None]) -> None:
        """Read an object in parts side by side, all of one version."""
        import obstore

        size, version = meta["size"], meta["e_tag"]
        same = {"if_match": version} if version and not version.startswith("W/") else {}  # weak ones match nothing

        def read(start: int) -> None:
            stop = min(start + PART, size)
            options: Any = {"range": (start, stop), **same}
            with self.asking("reading", key):
                try:
                    found = obstore.get(self.store(), key, options=options)
                    part = _array(found.bytes())
                except obstore.exceptions.PreconditionError:
                    raise self._changed_meanwhile(key) from None
            if _versions_differ(meta, found.meta) or len(part) != stop - start:
                raise self._changed_meanwhile(key)
            put(start, part)

        starts = range(0, size, PART)
        if len(starts) <= 1:
            for start in starts:
                read(start)
            return
        with ThreadPoolExecutor(min(READERS, len(starts))) as pool:
            list(pool.map(read, starts))

    def _changed_meanwhile(self, key: str) -> CorruptStoreError:
        return CorruptStoreError(f"{self.root / key} changed while it was read; run the same command again")


def stat_of(key: str, meta: ObjectMeta) -> FileStat:
    """An object's metadata as any storage gives it."""
    return FileStat(key, meta["size"], round(meta["last_modified"].timestamp() * 1e9), meta["e_tag"])


def concatenated(buffers: Sequence[Buffer]) -> bytes | memoryview:
    """The concatenated buffers; one alone is not copied."""
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    return views[0] if len(views) == 1 else b"".join(views)


def _array(content: Readable | bytes) -> Bytes:
    return np.frombuffer(memoryview(content), np.uint8)


def _streamed(found: GetResult) -> Bytes:
    """An object's bytes, each copied once."""
    out, end = page_aligned(found.meta["size"]), 0
    for chunk in found.stream(min_chunk_size=STREAMED):
        part = _array(chunk)
        if end + len(part) > len(out):
            break
        out[end : end + len(part)] = part
        end += len(part)
    return out[:end]


def _versions_differ(one: ObjectMeta, other: ObjectMeta) -> bool:
    """Whether two answers are of different objects, as far as both tell."""
    tags = {found["e_tag"] for found in (one, other)} - {None}
    times = {found["last_modified"].timestamp() for found in (one, other)} - {0}
    return one["size"] != other["size"] or len(tags) > 1 or len(times) > 1


def _write_at(descriptor: int, start: int, content: Bytes) -> None:
    view = content.data
    while view:
        written = os.pwrite(descriptor, view, start)
        view, start = view[written:], start + written
