"""hubstore show."""

from __future__ import annotations

from typing import Annotated

import typer

from hubstore.cli import options
from hubstore.cli.output import one_line, out, print_json, table


def show(
    store: options.StoreArgument,
    item: Annotated[str, typer.Argument(metavar="ID", help="The item's id, or PARTITION:CONCEPT, such as en:12.")],
    as_json: options.JsonOption = False,
) -> None:
    """Show one item, and those that are equivalent to it."""
    from hubstore.store import StoreReader
    from hubstore.store.finding import equivalents

    opened = StoreReader(store)
    (position,) = opened.positions([item]).tolist()
    (found,) = opened.items.slice(position, 1).to_pylist()
    others = equivalents(opened, position).to_pylist()
    if as_json:
        print_json({**found, "position": position, "equivalents": [other["id"] for other in others]})
        return
    lines = {name: value for name, value in found.items() if value not in (None, "", [])} | {"position": position}
    out.print(table(("", found["id"]), [(name, str(value)) for name, value in lines.items() if name != "id"]))
    if others:
        rows = [(other["id"], other["language"], one_line(other["text"] or other["media"] or "")) for other in others]
        out.print(table(("id", "language", "text or file"), rows, title=f"equivalent: concept {found['concept']}"))
