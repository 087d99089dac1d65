"""Whatever ends a run at whatever moment, the store says what is unfinished, and is finished to the same bytes."""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from hubstore.storage import LocalStorage
from hubstore.store import StoreReader, verify
from hubstore.store.layout import ROOT
from tests.extraction import interrupted
from tests.extraction.test_crash import content

EXAMPLES = int(os.environ.get("HUBSTORE_INTERRUPTIONS", "2"))
"""Histories that are tried; each is of some ten runs."""

KILLED = "killed"


@functools.cache
def _processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.extraction.interrupted"])
    return context


def go(verb: str, name: str, path: Path, at: int | None = None, kill: bool = True) -> str | None:
    """Run in a process; None when it has finished, "killed", or its error."""
    ours, its = _processes().Pipe()
    process = _processes().Process(target=interrupted.run, args=(verb, name, path, at, kill, its))
    process.start()
    its.close()
    try:
        return ours.recv()
    except EOFError:
        return KILLED
    finally:
        process.join()


@functools.cache
def never_ended(names: tuple[str, ...]) -> dict[str, bytes]:
    """The files of a store of these corpora, in that order, of which no run was interrupted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole.hub"
        for number, name in enumerate(names):
            assert go("append" if number else "extract", name, path) is None
        return content(path)


class Interrupted(RuleBasedStateMachine):
    """Runs of which any may end at any moment, on one store."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "x.hub"

    def store(self) -> StoreReader | None:
        return StoreReader(self.path) if (self.path / ROOT).exists() else None

    def items(self) -> dict[str, int]:
        """Items of each corpus that are in the store."""
        store = self.store()
        ids = store.items["id"].to_pylist() if store is not None and store.commits else []
        return {name: sum(one.startswith(name) for one in ids) for name in interrupted.SIZES}

    @rule(
        verb=st.sampled_from(["extract", "append", "append"]),
        name=st.sampled_from(sorted(interrupted.SIZES)),
        at=st.none() | st.integers(1, 150),
        kill=st.booleans(),
    )
    def run(self, verb: str, name: str, at: int | None, kill: bool) -> None:
        before, store = self.items(), self.store()
        ended = go(verb, name, self.path, at, kill)
        if ended is None:
            self.is_as_if_never_ended()
            assert self.items()[name] == interrupted.SIZES[name]
        elif ended != KILLED and "the disk is away" not in ended:
            self.is_right_to_refuse(ended, verb, name, before, store)

    @rule()
    def go_on(self) -> None:
        store = self.store()
        if store is not None and store.unfinished is not None:
            assert go(store.unfinished.verb, store.unfinished.name, self.path) is None
            self.is_as_if_never_ended()

    @rule()
    def lose_the_plan(self) -> None:
        if (self.path / ROOT).exists():
            shutil.rmtree(self.path / "plan", ignore_errors=True)

    def is_right_to_refuse(
        self, error: str, verb: str, name: str, before: dict[str, int], store: StoreReader | None
    ) -> None:
        if store is None:
            assert verb == "append", error
            assert "is not a hubstore store" in error
            return
        unfinished = store.unfinished
        if unfinished is not None and (unfinished.items or not unfinished.number):
            assert unfinished.name != name or unfinished.verb != verb, error
            assert f"corpus {unfinished.name!r} is unfinished: {unfinished.items} items" in error
            assert f"`hubstore {unfinished.verb}` again" in error
        elif verb == "append":
            assert before[name] == interrupted.SIZES[name], error
            assert "is in the store already" in error
        elif store.attributes["corpora"][0]["name"] == name:
            assert "is unfinished: 0 items" in error
        else:
            assert "was begun with another request" in error

    def is_as_if_never_ended(self) -> None:
        store = self.store()
        assert store is not None
        assert store.unfinished is None
        assert content(self.path) == never_ended(tuple(one["name"] for one in store.attributes["corpora"]))

    @invariant()
    def what_is_committed_is_whole_and_what_is_not_is_said(self) -> None:
        store = self.store()
        if store is None:
            return
        assert verify(LocalStorage(self.path)) == []
        part = {name: count for name, count in self.items().items() if 0 < count < interrupted.SIZES[name]}
        if part:
            assert store.unfinished is not None
            assert part == {store.unfinished.name: store.unfinished.items}

    def teardown(self) -> None:
        try:
            self.go_on()
        finally:
            self.folder.cleanup()


def test_runs_that_end_at_any_write_or_read_leave_a_store_that_says_so_and_can_be_finished():
    run_state_machine_as_test(
        Interrupted,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=8,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("kill_at", [20, 75, 120])
def test_an_append_killed_at_its_nth_write_is_finished_by_the_same_append(tmp_path, kill_at):
    path = tmp_path / "x.hub"
    assert go("extract", "C", path) is None
    assert go("append", "A", path, kill_at) == KILLED
    assert go("append", "A", path) is None
    assert content(path) == never_ended(("C", "A"))
