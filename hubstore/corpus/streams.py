"""The one seam to the `datasets` library: Arrow tables, streamed, silently, leaving nothing behind."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa

from hubstore.corpus.columns import Columns
from hubstore.corpus.keep import exact_times
from hubstore.corpus.row import Types
from hubstore.system import temporary_folder

TABLE_ROWS: Final = 1024
"""Rows in a table. Few, as a row may have a long text, or columns that nobody asked for."""

MEDIA_ROWS: Final = 16
"""Rows in a table that holds images or audio."""


@contextmanager
def quietly() -> Iterator[None]:
    """Keep the progress bars and log messages of `datasets` off the user's terminal."""
    import datasets

    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars = not datasets.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    if bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


@contextmanager
def scratch_cache() -> Iterator[str]:
    """Give a `cache_dir` for `datasets`, which writes lock files there even when it only streams."""
    with temporary_folder("hubstore-") as folder:
        yield folder


def arrow_tables(dataset: Any, rows: int = TABLE_ROWS) -> Iterator[pa.Table]:
    """Stream a `Dataset` or `IterableDataset` as Arrow tables of at most so many rows."""
    tables = iter(dataset.with_format("arrow").iter(batch_size=rows))
    while True:
        with quietly():
            table = next(tables, None)
        if table is None:
            return
        yield table


def first_line(error: BaseException) -> str:
    """Shorten another library's message to one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


def types_of(schema: pa.Schema) -> Types:
    """The types of a table's columns by name."""
    return dict(zip(schema.names, schema.types, strict=True))


def with_exact_times(table: Any, columns: Columns, where: str) -> Any:
    """A table or batch whose kept times are as they are kept; `where` names it. See `exact_times`."""
    return exact_times(table, columns.keep, where) if columns.keep.asked else table
