"""Writes the report: everything is computed first, then each file is put in place whole, the page last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hubstore.analysis import ANALYSES, metadata
from hubstore.arrow import csv_bytes
from hubstore.errors import HubstoreError
from hubstore.files import put
from hubstore.options import CompareOptions, refuse_others, take
from hubstore.plots.static import png, require_matplotlib
from hubstore.report.examples import Example
from hubstore.report.facts import facts, model_name, partition_sizes
from hubstore.report.gather import EXAMPLES, MATRIX, PROJECTION, Gathered, Progress, gather
from hubstore.report.page import Page, html_page
from hubstore.report.sections import LEAD, SECTIONS, TITLES, cubes_of, sections_of
from hubstore.report.summary import summarize

if TYPE_CHECKING:
    from hubstore.store import StoreReader

PAGE = "report.html"
PROVENANCE = "tables/provenance.json"
DEPRECATED_EXAMPLES = "tables/neighbours.csv"
"""The table of neighbors as the release before named it."""
TABLES = (*ANALYSES, MATRIX, EXAMPLES)


def write_report(
    store: StoreReader,
    folder: Path,
    *,
    options: CompareOptions | None = None,
    example_ids: Sequence[str] | None = None,
    progress: Progress | None = None,
    **named: Any,
) -> Path:
    """Write what a store says about the hub hypothesis: a page, its figures and its tables.

    The analyses are run, or taken from the store where they were run before. What the store cannot answer (no
    shared concepts, tokens only) is left out, and the page says why. The same store and arguments give the same
    bytes.

    Args:
        store: an opened store.
        folder: gets report.html, figures/*.png and tables/*.csv; made where it is missing.
        options: what is compared: pairs, pivot, layers, pooling, bootstrap and seed.
        example_ids: items to show with their neighbors; None draws a few.
        progress: called with what is being done, the steps done and the steps in all.
        named: fields of `CompareOptions`.

    Returns:
        The path of report.html.

    Raises:
        MissingDependencyError: Matplotlib is not installed.
        QueryError: a partition, layer, pooling or id that the store does not have, or both pairs and pivot.
        AnalysisError: a seed or number of resamples that it cannot be, a pair of one partition with itself, or pooling
            "tokens" where there is another.
        HubstoreError: a file cannot be written.

    Example:
        >>> write_report(hubstore.open("ntrex.hub"), Path("ntrex-report"), pivot="en")
    """
    options = take(CompareOptions, named, options)
    refuse_others("write_report", named)
    require_matplotlib()
    found = gather(store, options, example_ids, progress)
    files = _files(store, found, progress)
    for name, content in files.items():
        _put(Path(folder) / name, content)
    for name in (
        {f"figures/{key}.png" for key in SECTIONS} | {f"tables/{key}.csv" for key in TABLES} | {DEPRECATED_EXAMPLES}
    ):
        if name not in files:  # of an earlier report, which had more to tell
            (Path(folder) / name).unlink(missing_ok=True)
    return Path(folder).absolute() / PAGE


def _files(store: StoreReader, found: Gathered, progress: Progress | None) -> dict[str, bytes]:
    """Every file by its name, the page last."""
    cubes = cubes_of(found)
    sections = sections_of(found, cubes)
    files = {}
    for done, section in enumerate(sections, 1):
        files[f"figures/{section.key}.png"] = png(section)
        if progress:
            progress("figures", done, len(sections))
    tables = {name: table for name, table in found.tables.items() if name != PROJECTION}  # `hubstore projection` has it
    files |= {f"tables/{name}.csv": csv_bytes(table) for name, table in tables.items()}
    if found.examples:
        files[f"tables/{EXAMPLES}.csv"] = csv_bytes(examples_table(found.examples))
        files[DEPRECATED_EXAMPLES] = files[f"tables/{EXAMPLES}.csv"]
    made = {name: metadata(table) for name, table in found.tables.items()}
    files[PROVENANCE] = json.dumps(made, indent=2, ensure_ascii=False, sort_keys=True).encode()
    pairs = cubes["similarity"].pairs if "similarity" in cubes else ()
    page = Page(
        title=model_name(store),
        facts=facts(store, found),
        partitions=partition_sizes(store),
        statements=summarize(cubes, pairs, found.finer, found.contrasts),
        lead=next((section for section in sections if section.key == LEAD), None),
        sections=[section for section in sections if section.key != LEAD],
        examples=found.examples,
        left_out={TITLES[name]: why for name, why in found.left_out.items()},
        tables=[name for name in files if name != DEPRECATED_EXAMPLES],
    )
    files[PAGE] = html_page(page).encode()
    return files


def examples_table(examples: Sequence[Example]) -> pa.Table:
    """The examples' neighbors, as `hubstore.query.search` gives them."""
    return pa.Table.from_pylist([hit for example in examples for hits in example.hits.values() for hit in hits])


def _put(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, content)
    except OSError as error:
        raise HubstoreError(
            f"{path} could not be written ({error.strerror}); choose a folder that can be written to, with room for "
            "the report, and run again: the analyses are kept in the store"
        ) from error
