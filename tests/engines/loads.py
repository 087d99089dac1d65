"""Models as workers load them: well, slowly, never, or not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from hubstore.errors import ModelError
from hubstore.models import Model
from tests.tiny_models import tiny_model


def gpt2_on(device: str, seed: int = 0) -> Model:
    return tiny_model("gpt2", seed=seed)


def slow_on(device: str, folder: Path, seconds: float) -> Model:
    """A model that takes its time, until it has been long enough, and writes down the processes that it is in."""
    (folder / str(os.getpid())).touch()
    return _before_each_batch(tiny_model("gpt2"), lambda: _dawdle(folder, seconds))


def slow_and_broken_once_on(device: str, folder: Path, seconds: float) -> Model:
    """The same, of which the first batch that anyone runs breaks."""

    def break_or_wait() -> None:
        try:
            (folder / "broken").touch(exist_ok=False)
        except FileExistsError:
            _dawdle(folder, seconds)
        else:
            raise RuntimeError("the device is gone")

    (folder / str(os.getpid())).touch()
    return _before_each_batch(tiny_model("gpt2"), break_or_wait)


def stuck_once_on(device: str, marker: Path) -> Model:
    """A model that the first to load it never gets a batch through."""
    model = tiny_model("gpt2")
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return model
    return _before_each_batch(model, lambda: time.sleep(600))


def missing_on(device: str, node: str, folder: Path) -> Model:
    """A model that a node does not have, which it finds out when another has it, and waits for that to happen."""
    import ray

    loaded, failed = folder / "loaded", folder / "failed"
    if ray.get_runtime_context().get_node_id() != node:
        loaded.touch()
        return _before_each_batch(tiny_model("gpt2"), lambda: _await(failed))
    _await(loaded)
    time.sleep(2.0)  # until it has told
    failed.touch()
    raise ModelError("there is no model folder")


def killed_on(device: str) -> Model:
    """No model: the process is killed as for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def _await(file: Path) -> None:
    while not file.exists():
        time.sleep(0.1)


def _dawdle(folder: Path, seconds: float) -> None:
    if not (folder / "enough").exists():
        time.sleep(seconds)


def _before_each_batch(model: Model, call) -> Model:
    model.blocks[0].register_forward_pre_hook(lambda *args: call())
    return model
