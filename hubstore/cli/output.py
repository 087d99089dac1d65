"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import typer
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.table import Table
from rich.text import Text

_CONTROLS: Final = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])
"""Characters that a terminal acts on, but for a tab and the end of a line."""

_NO_TEXT: Final = re.compile("[\x7f-\x9f\ud800-\udfff]")
"""Controls that JSON has no need to escape, and halves of characters, which no encoding has."""


class _Console(Console):
    """Shows text as it is: what a user or a corpus calls something is neither markup nor a terminal's command."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
        for segment in super().render(*arguments, **options):
            yield segment if segment.control else segment._replace(text=segment.text.translate(_CONTROLS))

    def status(self, status: RenderableType, **options: Any) -> Status:
        return super().status(Text(status) if isinstance(status, str) else status, **options)


out = _Console()
err = _Console(stderr=True)


class LogHandler(logging.Handler):
    """Shows log records on stderr, as all else is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one."""
        err.print(self.format(record), soft_wrap=True)


def print_json(data: Any) -> None:
    """JSON on stdout, in ASCII where stdout takes no UTF-8; a value that JSON does not have (NaN) is null."""
    whole = (sys.stdout.encoding or "ascii").lower().startswith("utf")
    text = json.dumps(_plain(data), ensure_ascii=not whole, indent=2)
    typer.echo(_NO_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """A table of values; numbers stand right, text is shown as it is, never as markup."""
    made = Table(title=title, title_justify="left", header_style="bold")
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


def labeled(label: str, message: str, style: str = "yellow") -> Text:
    """A line with a word before it that says what it is: a note, a warning, an error."""
    return Text.assemble((f"{label}: ", style), message)


def note(message: str) -> None:
    """One line on stderr that is no error."""
    err.print(labeled("note", message), soft_wrap=True)


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
