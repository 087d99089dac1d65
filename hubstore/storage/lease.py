"""Being a remote store's only writer: a lease, an object put where none is, and renewed while its owner lives."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubstore.decoding import decode_object
from hubstore.errors import StoreError, StoreLockedError
from hubstore.storage.cloud import no_place, translate_errors

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from hubstore.storage.location import Url

LEASE = ".writer.json"
LEASE_S = 60.0
"""How long a lease outlives its owner."""

RENEWALS = 4
"""Times a lease is renewed before it would end."""

ATTEMPTS = 20
"""To take a lease that others take, give back and remove meanwhile."""

GIVEN_BACK = 0.0
"""When a lease ended that its owner gave back."""

STALE = {"e_tag": '"none"', "version": "0"}
"""The version of no lease, as each kind of store names versions."""

NO_BUCKET = "NoSuchBucket"
"""In what the client says of a key that is missing with its bucket."""

UNSUPPORTED = re.compile(r"NotImplemented|501 Not Implemented")
"""In what the client says of a server that knows no conditions."""


@dataclass(frozen=True)
class Owner:
    """A process that writes: `machine` tells whether its `pid` can be looked up from here."""

    host: str
    pid: int
    machine: str
    token: str

    @classmethod
    def this_process(cls) -> Owner:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), _machine(), uuid.uuid4().hex)

    def gone(self) -> bool:
        """Whether it is known to have ended."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


@dataclass(frozen=True)
class _Found:
    """A lease as it is in the store."""

    owner: Owner
    until: float
    version: Any


class Lease:
    """The right to write to one store, for as long as it is held and renewed.

    Args:
        client: gives the object store's client, which may become a more patient one.
        root: the store, for messages.
        seconds: how long it outlives its owner.
    """

    def __init__(self, client: Callable[[], ObjectStore], root: Url, seconds: float = LEASE_S) -> None:
        self._client = client
        self._root = root
        self._seconds = seconds
        self._owner = Owner.this_process()
        self._version: Any = None
        self._until = 0.0
        self._ended = threading.Event()

    @property
    def token(self) -> str:
        """What tells this lease from every other; whoever knows it can do nothing with it."""
        return self._owner.token

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Take it, renew it from a thread, and give it back.

        Raises:
            StoreLockedError: another process has it.
            StoreError: the server does not honor conditions, without which two could have it.
        """
        self._take()
        renewing = threading.Thread(target=self._renew, daemon=True, name="hubstore lease")
        try:
            self._prove()
            renewing.start()
            yield
        finally:
            self._ended.set()
            if renewing.is_alive():
                renewing.join()
            self._give_back()

    def check(self, *, anew: bool = False) -> None:
        """StoreLockedError where it ended before it could be renewed: another process may write by now.

        Args:
            anew: ask the server as well.
        """
        if time.time() >= self._until:
            raise _ended(self._root)
        if anew:
            found = _read(self._client(), self._root)
            if found is None or found.owner.token != self.token:
                raise _ended(self._root)

    def _take(self) -> None:
        mode: Any = "create"
        found, waited = None, False
        for _ in range(ATTEMPTS):
            if self._put(mode):
                return
            found = _read(self._client(), self._root)
            if found is None:  # removed in between, or the server has nothing at this place and takes nothing
                mode = "create"
                continue
            if found.owner.token == self.token:  # our own put, whose answer was lost
                self._version, self._until = found.version, found.until
                return
            if found.until != GIVEN_BACK and not found.owner.gone():
                if waited or time.time() < found.until:
                    raise self._locked(found)
                time.sleep(self._seconds / (RENEWALS - 1))  # by its own clock it may live, and is then renewed
                waited = True
            mode = found.version
        raise no_place(f"locking {self._root}") if found is None else self._locked(found)

    def _prove(self) -> None:
        """StoreError where the server puts what its conditions forbid."""
        if self._put("create") or self._put(STALE):
            raise self._unconditional()

    def _put(self, mode: Any, until: float | None = None) -> bool:
        """Whether the condition held."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        until = time.time() + self._seconds if until is None else until
        body = json.dumps({"owner": asdict(self._owner), "until": until}).encode()
        with translate_errors(f"locking {self._root}", self._root):
            try:
                put = obstore.put(self._client(), LEASE, body, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
            except FileNotFoundError as error:
                if NO_BUCKET in str(error):
                    raise
                return False
            except BaseError as error:
                if UNSUPPORTED.search(str(error)):
                    raise self._unconditional() from None
                raise
        self._version, self._until = _version(put), until
        return True

    def _renew(self) -> None:
        while not self._ended.wait(self._seconds / RENEWALS):
            with contextlib.suppress(StoreError):  # tried again until it ends
                if self._put(self._version):
                    continue
                found = _read(self._client(), self._root)
                if found is None or found.owner.token != self.token:
                    self._until = 0.0
                    return
                self._until, self._version = found.until, found.version

    def _give_back(self) -> None:
        """End it, on the condition that nobody took it: a delete has no condition, and might remove another's."""
        with contextlib.suppress(StoreError):
            found = _read(self._client(), self._root)
            if found is not None and found.owner.token == self.token:
                self._put(found.version, GIVEN_BACK)

    def _locked(self, found: _Found) -> StoreLockedError:
        return StoreLockedError(
            f"{self._root} is being written by process {found.owner.pid} on {found.owner.host}; wait until it ends, "
            f"then try again. If it was killed, its right to write ends in {max(found.until - time.time(), 0):.0f} s"
        )

    def _unconditional(self) -> StoreError:
        return StoreError(
            f"{self._root} cannot be written to: its server does not honor conditional puts (If-None-Match, "
            "If-Match), without which two writers could destroy each other's work; extract into a folder, and copy "
            "that there"
        )


class DelegatedLease:
    """The right to write of the process that started this one.

    It is alive while it is renewed, whatever this machine's clock says.

    Args:
        client: gives the object store's client.
        root: the store, for messages.
        token: the lease's.
        seconds: how long it outlives its owner.
    """

    def __init__(self, client: Callable[[], ObjectStore], root: Url, token: str, seconds: float = LEASE_S) -> None:
        self.token = token
        self._client = client
        self._root = root
        self._seconds = seconds
        self._guard = threading.Lock()
        self._next = 0.0
        self._version: Any = None
        self._renewed = 0.0

    def check(self, *, anew: bool = False) -> None:
        """StoreLockedError where it is another's, gone, given back or no longer renewed; asked as often as renewed.

        Args:
            anew: ask the server whenever it was asked last.
        """
        with self._guard:
            now = time.monotonic()
            if now < self._next and not anew:
                return
            found = _read(self._client(), self._root)
            if found is None or found.owner.token != self.token or found.until == GIVEN_BACK:
                raise _ended(self._root)
            if found.version != self._version:
                self._version, self._renewed = found.version, now
            elif now - self._renewed >= self._seconds:
                raise _ended(self._root)
            self._next = now + self._seconds / RENEWALS


def _read(client: ObjectStore, root: Url) -> _Found | None:
    import obstore

    with translate_errors(f"reading {root / LEASE}", root):
        try:
            found = obstore.get(client, LEASE)
            record = decode_object(bytes(found.bytes()))
        except FileNotFoundError as error:
            if NO_BUCKET in str(error):
                raise
            return None
        except ValueError:
            record = {}
    try:
        return _Found(Owner(**record["owner"]), float(record["until"]), _version(found.meta))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise StoreError(f"{root / LEASE} is no lease; remove it where no process writes there") from None


def _ended(root: Url) -> StoreLockedError:
    return StoreLockedError(
        f"{root}: the right to write ended, since the server did not renew it in time or another process took it; "
        "run the same command again: it goes on from the last committed shard"
    )


def _version(found: Any) -> dict[str, str]:
    return {name: found[name] for name in ("e_tag", "version") if found[name]}


def _machine() -> str:
    """This boot of this machine, and the processes that can be seen: pids are compared within one only."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"unknown/{uuid.uuid4().hex}"
