"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(data: Any) -> None:
    """JSON on stdout; a value that JSON does not have (NaN) is null."""
    typer.echo(json.dumps(_plain(data), ensure_ascii=False, indent=2))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """A table of values; numbers stand right, text is shown as it is, never as markup."""
    made = Table(title=None if title is None else escape(title), title_justify="left", header_style="bold")
    kept = [list(row) for row in rows]
    for number, column in enumerate(columns):
        numeric = all(isinstance(row[number], (int, float, type(None))) for row in kept)
        made.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in kept:
        made.add_row(*(Text(shown(value)) for value in row))
    return made


def shown(value: Any) -> str:
    """A value for a person's eye."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def note(message: str) -> None:
    """One line on stderr that is no error."""
    err.print(Text.assemble(("note: ", "yellow"), message), soft_wrap=True)


def size(count: float) -> str:
    """Bytes for a person's eye."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
