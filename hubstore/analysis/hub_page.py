"""What a table of `hub_score` says on one page: whether there is a hub, and how deep and how broad it is."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from hubstore.analysis.hub_score import (
    ALIGNMENT,
    CHARACTERS,
    ENDS,
    HELD_OUT,
    MIDDLE,
    MODEL,
    SHUFFLED,
    TEXT,
    TWIN,
    WHOLE,
    middle_less,
)
from hubstore.analysis.results import Row, metadata
from hubstore.stats.verdicts import LEVEL, NO, YES

NOT_TESTED = "not tested"


def hub_page(table: pa.Table) -> dict[str, Any]:
    """What a table of `hub_score` says, for people and programs.

    Returns:
        "verdict": "yes" where recall leads both controls, and is greater in the central half of the depth than at the
        embeddings, the first block and the last layer, each with a p of 2.5 % at most; "no" where one of these is not
        so; else "not tested", since a twin, layer 0 or the middle is missing: "untested" names what, and "missing" the
        layers that the store would need. "characters": what the texts' own find, and recall above that. "recall",
        "depth", "breadth", "left" by control, "middle", "pairs", "families", "scripts" and "partitions" as `hub_score`
        describes them, and "layers", each with calibrated recall of all variants, CKA and mutual kNN.
    """
    rows = table.to_pylist()
    recall = {(row["layer"], row["x"], row["variant"]): row for row in rows if row["metric"] == "recall@1"}
    plain = {row["metric"]: row for row in rows if row["layer"] == HELD_OUT and row["metric"] != "recall@1"}
    leads = {row["variant"]: _cell(row) for row in rows if row["metric"] == "lead"}
    left = {variant: of for variant, of in leads.items() if variant != CHARACTERS}
    middle = {row["metric"]: _cell(row) for row in rows if row["layer"] == MIDDLE}
    held = {x: row for (layer, x, variant), row in recall.items() if layer == HELD_OUT and variant == MODEL}
    tests = {
        **{f"above {variant}": left.get(variant) for variant in (SHUFFLED, TWIN)},
        **{metric: middle.get(metric) for metric in map(middle_less, ENDS)},
    }
    p = {name: None if one is None else one["p"] for name, one in tests.items()}
    untested = [name for name, of in p.items() if of is None]
    failed = any(of is not None and of > LEVEL for of in p.values())
    layers = {
        layer: {
            **{f"recall@1, {variant}": row["calibrated"] for (at, x, variant), row in recall.items() if at == layer},
            **{
                row["metric"]: row["calibrated"] for row in rows if row["layer"] == layer and row["metric"] in ALIGNMENT
            },
        }
        for layer in dict.fromkeys(row["layer"] for row in rows)
        if layer not in (HELD_OUT, MIDDLE, TEXT)
    }
    return {
        "verdict": NO if failed else NOT_TESTED if untested else YES,
        "untested": untested,
        "missing": metadata(table)["notes"].get("missing", []),
        "recall": _cell(held[WHOLE]),
        "controls": {variant: _cell(recall[HELD_OUT, WHOLE, variant]) for variant in left},
        "left": left,
        "characters": {"recall": _cell(recall[HELD_OUT, WHOLE, CHARACTERS]), "above": leads[CHARACTERS]}
        if CHARACTERS in leads
        else None,
        "middle": middle,
        "depth": {name: plain[name]["value"] for name in ("depth", "first", "last") if name in plain},
        "breadth": plain["breadth"]["value"],
        "pairs": {x: _cell(row) for x, row in held.items() if x.startswith("of ")},
        "families": {x.removeprefix("family "): _cell(row) for x, row in held.items() if x.startswith("family ")},
        "scripts": {x.removeprefix("script "): _cell(row) for x, row in held.items() if x.startswith("script ")},
        "partitions": {
            x: {**_cell(row), "q": row["q_value"], "family": row["family"], "script": row["script"]}
            for x, row in held.items()
            if row["family"] is not None
        },
        "layers": layers,
        "n": held[WHOLE]["n"],
    }


def _cell(row: Row) -> dict[str, Any]:
    names = {"value": "value", "low": "low", "high": "high", "calibrated": "calibrated", "p_value": "p"}
    return {name: row[column] for column, name in names.items()}
