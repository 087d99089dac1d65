"""hubstore verify."""

from __future__ import annotations

import typer

from hubstore.cli import options
from hubstore.cli.output import err, out, print_json


def verify(store: options.StoreArgument, as_json: options.JsonOption = False) -> None:
    """Read every committed file back and compare size and checksum; exit status 1 where something is wrong."""
    from hubstore.store import StoreReader
    from hubstore.store import verify as check

    opened = StoreReader(store)
    with err.status("reading") as status:
        problems = check(opened.storage, lambda key: status.update(f"reading {key}"))
    files = sum(len(commit.files) for commit in opened.commits)
    if as_json:
        found = [{"file": problem.key, "problem": problem.what} for problem in problems]
        print_json({"store": str(store), "shards": len(opened.commits), "files": files, "problems": found})
    elif problems:
        for problem in problems:
            out.print(f"{problem.key}: {problem.what}", markup=False)
    else:
        out.print(f"{store}: {files:,} files of {len(opened.commits):,} shards are as they were written")
    if problems:
        if not as_json:
            err.print("remove the commits/ file of each shard named above and run the extraction again to mend it")
        raise typer.Exit(1)
