"""`python -m benchmarks.experiments`: the paper's experiments on a real model, and the record that their README shows.

`--model` and `--work` do them as `hubstore experiment all` does, reuse what the folder has, and write
benchmarks/results/experiments/<model>.json with figures beside it, or the same below `--out`.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.record import RESULTS, commit, gpu_machine, machine, versions
from hubstore.experiments import EXPERIMENTS, ExperimentContext, run_experiments
from hubstore.media import MEDIA

FOLDER = RESULTS / "experiments"
ORIGIN = ("data", "limit", "machine", "commit")
WIDEST, COLORS = 1600, 256
"""Pixels across, and colors, of the figures that are kept."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the experiments, keep the record; 1 where one could not be done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    parser.add_argument("--model", required=True, help="a causal model's folder or hub id")
    parser.add_argument("--also", action="append", default=[], help="a further model over the same language model")
    parser.add_argument("--media-template", default=MEDIA, help="what goes with an image or an audio clip")
    parser.add_argument("--work", required=True, type=Path, help="folder for stores and results; reused")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the record and the figures")
    parser.add_argument("--data", type=Path, help="folder with files in place of what ships")
    parser.add_argument("--data-note", default="", help="what those files are, for the README")
    parser.add_argument("--only", nargs="*", help="some experiments; the record keeps what it has of the others")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--commit", help="what was measured, where the code at hand has no history to ask")
    options = parser.parse_args(arguments)
    context = ExperimentContext(
        options.model,
        options.work,
        options.data,
        options.limit,
        device=options.device,
        extra_models=tuple(options.also),
        media_template=options.media_template,
    )
    names = options.only or [one.name for one in EXPERIMENTS if one.fits(context.model)]
    path = options.out / f"{context.model.identity['id']}.json"
    kept = json.loads(path.read_text()) if path.exists() else {"experiments": []}
    lines = {line["experiment"]: line for line in with_origin(kept)}
    options.out.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in names:
        started = time.perf_counter()
        (done,) = run_experiments([name], context)
        took = round(time.perf_counter() - started, 1)
        failed = failed or done.error is not None
        print(f"{name}: {took:.0f} s, {done.result.figure if done.result else done.error}", flush=True)
        notes = [] if done.result is None else list(done.result.notes)
        run = {"seconds": took, "date": _today()}
        lines[name] = {**done.to_json(), "before": _before(lines.get(name)), "notes": notes, **run}
        for image_file in sorted((options.work / name).glob("*.png")) if done.result is not None else ():
            kind = "" if image_file.stem == "figure" else f"-{image_file.stem}"
            (options.out / f"{path.stem}-{name}{kind}.png").write_bytes(small(image_file.read_bytes()))
        record = {
            "model": context.model_record(),
            "data": options.data_note,
            "media_template": options.media_template,
            "limit": options.limit,
            "seed": context.seed,
            "bootstrap": context.bootstrap,
            "machine": gpu_machine() if context.model.device.type == "cuda" else machine(options.work),
            "commit": options.commit or commit(),
            "versions": versions(),
            "experiments": [lines[one.name] for one in EXPERIMENTS if one.name in lines],
        }
        path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return int(failed)


def with_origin(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A record's lines, each with what it was measured on, so that lines of several runs can stand in one record."""
    return [{**{key: record[key] for key in ORIGIN if key in record}, **line} for line in record["experiments"]]


def _before(line: Mapping[str, Any] | None) -> str | None:
    """The verdict of the first record of an experiment, by the rules of its time; None where it was not done."""
    if line is None or line["shown"] is None:
        return None
    return str(line.get("before") or line.get("verdict") or ("yes" if line["shown"] else "no"))


def small(figure: bytes) -> bytes:
    """A figure no wider than a page shows and in few colors, all of the lines' own among them: half its bytes."""
    with Image.open(io.BytesIO(figure), formats=["PNG"]) as opened:
        image = opened.convert("RGB")
    image.thumbnail((WIDEST, image.height))
    written = io.BytesIO()
    image.quantize(COLORS, Image.Quantize.MAXCOVERAGE).save(written, format="png", optimize=True)
    return written.getvalue()


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


if __name__ == "__main__":
    sys.exit(main())
