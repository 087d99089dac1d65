"""hubstore items."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from hubstore.cli import options
from hubstore.cli.output import one_line, out, print_csv, print_json, table


def items(
    store: options.StoreArgument,
    grep: Annotated[str | None, typer.Option("--grep", help="Part of the text or the id, in whatever case.")] = None,
    languages: options.LanguagesOption = None,
    modalities: options.ModalitiesOption = None,
    concepts: Annotated[list[str] | None, typer.Option("--concept", help="Only items of this concept.")] = None,
    partitions: options.PartitionsOption = None,
    where: Annotated[
        str | None,
        typer.Option(help="Only items for which this is true: \"year >= 2019 and source in ('wiki', 'news')\"."),
    ] = None,
    offset: Annotated[int, typer.Option(help="Matches to leave out.")] = 0,
    limit: Annotated[int, typer.Option(help="The most to show.")] = 20,
    as_csv: options.CsvOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """List items of a store: ids, languages and texts."""
    from hubstore.store import StoreReader
    from hubstore.store.finding import find_items

    filters = {"languages": languages, "modalities": modalities, "concepts": concepts, "partitions": partitions}
    chosen: dict[str, Any] = {name: values or None for name, values in filters.items()}
    if where is None:
        found = find_items(StoreReader(store), grep, offset=offset, limit=limit, **chosen)
    else:
        from hubstore.opened import Store

        found = Store(store).find_items(grep, where=where, offset=offset, limit=limit, **chosen)
    found = found.drop_columns([name for name in ("media_ranges",) if name in found.column_names])
    total = json.loads(found.schema.metadata[b"hubstore"])["total"]
    if as_csv:
        print_csv(found)
        return
    if as_json:
        print_json({"total": total, "items": found.to_pylist()})
        return
    rows = [
        (row["id"], row["language"], row["concept"], one_line(row["text"] or row["media"] or ""))
        for row in found.to_pylist()
    ]
    if rows:
        out.print(table(("id", "language", "concept", "text or file"), rows))
    first = f"{offset + 1:,} to {offset + len(rows):,} of " if len(rows) < total and rows else ""
    out.print(f"{first}{total:,} items" if total else "no item passes the filters")
