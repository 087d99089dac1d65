"""hubstore info."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hubstore.cli import options
from hubstore.cli.output import out, print_json, size, table

if TYPE_CHECKING:
    from hubstore.store import StoreReader


def info(store: options.StoreArgument, as_json: options.JsonOption = False) -> None:
    """Say what a store holds: model, layers, partitions, shards, indexes, the lens and kept analyses."""
    from hubstore.extraction import checks_of
    from hubstore.store import StoreReader
    from hubstore.store.columns import named_types
    from hubstore.store.layout import LENS

    opened = StoreReader(store)
    unfinished = opened.unfinished
    keys = opened.storage.list("")
    summary: dict[str, Any] = {
        "store": str(store),
        "items": len(opened),
        "complete": unfinished is None,
        "unfinished": None if unfinished is None else str(unfinished),
        "shards": len(opened.commits),
        "shards_missing": 0 if unfinished is None else len(unfinished.missing),
        "bytes": sum(opened.storage.size(key) for key in keys),
        "layers": list(opened.layers),
        "poolings": list(opened.poolings),
        "dtype": opened.layout.dtype,
        "width": opened.width,
        "model": opened.attributes["model"],
        "settings": opened.attributes["settings"],
        "self_checks": {modality: check.to_json() for modality, check in checks_of(opened.attributes).items()},
        "corpora": [
            {"name": entry["name"], "items": _committed(opened, entry)} for entry in opened.attributes["corpora"]
        ],
        "columns": dict(named_types(opened.columns)),
        "partitions": {name: partition.size for name, partition in opened.partitions.items()},
        "indexes": sorted(key.removesuffix("/index.json") for key in keys if key.endswith("/index.json")),
        "lens": LENS in keys,
        "analyses": sorted({key.split("/")[1] for key in keys if key.startswith("analyses/")}),
    }
    if as_json:
        print_json(summary)
        return
    model = summary["model"]
    state = "complete" if unfinished is None else str(unfinished)
    computed = f"{model['class']}, {model['kind']}, {model['blocks']} blocks, computed in {model['dtype']}"
    lines = {
        "items": f"{len(opened):,} in {len(opened.commits):,} shard{'s' * (len(opened.commits) != 1)}, {state}",
        "size": size(summary["bytes"]),
        "model": f"{model['id']} ({computed})",
        "weights": model["weights"][:16],
        "layers": f"{', '.join(opened.layers)} ({opened.width} wide, {opened.layout.dtype})",
        "pooling": ", ".join(opened.poolings),
        "template": summary["settings"]["template"],
        **({"media template": summary["settings"]["media_template"]} if "media" in model else {}),
        **{f"self-check, {modality}": _checked(check) for modality, check in summary["self_checks"].items()},
        "corpora": ", ".join(f"{corpus['name']} ({corpus['items']:,})" for corpus in summary["corpora"]),
        **(
            {"columns": ", ".join(f"{name} ({kind})" for name, kind in summary["columns"].items())}
            if summary["columns"]
            else {}
        ),
        "indexes": f"{len(summary['indexes'])} layers" if summary["indexes"] else "none: queries search exactly",
        "lens": "kept: `hubstore lens` needs no model" if summary["lens"] else "none; `hubstore lens --keep` adds it",
        "analyses": ", ".join(summary["analyses"]) or "none yet",
    }
    out.print(table(("", str(store)), lines.items()))
    out.print(table(("partition", "items"), summary["partitions"].items()))


def _committed(store: StoreReader, entry: Mapping[str, Any]) -> int:
    """Items of a corpus that are in the store."""
    generations = {generation["generation"] for generation in entry.get("generations", [])}
    return sum(commit.items for commit in store.commits if commit.generation in generations)


def _checked(check: Mapping[str, Any]) -> str:
    kind = check["batching"]
    batching = f"{check['padding']} padding" if kind == "padded" else f"{kind.replace('_', ' ')} batches"
    return f"{check['deviation']:.1e} at most, {check['tolerance']:g} allowed ({batching})"
