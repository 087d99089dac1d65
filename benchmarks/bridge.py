"""`python -m benchmarks.bridge FOUND.json KEPT.json`: what scripts/train_bridge.py found, cut down to what is kept.

Of every language and kind of drawing or voice the recalls of each layer are kept, of the last token and with the
means removed, with their intervals; not the other readings, nor examples beyond a few.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

READING = "last centered"
CARRIERS = ("in-english", "bare")
EXAMPLES = 12
WHICH = {"vision_config": "pictures", "encoder": "sounds"}
"""What only a bridge of images, or of audio, records."""

SHOWN: Mapping[str, tuple[tuple[str, str], ...]] = {
    "pictures": (
        ("Twemoji, trained concepts", "twemoji, trained concepts"),
        ("OpenMoji, trained concepts", "openmoji, trained concepts"),
        ("Twemoji, new concepts among new names", "twemoji, unseen concepts, unseen names"),
    ),
    "sounds": (
        ("new voices, trained concepts", "unseen voices, trained concepts"),
        ("new voices, new concepts among new names", "unseen voices, unseen concepts, unseen names"),
    ),
}
CHOSEN_ON = {"pictures": "noto, trained concepts", "sounds": "trained voices, trained concepts"}
"""Drawings and voices that were trained on: the layer of the table is chosen on these, not on what it reports."""

TEXT = "English names"
CLIPS = "unseen recordings"


def kept(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a training's findings."""
    record = {
        name: value if not name.startswith("recall, ") else _recalls(value)
        for name, value in _shortened(found).items()
        if name in ("settings", "versions", "data_sha256", "seconds trained", "classes", "concepts", "captions")
        or name.removeprefix("recall, ") in CARRIERS
    }
    record["of"] = next(of for name, of in WHICH.items() if name in found)
    if "effects" in found:
        record["effects"] = _recalls(found["effects"][CARRIERS[0]])
    return record


def _shortened(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: v[:EXAMPLES] if k == "examples" else _shortened(v) for k, v in value.items()}
    return value


def _recalls(by_language: Mapping[str, Any]) -> dict[str, Any]:
    """By language and kind: n, chances, and for each layer value, low and high."""
    return {
        language: {kind: _curves(of_kind[READING]) for kind, of_kind in kinds.items()}
        for language, kinds in by_language.items()
    }


def _curves(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = list(layers[0])
    return {
        "n": layers[0][names[0]]["n"],
        "chance": {name: layers[0][name]["chance"] for name in names},
        **{name: [[layer[name][end] for end in ("value", "low", "high")] for layer in layers] for name in names},
    }


def chosen_layer(record: Mapping[str, Any], carrier: str) -> int:
    """The layer with the greatest mean recall@10 over the untrained languages, on what was trained on."""
    by_language = record[f"recall, {carrier}"]
    curves = [kinds[CHOSEN_ON[record["of"]]]["recall@10"] for name, kinds in by_language.items() if name != "en"]
    means = [sum(curve[layer][0] for curve in curves) / len(curves) for layer in range(len(curves[0]))]
    return means.index(max(means))


def bridge_tables(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Recall of names by language, as Markdown; records by the name of their file."""
    return "\n\n".join("\n".join(_table(record)) for _, record in sorted(records.items()))


def _table(record: Mapping[str, Any]) -> Iterator[str]:
    of, carrier = record["of"], CARRIERS[0]
    layer, versions = chosen_layer(record, carrier), record["versions"]
    by_language = record[f"recall, {carrier}"]
    columns = [(title, kind) for title, kind in SHOWN[of] if kind in by_language["en"]]
    yield (
        f"**{of}** (trained {record['seconds trained']:.0f} s on an {versions['device']}; layer {layer} of "
        f"{len(by_language['en'][columns[0][1]]['recall@10']) - 1}, chosen on the trained ones): recall@1 / recall@10 "
        "[95 %] of names, given as in the column; last column: from the English name as text."
    )
    yield ""
    effects = record.get("effects", {})
    clips = ["ESC-10 clips of an unseen fold, recall@1 (n, chance)"] if effects else []
    yield _row(["language", *(f"{title} (n, chance@10)" for title, _ in columns), *clips, "English name to name"])
    yield _row(["---"] * (len(columns) + len(clips) + 2))
    for language, kinds in by_language.items():
        cells = [_cell(kinds[kind], layer) for _, kind in columns]
        if effects:
            cells.append(_first(effects[language][CLIPS], layer) if language in effects else "")
        text = kinds.get(TEXT)
        yield _row([language, *cells, _cell(text, layer) if text and language != "en" else ""])


def _first(curves: Mapping[str, Any], layer: int) -> str:
    value, low, high = curves["recall@1"][layer]
    return f"{value:.2f} [{low:.2f}, {high:.2f}] ({curves['n']}, {curves['chance']['recall@1']:.1f})"


def _cell(curves: Mapping[str, Any], layer: int) -> str:
    at_ten = curves["recall@10"][layer]
    return (
        f"{curves['recall@1'][layer][0]:.2f} / {at_ten[0]:.2f} [{at_ten[1]:.2f}, {at_ten[2]:.2f}] "
        f"({curves['n']:,}, {curves['chance']['recall@10']:.3f})"
    )


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Cut one file down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bridge", description=__doc__)
    parser.add_argument("found", type=Path, help="what training wrote")
    parser.add_argument("kept", type=Path, help="such as benchmarks/results/bridge/pictures.json")
    given = parser.parse_args(arguments)
    text = json.dumps(kept(json.loads(given.found.read_text())), ensure_ascii=False, separators=(",", ":"))
    given.kept.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
