"""What is said where no cluster is, before anything is loaded or waited for."""

from __future__ import annotations

import socket
import time

import pytest

import hubstore
from hubstore.errors import EngineError
from hubstore.extraction import cluster
from hubstore.extraction.cluster import ANSI_COLORS, connected, first_line
from tests.extraction import victim

pytest.importorskip("ray")


@pytest.fixture
def dead():
    """An address that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{free.getsockname()[1]}"


def test_an_address_where_nothing_answers_is_said_at_once(dead, capfd):
    began = time.monotonic()
    with pytest.raises(EngineError, match=rf"at {dead}: .*refused; start one .*leave out --address"), connected(dead):
        pass
    assert time.monotonic() - began < 10
    assert capfd.readouterr().err == ""


def test_so_is_that_of_the_environment_and_no_other_cluster_is_taken(dead, capfd, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", dead)
    began = time.monotonic()
    for address in (None, "auto"):
        with pytest.raises(EngineError, match=rf"at {dead}: .*refused; .*unset RAY_ADDRESS"), connected(address):
            pass
    assert time.monotonic() - began < 10
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("address", ["head", "head:port", "ray://head", ":6379"])
def test_what_is_no_address_is_said(address):
    with pytest.raises(EngineError, match=rf"at {address}: it is not HOST:PORT; .*HOST:6379"), connected(address):
        pass


def test_nothing_is_loaded_for_a_cluster_that_is_not_there(dead, tmp_path):
    with pytest.raises(EngineError, match=f"no Ray cluster can be joined at ray://{dead}"):
        hubstore.extract(
            victim.corpus(), str(tmp_path / "none"), tmp_path / "x.hub", engine="ray", address=f"ray://{dead}"
        )


def test_an_address_that_a_cluster_left_behind_counts_for_nothing(dead, monkeypatch):
    found = "ray._private.services.canonicalize_bootstrap_address"
    monkeypatch.setattr(found, lambda address: dead)
    assert not cluster._one_runs_here()
    with pytest.raises(EngineError, match="at auto: none runs on this machine"), connected("auto"):
        pass
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(found, lambda address: f"localhost:{server.getsockname()[1]}")
        assert cluster._one_runs_here()


def test_an_error_is_said_in_its_own_words():
    failed = RuntimeError("\x1b[36mray::task()\x1b[39m (pid=1)\n  File x\nValueError: the last line")
    assert first_line(failed) == "ValueError: the last line"
    failed.cause = OSError(28, "No space left on device")
    assert first_line(failed) == "OSError: [Errno 28] No space left on device"
    failed.cause = RuntimeError("it cannot be imported:\n\nTraceback (most recent call last):\n  File x\nKeyError: 'x'")
    assert first_line(failed) == "KeyError: 'x'"
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
    assert ANSI_COLORS.sub("", "\x1b[1;31mred\x1b[0m") == "red"
