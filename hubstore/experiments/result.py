"""What an experiment found: its verdict, its table, its figure, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from hubstore.arrow import parquet_bytes, read_parquet
from hubstore.files import put
from hubstore.plots.experiment import Plot
from hubstore.stats.verdicts import NO, TOO_FEW, YES, Verdict

METADATA = b"hubstore"
COLUMNS = {
    "layer": pa.string(),
    "quantity": pa.string(),
    "value": pa.float64(),
    "low": pa.float64(),
    "high": pa.float64(),
    "n": pa.int64(),
}
RESULT, TABLE, FIGURE = "result.json", "table.parquet", "figure.png"
ROWS = ("rows", "greatest")
"""Of a reading, kept as rows."""

SAID = {YES: "shown", NO: "not shown", TOO_FEW: TOO_FEW}
"""What a note says of a verdict."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Reading:
    """What one way to read the states says of a claim.

    Args:
        name: what is done to them before; "" as the paper does it.
        verdict: whether the model shows the claim: "yes", "no" or "too few to say".
        words: the headline in words.
        rows: of the table, what the headline is of: value, low, high and n of each difference that is to be positive.
        greatest: each of these differences at the layer where it alone is greatest: what a control counts with.
    """

    name: str
    verdict: Verdict
    words: str
    rows: tuple[Row, ...] = ()
    greatest: tuple[Row, ...] = ()

    @property
    def note(self) -> str:
        """The same as a sentence."""
        return f"{self.name} it is {SAID[self.verdict]}: {self.words}"


@dataclass(frozen=True)
class Control:
    """The same experiment where no model could show anything.

    Args:
        name: "shuffled states" or "random weights".
        words: its headlines by reading, in words; or why it could not be done.
        verdicts: for each reading whether the model leads it: whether all its differences are greater.
    """

    name: str
    words: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Result:
    """What an experiment found.

    Args:
        verdict: "yes" where the model shows what the paper claims, by the rule in the experiment's docstring; "no", or
            "too few to say".
        figure: the headline in words: "matched - baseline 0.31 [0.29, 0.33] at layer 9 of 18".
        n: items, pairs or positions that the headline is over.
        table: layer, quantity, value, low, high (95 %) and n, and columns of the experiment's own.
        plots: what the figure shows.
        notes: what a reader must know: what was left out, and why.
        readings: the claim by each way to read the states, the paper's first.
        controls: what it is compared with; () where it was done without.
    """

    verdict: Verdict
    figure: str
    n: int
    table: pa.Table
    plots: tuple[Plot, ...]
    notes: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()
    controls: tuple[Control, ...] = ()

    @classmethod
    def of(
        cls, readings: Sequence[Reading], n: int, table: pa.Table, plots: Sequence[Plot], notes: Sequence[str]
    ) -> Result:
        """The result of a claim by one or more readings; what others than the first say is in notes."""
        first, *others = readings
        all_notes = (*(one.note for one in others), *notes)
        return cls(first.verdict, first.words, n, table, tuple(plots), all_notes, tuple(readings))

    @property
    def shown(self) -> bool:
        """Whether the verdict is "yes"."""
        return self.verdict == YES


def make_table(rows: Iterable[Row], columns: Mapping[str, pa.DataType] | None = None) -> pa.Table:
    """A table of results, with null where a row has no value and for a number that is none.

    Args:
        rows: mappings of layer, quantity, value, low, high and n.
        columns: further columns and their types.
    """
    fields = {**COLUMNS, **(columns or {})}
    every = list(rows)
    arrays = [pa.array([row.get(name) for row in every], kind, from_pandas=True) for name, kind in fields.items()]
    return pa.table(dict(zip(fields, arrays, strict=True)))


def write_result(folder: Path, result: Result, description: Mapping[str, Any], image: bytes | None) -> None:
    """Write result.json, table.parquet and figure.png; the first last, so that it stands for all three.

    Args:
        folder: the experiment's.
        result: what it found.
        description: JSON-able: what the experiment is, under "made_from" all that decides the result, under "stores"
            what it read.
        image: the figure, a PNG; None for a result that is not read again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
    provenance = {**description["made_from"], "stores": description["stores"], "notes": result.notes}
    described = {METADATA: json.dumps(provenance).encode()}
    put(folder / TABLE, parquet_bytes(result.table.replace_schema_metadata(described)))
    if image is not None:
        put(folder / FIGURE, image)
    found = {
        **description,
        "verdict": result.verdict,
        "shown": result.shown,
        "figure": result.figure,
        "n": result.n,
        "notes": result.notes,
        "plots": [vars(plot) for plot in result.plots],
        "readings": [
            vars(one) | {name: list(map(_plain, vars(one)[name])) for name in ROWS} for one in result.readings
        ],
        "controls": [vars(one) for one in result.controls],
    }
    put(folder / RESULT, to_json(found))


def _plain(row: Row) -> dict[str, Any]:
    """A row as it is in a table: without what each cluster adds to it."""
    return {name: value for name, value in row.items() if name in COLUMNS}


def read_result(folder: Path, provenance: Mapping[str, Any]) -> Result | None:
    """The result in `folder`; None where it was made from anything else or is not whole."""
    found = read_json(folder / RESULT)
    try:
        table = read_parquet(folder / TABLE)
    except (OSError, pa.ArrowException):
        return None  # what is damaged is made again
    if found is None or not all("greatest" in one for one in found.get("readings", [{}])):
        return None  # judged by an earlier rule
    if found["made_from"] != json.loads(json.dumps(provenance)) or not (folder / FIGURE).is_file():
        return None
    plots = tuple(Plot(**{**plot, "quantities": tuple(plot["quantities"])}) for plot in found["plots"])
    readings = tuple(Reading(**one | {name: tuple(one[name]) for name in ROWS}) for one in found["readings"])
    controls = tuple(Control(one["name"], tuple(one["words"]), tuple(one["verdicts"])) for one in found["controls"])
    notes = tuple(found["notes"])
    return Result(found["verdict"], found["figure"], found["n"], table, plots, notes, readings, controls)


def to_json(value: Any) -> bytes:
    """JSON for people, UTF-8."""
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write JSON at `path`, wholly or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path, to_json(value))


def read_json(path: Path) -> Any:
    """The JSON at `path`; None where there is none."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
