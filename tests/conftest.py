"""Fixtures that several test folders share."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is first imported, whoever does so

os.environ["COLUMNS"] = "200"  # temporary folders may have long names: no message is to break at one

# Batched against single, and resumed against uninterrupted, are compared bit by bit or nearly so: one thread.
torch.set_num_threads(1)


class ToldAtOnce:
    """A test that fails or takes minutes is said when it does: a run that is cut short has told of it."""

    def __init__(self, config):
        self._config = config
        self._began = time.monotonic()

    def pytest_runtest_logreport(self, report):
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.duration > 120:
            after = time.monotonic() - self._began
            terminal.write_line(
                f"\n{report.duration:.0f} s: {report.nodeid} ({report.when}), {after:.0f} s after the start"
            )
        if report.failed:
            terminal.write_line(f"\nFAILED {report.nodeid} ({report.when})")
            for line in report.longreprtext.splitlines()[-12:]:
                terminal.write_line(f"    {line[:300]}")


def pytest_configure(config):
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(ToldAtOnce(config))


STARTS_RAY = ("tests/engines/", "tests/test_readme.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Where tests run side by side, those of a file stay together, and so do all that start Ray: it finds others'."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "Ray" if nodeid.startswith(STARTS_RAY) else super()._split_scope(nodeid)

    return Files(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def one_thread():
    """However many a test has set, or what it ran: engines count the room that an actor takes by them."""
    yield
    torch.set_num_threads(1)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of remote files of the test's own."""
    from hubstore.storage.cache import user_cache

    monkeypatch.setenv("HUBSTORE_CACHE", str(tmp_path / "cache"))
    user_cache.cache_clear()
    yield
    user_cache.cache_clear()


@pytest.fixture
def web(own_cache):
    """A web server whose files are in memory."""
    from tests.store.web_server import web_server

    with web_server() as server:
        yield server


@pytest.fixture(scope="session")
def real_model():
    """Folder of a real model by name; skipped where scripts/test has not fetched it."""

    def folder(name: str) -> str:
        path = Path(os.environ.get("HUBSTORE_TEST_MODELS", "")) / name
        if not os.environ.get("HUBSTORE_TEST_MODELS") or not path.is_dir():
            pytest.skip(f"{name} is not fetched; scripts/test fetches it")
        return str(path)

    return folder
