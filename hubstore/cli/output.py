"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from hubstore.errors import HubstoreError
    from hubstore.storage import LocalStorage

_CONTROLS: Final = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])
"""Characters that a terminal acts on, but for a tab and the end of a line."""

FOLDED: Final = 26
"""Characters of a column of text that has to be folded."""

SHOWN_CHARACTERS: Final = 90
"""Of a text in a table."""

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


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> RenderableType:
    """A table of values; numbers stand right, text is shown as it is, never as markup.

    One that is wider than the terminal is several below one another, each with the first column.
    """
    kept = [list(row) for row in rows]
    cells = [[shown(value) for value in row] for row in kept]
    widths = [max(map(cell_len, [name, *(row[n] for row in cells)])) for n, name in enumerate(columns)]
    made = []
    for number, part in enumerate(_that_fit(widths, out.width)):
        one = Table(title=title if number == 0 else None, title_justify="left", header_style="bold")
        for n in part:
            numeric = all(isinstance(row[n], (int, float, type(None))) for row in kept)
            one.add_column(Text(columns[n]), justify="right" if numeric else "left", overflow="fold")
        for row in cells:
            one.add_row(*(Text(row[n]) for n in part))
        made.append(one)
    return made[0] if len(made) == 1 else Group(*made)


def _that_fit(widths: Sequence[int], width: int) -> list[list[int]]:
    """The columns of each of several tables; long texts are folded."""
    least = [min(one, FOLDED) for one in widths]
    parts = [[0]]
    for n in range(1, len(widths)):
        together = [*parts[-1], n]
        if len(parts[-1]) > 1 and sum(least[m] for m in together) + 3 * len(together) + 1 > width:
            parts.append([0])
        parts[-1].append(n)
    return parts


def one_line(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """A text without its line ends, cut to so many characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def results_folder(folder: Path, error: type[HubstoreError]) -> LocalStorage:
    """The folder of --out, made where there is none; `error` where it is a file."""
    from hubstore.storage import LocalStorage

    if folder.exists() and not folder.is_dir():
        raise error(f"{folder} is a file; --out names a folder")
    folder.mkdir(parents=True, exist_ok=True)
    return LocalStorage(folder)


def print_csv(table: pa.Table) -> None:
    """A table as CSV on stdout."""
    from hubstore.arrow import csv_bytes

    typer.echo(csv_bytes(table).decode(), nl=False)


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
