"""The one place where Ray is imported, where a cluster is joined and left, and where its room is counted."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hubstore.checks import whole_number
from hubstore.errors import EngineError, MissingDependencyError

QUIET: Mapping[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}

ENVIRONMENT: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns that this will be its default
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # else what Ray says of a node that is lost goes to our stdout
}
"""Read when Ray is imported, or started; what the user has set stays."""

PROBE_S = 5.0
"""That whoever listens at a cluster's address has to answer; Ray itself tries for many minutes."""

POLL_S = 2.0
"""Seconds between two polls of the cluster's nodes."""

PATIENCE_S = 300.0
"""How long a cluster may have no room for a single actor or task: an autoscaler takes minutes to start a node."""

ANSI_COLORS = re.compile(r"\x1b\[[0-9;]*m")
TRACED = re.compile(r"\x1b\[[0-9;]*m|^Traceback ", re.MULTILINE)
"""In a message that holds where an error was raised; the error itself is its last line."""


@dataclass(frozen=True)
class Needs:
    """What one actor or task takes of a node.

    Args:
        cpus: as many as PyTorch has threads, for a model on the CPU.
        gpus: one, for a model on a GPU.
    """

    cpus: int
    gpus: int

    @classmethod
    def of(cls, device: torch.device) -> Needs:
        """What an actor needs that computes on a device such as this one."""
        return cls(1, 1) if device.type == "cuda" else cls(torch.get_num_threads(), 0)

    @classmethod
    def of_task(cls, device: str) -> Needs:
        """What a task needs of one thread, or of one GPU, by the type of its device."""
        return cls(1, int(device == "cuda"))

    def options(self) -> dict[str, int]:
        """As Ray takes them."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}

    def capacity(self, nodes: Iterable[Mapping[str, Any]]) -> int:
        """Actors or tasks that the nodes which are alive have room for, if nobody else is there."""
        return sum(self._on(node["Resources"]) for node in nodes if node["Alive"])

    def _on(self, resources: Mapping[str, float]) -> int:
        required = {"CPU": self.cpus, "GPU": self.gpus}
        return min(int(resources.get(name, 0) // count) for name, count in required.items() if count)

    def __str__(self) -> str:
        gpus = f" and {self.gpus} GPU" if self.gpus else ""
        return f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}{gpus}"


class ClusterCapacity:
    """How many actors or tasks a cluster has room for, polled repeatedly.

    Args:
        library: the Ray module.
        needs: of one actor or task.
        what: that is.
    """

    def __init__(self, library: Any, needs: Needs, what: str) -> None:
        self._ray = library
        self._needs = needs
        self._what = what
        self._seen = time.monotonic()

    def poll(self, stays: str, but: Collection[str] = ()) -> int:
        """How many there is room for, if nobody else is there.

        Args:
            stays: what an error says of the work that is done.
            but: nodes that do not count.

        Raises:
            EngineError: there has been none for as long as patience lasts.
        """
        capacity = self._needs.capacity(node for node in self._ray.nodes() if node["NodeID"] not in but)
        now = time.monotonic()
        if capacity:
            self._seen = now
        elif now - self._seen > PATIENCE_S:
            raise EngineError(
                f"no node of the Ray cluster has had room for {self._what} ({self._needs}) for {PATIENCE_S:.0f} s; "
                f"add one that has, or choose another --device. {stays}"
            )
        return capacity


def ray() -> Any:
    """The Ray module; MissingDependencyError, naming the extra to install, where there is none."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingDependencyError(
            'Ray is not installed: `pip install "hubstore[ray]"`, here and on every node; or use --engine local'
        ) from error


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[Any]:
    """Be part of a cluster, and leave it as it was.

    Args:
        address: of the cluster, "host:6379" or "ray://host:10001". By default the one that this process has joined,
            the one of RAY_ADDRESS, or the one that runs on this machine; else one is started here, and ended with us.

    Yields:
        The Ray module.

    Raises:
        EngineError: there is no cluster at the address.
        MissingDependencyError: Ray is not installed.
    """
    library = ray()
    if library.is_initialized():
        yield library
        return
    _join(library, address)
    try:
        yield library
    finally:
        library.shutdown()


def check_cluster(address: str | None) -> None:
    """EngineError where nothing answers at the address that was given, or at RAY_ADDRESS: before anything is loaded."""
    named = _named(address)
    if not (ray().is_initialized() or named in (None, "auto", "local")):
        _require(named)


def _named(address: str | None) -> str | None:
    """The address that was asked for, here or by RAY_ADDRESS."""
    return address if address not in (None, "auto") else os.environ.get("RAY_ADDRESS") or address


def _require(named: str | None) -> None:
    if (problem := unanswered(named)) is not None:
        raise _no_cluster(named, problem)


def _no_cluster(named: str | None, problem: str) -> EngineError:
    leave = "unset RAY_ADDRESS" if named == os.environ.get("RAY_ADDRESS") else "leave out --address"
    return EngineError(
        f"no Ray cluster can be joined at {named}: {problem}; start one with `ray start --head` and give its address "
        f"(HOST:6379), or {leave}"
    )


def unanswered(address: str | None) -> str | None:
    """Why nothing answers at an address; None where something does."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    number = whole_number(port)
    if not host or number is None or number < 0:
        return "it is not HOST:PORT"
    try:
        socket.create_connection((host.strip("[]"), number), PROBE_S).close()
    except (OSError, OverflowError, ValueError) as error:
        return first_line(error)
    return None


def _join(library: Any, address: str | None) -> None:
    named = _named(address)
    if named == "local" or (named is None and not _one_runs_here()):
        return _start(library)
    if named == "auto" and not _one_runs_here():
        raise _no_cluster(named, "none runs on this machine")
    if named not in (None, "auto"):
        _require(named)
    try:
        library.init(address=named or "auto", **QUIET)
    except ImportError as error:  # of a client: ray://
        raise MissingDependencyError(f'{named} needs `pip install "hubstore[ray]"`: {first_line(error)}') from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        if named is None and isinstance(error, ConnectionError):
            return _start(library)
        raise _no_cluster(named or "auto", first_line(error)) from error


def _one_runs_here() -> bool:
    """Whether a cluster answers that Ray finds by itself; one that was killed leaves its address behind."""
    services = importlib.import_module("ray._private.services")
    logging.getLogger("ray").setLevel(QUIET["logging_level"])
    getattr(services.find_gcs_addresses, "cache_clear", lambda: None)()  # older versions keep nothing
    try:
        return unanswered(services.canonicalize_bootstrap_address("auto")) is None
    except ConnectionError:
        return False


def _start(library: Any) -> None:
    """A cluster of this machine, with room for an actor even where Ray counts fewer CPUs than PyTorch has threads."""
    cpus = max(os.cpu_count() or 1, torch.get_num_threads())
    with _loopback_only():
        library.init(address="local", num_cpus=cpus, include_dashboard=False, **QUIET)


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """A cluster started within it listens on the loopback address alone, which Ray does on macOS and Windows only.

    Ray has no option for it: `_node_ip_address` is not taken where it is a loopback address. It asks a constant, made
    from an environment variable that the cluster's own processes inherit.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    name, before = constants.ENABLE_RAY_CLUSTERS_ENV_VAR, constants.ENABLE_RAY_CLUSTER
    former = os.environ.get(name)
    constants.ENABLE_RAY_CLUSTER, os.environ[name] = False, "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        if former is None:
            del os.environ[name]
        else:
            os.environ[name] = former


def end_tasks(library: Any, calls: Collection[Any]) -> None:
    """End those tasks that are still to do or under way.

    One that has just ended is left alone: cancelling it, Ray may end this very process ("Tried to complete task
    that was not pending").
    """
    if calls:
        for call in library.wait(list(calls), num_returns=len(calls), timeout=0, fetch_local=False)[1]:
            library.cancel(call, force=True)


def first_line(error: BaseException) -> str:
    """What an error says, in one line: what a task or an actor failed with, without what Ray says around it."""
    cause = getattr(error, "cause", None)  # of a RayTaskError
    failed = cause if isinstance(cause, BaseException) else error
    lines = ANSI_COLORS.sub("", str(failed)).strip().splitlines()
    if not lines:
        return type(failed).__name__
    if TRACED.search(str(failed)):
        return lines[-1]
    return lines[0] if failed is error else f"{type(failed).__name__}: {lines[0]}"
