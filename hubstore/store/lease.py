"""Being a remote store's only writer: a lease, an object put where none is, and renewed while its owner lives."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubstore.errors import StoreError, StoreLockedError
from hubstore.store.cloud import told
from hubstore.store.layout import encode_json

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from hubstore.location import Url

LEASE = ".writer.json"
LEASE_S = 60.0
"""How long a lease outlives its owner. Clocks of writers may differ by less than that."""

RENEWALS = 4
"""Times a lease is renewed before it would end."""


@dataclass(frozen=True)
class Owner:
    """A process that writes: `machine` tells whether its `pid` can be looked up from here."""

    host: str
    pid: int
    machine: str
    token: str

    @classmethod
    def here(cls) -> Owner:
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


class Lease:
    """The right to write to one store, for as long as it is held and renewed.

    Args:
        store: the object store's client.
        root: the store, for messages.
        seconds: how long it outlives its owner.
    """

    def __init__(self, store: ObjectStore, root: Url, seconds: float = LEASE_S) -> None:
        self._store = store
        self._root = root
        self._seconds = seconds
        self._owner = Owner.here()
        self._version: Any = None
        self._until = 0.0
        self._ended = threading.Event()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Take it, renew it from a thread, and give it back.

        Raises:
            StoreLockedError: another process has it.
        """
        self._take()
        renewing = threading.Thread(target=self._renew, daemon=True, name="hubstore lease")
        renewing.start()
        try:
            yield
        finally:
            self._ended.set()
            renewing.join()
            self._give_back()

    def check(self) -> None:
        """StoreLockedError where it ended before it could be renewed: another process may write by now."""
        if time.time() >= self._until:
            raise StoreLockedError(
                f"{self._root}: the right to write ended, since the server did not renew it for {self._seconds:.0f} s "
                "or another process took it; run the same command again: it goes on from the last committed shard"
            )

    def _take(self) -> None:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            self._put("create")
        except (AlreadyExistsError, PreconditionError):
            there = self._there()
            if there is None:  # given back in between
                self._take()
                return
            owner, until, version = there
            if owner.token == self._owner.token:  # our own put, whose answer was lost
                self._version, self._until = version, until
                return
            if time.time() < until and not owner.gone():
                raise self._locked(owner, until) from None
            try:
                self._put(version)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                self._take()

    def _there(self) -> tuple[Owner, float, Any] | None:
        import obstore

        with told(f"reading {self._root / LEASE}", self._root):
            try:
                found = obstore.get(self._store, LEASE)
                record = json.loads(bytes(found.bytes()))
                version = _version(found.meta)
            except FileNotFoundError:
                return None
            except ValueError:
                record = {}
        try:
            return Owner(**record["owner"]), float(record["until"]), version
        except (KeyError, TypeError, ValueError):
            raise StoreError(f"{self._root / LEASE} is no lease; remove it where no process writes there") from None

    def _put(self, mode: Any) -> None:
        import obstore

        until = time.time() + self._seconds
        body = encode_json({"owner": asdict(self._owner), "until": until})
        with told(f"locking {self._root}", self._root):
            put = obstore.put(self._store, LEASE, body, mode=mode, use_multipart=False)
        self._version, self._until = _version(put), until

    def _renew(self) -> None:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        while not self._ended.wait(self._seconds / RENEWALS):
            try:
                self._put(self._version)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                there = self._there_or_none()
                if there is None or there[0].token != self._owner.token:
                    self._until = 0.0
                    return
                self._until, self._version = there[1], there[2]
            except StoreError:
                continue  # tried again until it ends

    def _there_or_none(self) -> tuple[Owner, float, Any] | None:
        try:
            return self._there()
        except StoreError:
            return None

    def _give_back(self) -> None:
        import obstore

        there = self._there_or_none()
        if there is not None and there[0].token == self._owner.token:
            with contextlib.suppress(StoreError, FileNotFoundError), told(f"unlocking {self._root}", self._root):
                obstore.delete(self._store, LEASE)

    def _locked(self, owner: Owner, until: float) -> StoreLockedError:
        return StoreLockedError(
            f"{self._root} is being written by process {owner.pid} on {owner.host}; wait until it ends, then try "
            f"again. If it was killed, its right to write ends in {max(until - time.time(), 0):.0f} s"
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
