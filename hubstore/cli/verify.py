"""hubstore verify."""

from __future__ import annotations

import typer
from rich.text import Text

from hubstore.cli import options
from hubstore.cli.output import err, note, out, print_json


def verify(store: options.StoreArgument, as_json: options.JsonOption = False) -> None:
    """Read every committed file, the lens, indexes and kept analyses back; exit status 1 where something is wrong.

    What an older version wrote without a checksum is named, since it cannot be verified, and does not count as wrong.
    """
    from hubstore.store import StoreReader
    from hubstore.store import verify as check

    opened = StoreReader(store)
    with err.status("reading") as status:
        every = check(opened.storage, lambda key: status.update(Text(f"reading {key}")))
    problems = [problem for problem in every if problem.wrong]
    unverifiable = [problem for problem in every if not problem.wrong]
    files = sum(len(commit.files) for commit in opened.commits)
    if as_json:
        found, unknown = ([{"file": one.key, "problem": one.what} for one in some] for some in (problems, unverifiable))
        state = None if opened.unfinished is None else str(opened.unfinished)
        counts = {"shards": len(opened.commits), "files": files, "unfinished": state}
        print_json({"store": str(store), **counts, "problems": found, "unverifiable": unknown})
        if problems:
            raise typer.Exit(1)
        return
    for problem in every:
        out.print(f"{problem.key}: {problem.what}")
    if not problems:
        out.print(f"{store}: {files:,} files of {len(opened.commits):,} shards are as they were written")
    if opened.unfinished is not None:
        note(f"{store}: {opened.unfinished}")
    if problems:
        if any(problem.key.startswith(("commits/", "hidden/", "items/", "previews/")) for problem in problems):
            err.print("remove the commits/ file of each shard named above and run the extraction again to mend it")
        raise typer.Exit(1)
