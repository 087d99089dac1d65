"""hubstore query."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubstore.cli import options
from hubstore.cli.output import out, print_json, shown, table
from hubstore.errors import QueryError
from hubstore.options import SearchOptions, http_options

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_CHARACTERS = 90


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
    _show(_searched(store, url, token_file, inputs, search, local_options), as_json)


def _searched(
    store: str | None,
    url: str | None,
    token_file: Path | None,
    inputs: dict[str, Any],
    search: SearchOptions,
    local_options: dict[str, Any],
) -> pa.Table:
    """What a local store answers, or one on a server."""
    if url is None:
        from hubstore.api import Store

        if token_file is not None:
            raise QueryError("--token-file is for a server; name it with --url http://127.0.0.1:8000")
        if store is None:
            raise QueryError("which store? Give its folder, such as ntrex.hub, or a server's address with --url")
        return Store(store).search(**inputs, options=search, **local_options)
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
    return connect(url, store, _token(token_file)).search(**inputs, **http_options(search))


def _token(path: Path | None) -> str | None:
    try:
        return None if path is None else path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"the token cannot be read from {path}: {error}") from error


def _show(found: pa.Table, as_json: bool) -> None:
    from hubstore.store import partition_name

    rows = found.to_pylist()
    if as_json:
        print_json(rows)
        return
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["query"], row["layer"]), []).append(row)
    for (name, layer), hits in groups.items():
        columns = ("rank", "score", "partition", "id", "text or file")
        cells = [
            (
                hit["rank"],
                f"{hit['score']:.4f}",
                partition_name(hit["modality"], hit["language"]),
                _place(hit),
                _short(hit["text"] or hit["media"] or ""),
            )
            for hit in hits
        ]
        out.print(table(columns, cells, title=f"{_short(name)}, layer {layer}"))
    if not rows:
        out.print("nothing found")
    for line in _recalls(found):
        out.print(line)


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
                "index without a measured recall gets one by `hubstore index --rebuild`"
            )
        else:
            lines.append(f"approximate ({kind}): recall@10 {min(measured):.3f} when it was built")
    return lines


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


def _short(text: str) -> str:
    flat = " ".join(shown(text).split())
    return flat if len(flat) <= SHOWN_CHARACTERS else flat[: SHOWN_CHARACTERS - 1] + "…"
