"""hubstore query."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubstore.cli import options
from hubstore.cli.output import one_line, out, print_csv, print_json, table
from hubstore.errors import QueryError
from hubstore.options import SearchOptions

if TYPE_CHECKING:
    import pyarrow as pa

ASKED_CHARACTERS = 400
"""Of the text of what is asked."""

MARK = "="
"""Of hits that are equivalent to what is asked."""


@options.with_options
def query(
    store: Annotated[
        str | None,
        typer.Argument(metavar="[STORE]", help="A store's folder, such as ntrex.hub; with --url, its name there."),
    ] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Neighbors of an item of the store.")] = None,
    texts: Annotated[list[str] | None, typer.Option("--text", help="Neighbors of a text given now.")] = None,
    images: Annotated[list[Path] | None, typer.Option("--image", help="Neighbors of an image: its file.")] = None,
    audio: Annotated[list[Path] | None, typer.Option("--audio", help="Neighbors of an audio clip: its file.")] = None,
    vector: Annotated[Path | None, typer.Option(help="Neighbors of a .npy file's vector or rows.")] = None,
    *,
    search: SearchOptions,
    model: options.ModelOption = None,
    trust_remote_code: options.TrustOption = False,
    device: options.DeviceOption = "auto",
    engine: options.EngineOption = options.Engine.local,
    address: options.AddressOption = None,
    url: Annotated[
        str | None,
        typer.Option(help="Ask a server that `hubstore serve` started: its address, http://127.0.0.1:8000."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the server's bearer token. By default HUBSTORE_TOKEN in the environment."),
    ] = None,
    by_language: Annotated[
        bool, typer.Option("--by-language", help="The -k nearest in each language, under one another.")
    ] = False,
    as_csv: options.CsvOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Find the nearest items by cosine, at one layer or all, across languages and modalities.

    With --url, in a store on a server, which reads texts, images and audio with its own model.
    """
    inputs: dict[str, Any] = {
        "ids": ids or None,
        "texts": texts or None,
        "images": images or None,
        "audio": audio or None,
        "vectors": None if vector is None else _load_vectors(vector),
    }
    local_options: dict[str, Any] = {
        "model": model,
        "trust_remote_code": trust_remote_code,
        "device": device,
        "engine": engine,
        "address": address,
    }
    opened, local_options = _opened(store, url, token_file, search, local_options)
    if by_language:
        found = _by_language(opened, inputs, search, local_options)
    else:
        found = opened.search(**inputs, options=search, **local_options)
    if as_csv:
        print_csv(found)
    elif as_json:
        print_json(found.to_pylist())
    else:
        _show(found.to_pylist(), {name: opened[name] for name in ids or ()})
        for line in _recalls(found):
            out.print(line)


def _opened(
    store: str | None, url: str | None, token_file: Path | None, search: SearchOptions, local_options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """A local store, or one on a server, and what its `search` takes beside what is asked and how."""
    if url is None:
        from hubstore.opened import Store

        if token_file is not None:
            raise QueryError("--token-file is for a server; name it with --url http://127.0.0.1:8000")
        if store is None:
            raise QueryError("which store? Give its folder, such as ntrex.hub, or a server's address with --url")
        return Store(store), local_options
    from hubstore.client import connect

    of_the_server = {
        "--model": local_options["model"],
        "--trust-remote-code": local_options["trust_remote_code"],
        "--allow-stale": search.allow_stale,
        "--device": local_options["device"] != "auto",
        "--engine": local_options["engine"] != "local",
        "--address": local_options["address"],
    }
    for option, value in of_the_server.items():
        if value:
            raise QueryError(f"{option} is the server's to choose: give it to `hubstore serve`, not beside --url")
    return connect(url, store, _token(token_file)), {}


def _by_language(opened: Any, inputs: dict[str, Any], search: SearchOptions, local_options: dict[str, Any]) -> pa.Table:
    """The nearest in each language, in the store's order; of a query, not in its own where that is excluded."""
    import pyarrow as pa

    names = list(dict.fromkeys(part.language for part in opened.partitions.values()))
    if search.languages is not None:
        names = [name for name in names if name in search.languages]
    if not names:
        raise QueryError(f"{opened.place} has no item in {', '.join(search.languages or ())}; leave --language out")
    own = {name: opened[name].language for name in inputs["ids"] or ()}
    tables, metadata = [], None
    for name in names:
        options = replace(search, languages=(name,), exclude_same_language=False)
        try:
            found = opened.search(**inputs, options=options, **local_options)
        except QueryError:
            # All else is asked of every language alike: no item of this one passes.
            continue
        if search.exclude_same_language:
            asked = found["query"].to_pylist()
            spoken = [own.get(one, own.get(one.rpartition("[")[0], search.query_languages)) for one in asked]
            found = found.filter(pa.array([one != name for one in spoken], pa.bool_()))
        metadata = found.schema.metadata
        tables.append(found.replace_schema_metadata())
    if tables:
        return pa.concat_tables(tables).replace_schema_metadata(metadata)
    # Says what is wrong, and not of one language.
    return opened.search(**inputs, options=replace(search, languages=tuple(names)), **local_options)


def _token(path: Path | None) -> str | None:
    try:
        return None if path is None else path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"the token cannot be read from {path}: {error}") from error


def _show(rows: list[dict[str, Any]], asked: Mapping[str, Any]) -> None:
    """A table for each query and layer, above it what was asked; hits of the same concept are marked.

    Args:
        rows: of the answer.
        asked: the items whose neighbors these are, by id.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["query"], row["layer"]), []).append(row)
    told = set()
    for (name, layer), hits in groups.items():
        item = asked.get(name) or asked.get(name.rpartition("[")[0])
        if item is not None and item.id not in told:
            told.add(item.id)
            out.print(f"{item.id}: {one_line(item.text or item.media or '', ASKED_CHARACTERS)}", soft_wrap=True)
        concept = None if item is None else item.concept
        marks = [MARK if concept is not None and hit["concept"] == concept else "" for hit in hits]
        cells = [
            [hit["rank"], f"{hit['score']:.4f}", mark, *_words(hit)] for hit, mark in zip(hits, marks, strict=True)
        ]
        columns, title = ["rank", "score", MARK, "partition", "id", "text or file"], f"{one_line(name)}, layer {layer}"
        if any(marks):
            title += f"; {MARK} is of the same concept"
        else:
            columns, cells = columns[:2] + columns[3:], [cell[:2] + cell[3:] for cell in cells]
        out.print(table(columns, cells, title=title))
    if not rows:
        out.print("nothing found")


def _recalls(found: pa.Table) -> list[str]:
    """What approximate indexes find, a line for each kind; none where all was exact, or an older server answered."""
    provenance = json.loads((found.schema.metadata or {}).get(b"hubstore", b"{}"))
    by_kind: dict[str, list[float | None]] = {}
    for layer, recall in provenance.get("recalls", {}).items():
        by_kind.setdefault(provenance["indexes"][layer], []).append(recall)
    lines = []
    for kind, recalls in by_kind.items():
        measured = [recall for recall in recalls if recall is not None]
        if kind == "exact":
            continue
        if len(measured) < len(recalls):
            lines.append(
                f"approximate ({kind}): how many of the true neighbors it finds at this effort was not measured; an "
                "index without a measured recall gets one by `hubstore index`"
            )
        else:
            lines.append(f"approximate ({kind}): recall@10 {min(measured):.3f} when it was built")
    return lines


def _words(hit: dict[str, Any]) -> tuple[str, str, str]:
    from hubstore.store import partition_name

    name = partition_name(hit["modality"], hit["language"])
    return name, _place(hit), one_line(hit["text"] or hit["media"] or "")


def _load_vectors(path: Path) -> Any:
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise QueryError(f"{path} is not a readable .npy file of numbers: {error}") from error
    if not isinstance(found, np.ndarray):
        raise QueryError(f"{path} holds several arrays; save the one of the vectors with np.save")
    return found


def _place(hit: dict[str, Any]) -> str:
    return f"{hit['id']}[{hit['token']}]" if "token" in hit else str(hit["id"])
