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


LONG = ("ray", "browser", "real")
"""Markers of files that take minutes; they come first, so that no process is left with one of them at the end."""


def pytest_collection_modifyitems(items):
    """Files of the longest tests come first; all that use a Ray cluster, which finds others', share one process."""
    rank = {}
    for item in items:
        marked = [LONG.index(name) for name in LONG if item.get_closest_marker(name)]
        rank[item.path] = min([rank.get(item.path, len(LONG)), *marked])
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
    items.sort(key=lambda item: rank[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests that run side by side stay together by file, or by the group that they are marked with."""
    from xdist.scheduler import LoadGroupScheduling

    class Files(LoadGroupScheduling):
        def _split_scope(self, nodeid):
            scope = super()._split_scope(nodeid)
            return nodeid.partition("::")[0] if scope == nodeid else scope

    return Files(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture(autouse=True, scope="session")
def unwaited_disk():
    """Files are written as ever, and nobody waits until the disk has them: no test takes its power away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(os, "sync", lambda: None)
        yield


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
def gemma(real_model):
    """Gemma 3 270M with its head; for tests that leave it as it is."""
    from hubstore.models import load_model

    return load_model(real_model("gemma-3-270m"), device="cpu", dtype="float32", head=True)


@pytest.fixture(scope="session")
def real_model():
    """Folder of a real model by name; skipped where scripts/test has not fetched it."""

    def folder(name: str) -> str:
        path = Path(os.environ.get("HUBSTORE_TEST_MODELS", "")) / name
        if not os.environ.get("HUBSTORE_TEST_MODELS") or not path.is_dir():
            pytest.skip(f"{name} is not fetched; scripts/test fetches it")
        return str(path)

    return folder
