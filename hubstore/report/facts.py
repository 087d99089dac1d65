"""What the report's head says: the model, the store and the settings, all from the store and its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hubstore.analysis import metadata
from hubstore.plots.text import layer_label
from hubstore.report.gather import Gathered
from hubstore.store import dtype_name
from hubstore.version import __version__

if TYPE_CHECKING:
    from hubstore.store import StoreReader

UNKNOWN = "not recorded"


def model_name(store: StoreReader) -> str:
    """The model's id."""
    return str(_of(store.attributes, "model", "id", default="a model that was not recorded"))


def partition_sizes(store: StoreReader) -> dict[str, int]:
    """Items of each partition."""
    return {name: partition.size for name, partition in store.partitions.items()}


def facts(store: StoreReader, found: Gathered) -> dict[str, str]:
    """Names and values, in the order of reading."""
    of = store.attributes
    model = of.get("model") or {}
    kind = ", ".join(str(model[key]) for key in ("class", "kind") if model.get(key))
    blocks = f"{model['blocks']} blocks, " if model.get("blocks") else ""
    rows = {
        "Model": f"{model_name(store)} ({kind})" if kind else model_name(store),
        "Revision": str(model.get("revision") or ""),
        "Weights": _short(model.get("weights"), "SHA-256 "),
        "Tokenizer": _short(model.get("tokenizer"), "SHA-256 "),
        "Ran in": ", ".join(str(model[key]) for key in ("dtype", "attention") if model.get(key)),
        "Template": str(_of(of, "settings", "template", default="")),
        "Store": f"{store.path.name}, content {_short(store.digest)}",
        "Corpus": ", ".join(str(corpus.get("name")) for corpus in of.get("corpora", []) if corpus.get("name")),
        "Items": f"{len(store):,} in {len(store.partitions)} partitions{_by(store)}",
        "State": f"unfinished: {store.unfinished}" if store.unfinished else "",
        "Layers": f"{_layers(found.layers)} ({blocks}width {store.width})",
        "Pooling": found.pooling or f"none with a row per item (kept: {', '.join(store.poolings)})",
        "Kept in": dtype_name(store.dtype),
        "Self-check": _self_check(of.get("self_check") or next(iter(of.get("media_checks", {}).values()), None)),
        "Extracted": _when(store),
        "Analyses": _analyses(found),
        "Versions": _versions(model, of),
    }
    return {name: value for name, value in rows.items() if value}


def _by(store: StoreReader) -> str:
    return "" if store.partition_by is None else f", one for each {store.partition_by}"


def _layers(layers: tuple[str, ...]) -> str:
    first, last = layer_label(layers[0]), layer_label(layers[-1])
    return first if len(layers) == 1 else f"{first} to {last}, {len(layers)} in all"


def _self_check(check: Any) -> str:
    if not isinstance(check, dict) or "deviation" not in check:
        return UNKNOWN
    return (
        f"{check.get('items')} items, batched against single: relative distance {check['deviation']:.1e} at most "
        f"(layer {check.get('layer')}; {check.get('tolerance', float('nan')):g} allowed)"
    )


def _when(store: StoreReader) -> str:
    times = sorted(str(commit.times["committed"]) for commit in store.commits if "committed" in commit.times)
    return times[0] if times and times[0] == times[-1] else " to ".join([times[0], times[-1]]) if times else UNKNOWN


def _analyses(found: Gathered) -> str:
    records = [metadata(table) for table in found.tables.values()]
    if not records:
        return "none could be run"
    seeds = sorted({record["seed"] for record in records})
    resamples = max(record["parameters"].get("bootstrap", 0) for record in records)
    return f"seed {', '.join(map(str, seeds))}; {resamples:,} bootstrap resamples"


def _versions(model: dict[str, Any], of: Any) -> str:
    known = {
        "hubstore": __version__,
        "hubstore at extraction": of.get("hubstore") if of.get("hubstore") != __version__ else None,
        "torch": model.get("torch"),
        "transformers": model.get("transformers"),
    }
    return ", ".join(f"{name} {version}" for name, version in known.items() if version)


def _short(digest: Any, kind: str = "") -> str:
    return f"{kind}{str(digest)[:12]}…" if digest else ""


def _of(mapping: Any, *keys: str, default: Any) -> Any:
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, dict) else None
    return default if mapping is None else mapping
