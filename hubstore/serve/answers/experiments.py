"""What `hubstore experiment --out` wrote, found in the server's folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from hubstore.arrow import read_parquet
from hubstore.experiments.result import FIGURE, RESULT, TABLE, read_json
from hubstore.serve.answers.about import public
from hubstore.serve.failures import NotThereError


@dataclass(frozen=True)
class Done:
    """An experiment in a folder.

    Args:
        name: what clients call it.
        folder: its own.
        result: what it found, as kept.
    """

    name: str
    folder: Path
    result: dict[str, Any]

    def described(self) -> dict[str, Any]:
        """For a list of them."""
        kept = self.result
        return {
            "name": self.name,
            "experiment": kept["name"],
            "title": kept["title"],
            "claim": kept["claim"],
            "model": public(_model(kept.get("made_from", {}))),
            "shown": kept["shown"],
            "figure": kept["figure"],
            "n": kept["n"],
            "notes": list(kept["notes"]),
            "plots": kept["plots"],
        }

    def table(self) -> pa.Table:
        """Its rows."""
        return read_parquet(self.folder / TABLE)

    def picture(self) -> bytes:
        """Its figure, a PNG."""
        return (self.folder / FIGURE).read_bytes()


def found(folders: Sequence[Path]) -> list[Done]:
    """Every experiment that is whole, in the folders' order; of one name, the second is called -2."""
    there: dict[str, Done] = {}
    for folder, result in _results(folders):
        name, number = str(result["name"]), 2
        while name in there:
            name, number = f"{result['name']}-{number}", number + 1
        there[name] = Done(name, folder, result)
    return list(there.values())


def named(folders: Sequence[Path], name: str) -> Done:
    """One of them; NotThereError where it is none."""
    for one in found(folders):
        if one.name == name:
            return one
    raise NotThereError(f"there is no experiment {name!r}; /api/experiments lists what there is")


def _results(folders: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for folder in folders:
        for path in sorted(folder.glob(f"*/{RESULT}")):
            result = read_json(path)
            if isinstance(result, dict) and (path.parent / TABLE).is_file() and (path.parent / FIGURE).is_file():
                yield path.parent, result


def _model(made_from: dict[str, Any]) -> str | None:
    model = made_from.get("model")
    return model.get("id") if isinstance(model, dict) else model
