"""hubstore verify."""

from __future__ import annotations

import contextlib

import typer
from rich.text import Text

from hubstore.cli import options
from hubstore.cli.output import err, note, out, print_json
from hubstore.errors import CorruptStoreError


def verify(store: options.StoreArgument, as_json: options.JsonOption = False) -> None:
    """Read everything in a store back; exit status 1 where something is wrong.

    What an older version wrote without a checksum, and files that belong to no record of the store, are named and do
    not count as wrong.
    """
    from hubstore.index import index_problem
    from hubstore.store import StoreReader
    from hubstore.store import verify as check
    from hubstore.store.files import store_files

    storage = store_files(store)
    with err.status("reading") as status:
        every = check(storage, lambda key: status.update(Text(f"reading {key}")), index_problem)
    problems = [problem for problem in every if problem.wrong]
    stray = [problem for problem in every if problem.stray]
    unverifiable = [problem for problem in every if not problem.wrong and not problem.stray]
    shards = files = 0
    unfinished = None
    with contextlib.suppress(CorruptStoreError):  # where a commit is none, a problem says so
        opened = StoreReader(store, storage)
        shards, files = len(opened.commits), sum(len(commit.files) for commit in opened.commits)
        unfinished = opened.unfinished
    if as_json:
        found, unknown, others = (
            [{"file": one.key, "problem": one.what} for one in some] for some in (problems, unverifiable, stray)
        )
        state = None if unfinished is None else str(unfinished)
        counts = {"shards": shards, "files": files, "unfinished": state}
        print_json({"store": str(store), **counts, "problems": found, "unverifiable": unknown, "stray": others})
        if problems:
            raise typer.Exit(1)
        return
    for problem in every:
        out.print(f"{problem.key}: {problem.what}")
    if not problems:
        out.print(f"{store}: {files:,} files of {shards:,} shards are as they were written")
    if unfinished is not None:
        note(f"{store}: {unfinished}")
    if problems:
        raise typer.Exit(1)
