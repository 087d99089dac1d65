"""`python -m benchmarks.calibrated`: calibrated alignment of all layer pairs of two stores, beside a plain loop.

Two made stores of different widths and as many items, matched by concept. The plain loop computes platonic-rep's three
measures (CKA, mutual kNN, CKNNA) of the same drawn items from their states anew for every layer pair and permutation;
it is timed on a few arrangements of one layer pair, and its time for all of them is that, multiplied. Writes
benchmarks/results/statistics/calibrated.json, or the same below `--out`.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from benchmarks.record import RESULTS
from hubstore.analysis import calibrated_between
from hubstore.analysis.calibrated import sampled
from hubstore.analysis.calibration import unbiased_hsic
from hubstore.kernels.rows import unit_rows
from hubstore.storage import LocalStorage
from hubstore.store import Layout, StoreReader, write_metadata, write_shard

WIDTHS = (640, 384)
K, SEED, TIMED, CHUNK = 10, 0, 3, 256


def made(path: Path, rows: int, layers: int, width: int, meaning: Tensor, seed: int) -> StoreReader:
    """A store of `rows` items whose layers hold ever more of `meaning` [rows, m]."""
    generator = torch.Generator().manual_seed(seed)
    names = tuple(map(str, range(layers)))
    shard = -(-rows // CHUNK) * CHUNK
    layout = Layout(names, ("mean",), "float32", width, shard, chunk_rows=CHUNK)
    mixing = torch.randn(meaning.shape[1], width, generator=generator)
    noise = torch.randn(layers, rows, width, generator=generator)
    states = torch.stack([noise[layer] + layer / layers * meaning @ mixing for layer in range(layers)])
    storage = LocalStorage(path)
    write_metadata(storage, layout, {"model": {"id": "made-up"}}, shard, 0)
    write_shard(storage, layout, 0, _items(rows), {"mean": states})
    return StoreReader(path)


def _items(rows: int) -> pa.Table:
    names = [str(number) for number in range(rows)]
    texts = dict.fromkeys(("id", "concept", "text"), names)
    columns = {**texts, "language": ["en"] * rows, "modality": ["text"] * rows}
    arrays = {key: pa.array(values, pa.string()) for key, values in columns.items()}
    return pa.table({**arrays, "tokens": pa.array([8] * rows, pa.int32()), "truncated": pa.array([False] * rows)})


def plain(x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """CKA, mutual kNN and CKNNA of states [n, width] from the states themselves."""
    centered = [side - side.mean(0) for side in (x, y)]
    k, l = (side @ side.T for side in centered)  # noqa: E741
    cka = (k * l).sum() / (torch.linalg.matrix_norm(k) * torch.linalg.matrix_norm(l))
    grams = [side @ side.T for side in map(unit_rows, (x, y))]
    near = []
    for gram in grams:
        chosen = gram.clone().fill_diagonal_(-torch.inf).topk(K, dim=1).indices
        near.append(torch.zeros_like(gram).scatter_(1, chosen, 1.0))
    mutual = (near[0] * near[1]).sum(1).mean() / K
    hsic = [
        unbiased_hsic(near[a] * near[b] * grams[a], near[a] * near[b] * grams[b]) for a, b in ((0, 1), (0, 0), (1, 1))
    ]
    return float(cka), float(mutual), float(hsic[0] / ((hsic[1] * hsic[2]).sqrt() + 1e-6))


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibrated", description=__doc__)
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--layers", type=int, default=4, help="of each store")
    parser.add_argument("--permutations", type=int, default=99)
    parser.add_argument("--sample", type=int, default=512)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    options = parser.parse_args()
    meaning = torch.randn(options.items, 16, generator=torch.Generator().manual_seed(SEED))
    with tempfile.TemporaryDirectory() as folder:
        x, y = (
            made(Path(folder) / f"{width}.hub", options.items, options.layers, width, meaning, width)
            for width in WIDTHS
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        named = {"permutations": options.permutations, "sample": options.sample, "seed": SEED}
        table = calibrated_between(x, y, ("en", "en"), k=K, **named)
        seconds = time.perf_counter() - began
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        last, drawn = str(options.layers - 1), sampled(options.items, options.sample, SEED)
        sides = [store.hidden(last, "mean").take(drawn).to(torch.float64) for store in (x, y)]
    began = time.perf_counter()
    for _ in range(TIMED):
        found = plain(*sides)
    each = (time.perf_counter() - began) / TIMED
    here = {
        (row["metric"], row["variant"]): row["value"]
        for row in table.to_pylist()
        if row["layer"] == row["layer_y"] == last
    }
    ours = (here["cka", "raw"], here["mutual_knn", "raw"], here["cknna", "raw"])
    pairs = options.layers**2
    record = {
        **{name: getattr(options, name) for name in ("items", "layers", "permutations", "sample")},
        "widths": WIDTHS,
        "seed": SEED,
        "threads": torch.get_num_threads(),
        "layer pairs": pairs,
        "measures": len(here),
        "seconds": seconds,
        "peak memory above the stores, MiB": memory / 1024,
        "plain loop, measures": len(found),
        "plain loop, seconds for one arrangement of one layer pair": each,
        "plain loop, seconds for all, multiplied": each * pairs * (1 + options.permutations),
        "greatest difference of the three measures from the plain loop": max(map(lambda a, b: abs(a - b), found, ours)),
    }
    path = options.out / "statistics" / "calibrated.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
