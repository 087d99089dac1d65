"""The one place where Ray is imported, where a cluster is joined and left, and where its room is counted."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hubstore.errors import EngineError, MissingDependencyError

QUIET: Mapping[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}

ENVIRONMENT: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns that this will be its default
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # else what Ray says of a node that is lost goes to our stdout
}
"""Read when Ray is imported, or started; what the user has set stays."""


@dataclass(frozen=True)
class Needs:
    """What one actor takes of a node.

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

    def options(self) -> dict[str, int]:
        """As Ray takes them."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}

    def room(self, nodes: Sequence[Mapping[str, Any]]) -> int:
        """Actors that the nodes which are alive have room for, if nobody else is there."""
        return sum(self._on(node["Resources"]) for node in nodes if node["Alive"])

    def _on(self, resources: Mapping[str, float]) -> int:
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        return min(int(resources.get(name, 0) // count) for name, count in wanted.items() if count)

    def __str__(self) -> str:
        gpus = f" and {self.gpus} GPU" if self.gpus else ""
        return f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}{gpus}"


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


def _join(library: Any, address: str | None) -> None:
    try:
        library.init(address=address or "auto", **QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is not None or not isinstance(error, ConnectionError):
            raise EngineError(
                f"no Ray cluster can be joined at {address or os.environ.get('RAY_ADDRESS', 'auto')}: "
                f"{first_line(error)}; start one with `ray start --head` and give its address, or leave out --address"
            ) from error
        with _loopback_only():
            library.init(address="local", include_dashboard=False, **QUIET)


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """A cluster started within it listens on the loopback address alone, which Ray does on macOS and Windows only.

    Ray has no option for it: `_node_ip_address` is not taken where it is a loopback address. It asks a constant, made
    from an environment variable that the cluster's own processes inherit.
    """
    constants = importlib.import_module("ray._private.ray_constants")
    name, before = constants.ENABLE_RAY_CLUSTERS_ENV_VAR, constants.ENABLE_RAY_CLUSTER
    told = os.environ.get(name)
    constants.ENABLE_RAY_CLUSTER, os.environ[name] = False, "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        if told is None:
            del os.environ[name]
        else:
            os.environ[name] = told


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
