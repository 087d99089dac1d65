"""The kinds of index: which suits how many rows, their FAISS factory strings, and how hard they search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hubstore.errors import IndexingError

KINDS = ("exact", "hnsw", "ivf", "ivfpq", "ivfrabitq")
IVF_KINDS = ("ivf", "ivfpq", "ivfrabitq")

IN_FILE = ("ivfrabitq",)
"""Kinds whose lists are searched where they are in their file; of others the file is read when it is opened."""

CODED = ("ivfpq", "ivfrabitq")
"""Kinds whose rows are codes of a few bits an element, so that more candidates than neighbors are scored again."""

RABITQ_BITS = 1
"""Of an element: its sign.

Rows are rotated first, which spreads what a few dimensions have of a hidden state. So with 1 bit .95 of the 10 true
neighbors are among the first 16 candidates, on a middle layer of multilingual-e5-small and on made-up rows; with 2
bits, in twice the bytes, among 12; with PQ, in nearly twice the bytes, among 13 to 28 (benchmarks/codes.py).
A candidate more is a page read; a bit more is read of every row of every list that is visited.
An index of 2 bits, as earlier releases build, is searched and grows as it is.
"""

EXACT_ROWS = 200_000
"""`auto` stays exact up to here, and a filtered search that leaves no more rows is exact whatever the index.

200,000 float16 rows of width 384 take a core with fast bfloat16 45 ms for one query and 0.5 ms each in a batch of 256,
at recall 1, with nothing to build, load or keep up to date; HNSW would take a minute or two to build for each layer.
"""

HNSW_ROWS = 500_000
"""`auto` takes HNSW up to here, IVF with RaBitQ codes above.

HNSW has the best recall for its time, but a core adds only 1,500 to 3,000 rows of width 384 a second, and the graph
with its float16 rows stays in memory: 500,000 rows take minutes and half a gigabyte a layer. IVF trains on a sample and
is built ten times as fast; RaBitQ codes take a quarter of a byte an element, stay on the disk, and order rows so well
that few more than k are read to be scored again.
"""


def choose(rows: int, on_gpu: bool) -> str:
    """The kind that `auto` stands for: exact, then HNSW, then IVF with RaBitQ codes as `rows` grow.

    FAISS has HNSW and fast-scan on the CPU only, so on a GPU the large kinds are both `ivf`.
    """
    if rows <= EXACT_ROWS:
        return "exact"
    if on_gpu:
        return "ivf"
    return "hnsw" if rows <= HNSW_ROWS else "ivfrabitq"


def check_kind(kind: str) -> None:
    """IndexingError, naming the kinds there are, for another."""
    if kind not in (*KINDS, "auto"):
        raise IndexingError(f"{kind!r} is no kind of index; choose auto, {', '.join(KINDS)}")


def factory(kind: str, rows: int, width: int) -> str:
    """The FAISS factory string for `rows` rows of `width` elements.

    Rows are float16 inside (a re-rank reads the store's own); or RaBitQ codes; or, with PQ, 4 bits for 2 elements: from
    width 512 on for 4, where neighboring elements tell less.
    """
    if kind == "hnsw":
        return "HNSW32,SQfp16"
    lists = list_count(rows)
    if kind == "ivf":
        return f"IVF{lists},SQfp16"
    if kind == "ivfrabitq":
        return f"IVF{lists},RaBitQfs{RABITQ_BITS}"
    per_code = next(size for size in ((2, 3, 1) if width <= 512 else (4, 2, 3, 5, 1)) if width % size == 0)
    return f"IVF{lists},PQ{width // per_code}x4fs"


def rabitq_bits(factory: str | None) -> int:
    """Bits of an element's code in an index of such a factory string, which an earlier release may have built."""
    digits = (factory or "").rpartition("RaBitQfs")[2]
    return int(digits) if digits.isdecimal() else RABITQ_BITS


def list_count(rows: int) -> int:
    """Inverted lists: the power of two nearest 2 sqrt(rows), with 39 rows a list or more, as FAISS wants them."""
    fitting = max(1, rows // 39)
    return int(2 ** min(round(math.log2(2 * math.sqrt(max(rows, 1)))), math.floor(math.log2(fitting))))


def parameters(kind: str, rows: int) -> dict[str, int]:
    """What an index of `rows` rows is built with and, by default, searched with.

    `efConstruction` and `efSearch` are HNSW's beams, `nprobe` the inverted lists visited of `nlist`; `refine` times k
    candidates are re-ranked exactly. `efSearch`, `nprobe` and `refine` are where tuning begins: those that an index
    keeps are chosen when it is built (`hubstore.index.tuning`). Measured as they are here on 50,000 rows of width 384,
    clustered by topic and language, recall@10 with and without a few huge dimensions that all rows share: HNSW .999 and
    .997, `ivf` .98 and .98, `ivfpq` .96 and .98.
    """
    if kind == "hnsw":
        return {"efConstruction": 100, "efSearch": 128, "refine": 2}
    lists = list_count(rows)
    # The share of lists that holds the neighbors falls as lists get more: 128 of 512, 384 of 4096.
    probes = min(lists, max(16, round(5.7 * math.sqrt(lists))))
    return {"nlist": lists, "nprobe": probes, "refine": 10 if kind == "ivfpq" else 2}


def training_rows(kind: str, rows: int) -> int:
    """Rows of the sample that an index is trained on; HNSW only needs a mean."""
    return min(rows, 64 * list_count(rows) if kind in IVF_KINDS else 8192)


def effort_name(kind: str) -> str:
    """What the one knob of a search is called in an index's parameters."""
    return "efSearch" if kind == "hnsw" else "nprobe"


def default_search_effort(kind: str, settings: Mapping[str, Any]) -> int:
    """The recorded default of the one knob: efSearch or nprobe."""
    return int(settings[effort_name(kind)])


SHARES = {"nprobe_10": 0.1, "nprobe_1": 0.01}
"""Parameters of kinds that are searched in their file: lists to visit where such a share of the rows may be found."""


def filtered_effort(settings: Mapping[str, Any], effort: int, share: float) -> int:
    """Lists to visit where a share of the rows may be found, for `effort` where all may.

    Between the shares that were measured when the index was built, by the logarithm; of one that was not measured as
    many more lists as rows are fewer.
    """
    if not all(type(settings.get(name)) is int and settings[name] > 0 for name in SHARES):
        return min(math.ceil(effort / share), int(settings["nlist"]))
    shares, efforts = (
        [1.0, *SHARES.values()],
        [settings["nprobe"], *(min(settings[name], settings["nlist"]) for name in SHARES)],
    )
    places, logs = [-math.log(one) for one in shares], [math.log(one) for one in efforts]
    measured = math.exp(float(np.interp(-math.log(share), places, logs)))
    return int(min(math.ceil(effort * measured / float(settings["nprobe"])), settings["nlist"]))
