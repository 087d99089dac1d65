"""`python -m benchmarks.hub`: how much of a hub several models have, and how alike they are, over parallel sentences.

Reads NTREX-128 from `--ntrex` (its folder of newstest2019 files), extracts each of `--only` of the models below
`--models`, and their twins with random weights, into `--work` once, and writes benchmarks/results/hub/, or the same
below `--out`: with `--score` <model>.json and hub.png of 26 languages, or <model>-128.json and so on of all (`--all`);
with `--compare` compare.json, compare-cka.png, language.json and tuned-lens.json. `benchmarks.table` makes the tables
of the READMEs.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from langcodes import standardize_tag

import hubstore
from benchmarks.experiments import small
from benchmarks.record import RESULTS, commit, gpu_machine, machine
from hubstore.analysis import hub_page, hub_score, subspace
from hubstore.corpus import read_parallel
from hubstore.experiments.result import write_json
from hubstore.experiments.twin import random_twin
from hubstore.lens import Lens, tuned_losses
from hubstore.models import load_model
from hubstore.plots.compare import compare_png
from hubstore.plots.hub_score import hub_png

SOME = {
    "en": "src.eng", "de": "ref.deu", "es": "ref.spa", "fr": "ref.fra", "it": "ref.ita", "ro": "ref.ron",
    "ru": "ref.rus", "pl": "ref.pol", "uk": "ref.ukr", "el": "ref.ell", "hi": "ref.hin", "bn": "ref.ben",
    "fa": "ref.fas", "fi": "ref.fin", "hu": "ref.hun", "tr": "ref.tur", "ar": "ref.arb", "he": "ref.heb",
    "sw": "ref.swa", "ta": "ref.tam", "th": "ref.tha", "vi": "ref.vie", "id": "ref.ind", "zh-Hans": "ref.zho-CN",
    "ja": "ref.jpn", "ko": "ref.kor",
}  # fmt: skip
"""Languages that models are compared in, and their files among NTREX's."""
FOLDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "e5-small": ("multilingual-e5-small", {"template": "query: {text}"}),
    "gemma-3-270m": ("gemma-3-270m", {}),
    "smollm2-135m": ("smollm2-135m-instruct", {}),
}
"""The models: folders below `--models`, and how they read a text."""
TWIN = "-random"
"""What the name of a model's twin ends in."""
SEED = 0
LINES = 40
LANGUAGES = ["en", "es", "de", "el", "ru", "hi", "ar", "he", "sw", "ta", "th", "zh-Hans", "ja", "ko"]
MEASURES = ["cka", "mutual_knn", "linear_r2", "mapped_recall@1"]
DEPTHS = (0, 0.25, 0.5, 2 / 3, 1)
REMOVED = ("raw", "centered", "lsar", "leace", "inlp", "random")
COUNTED = ("directions_for_90%", "directions_with_90%")
TUNED, TUNED_LAYERS = "gemma-3-270m", [4, 8, 12, 16, 18]
COMPARED: dict[str, Any] = {"permutations": 39, "k": 5, "seed": SEED}


def all_files(ntrex: Path) -> dict[str, str]:
    """Every language and variant of NTREX-128 by its BCP 47 tag, English first, and its file."""
    names = (path.name.removeprefix("newstest2019-").removesuffix(".txt") for path in ntrex.glob("newstest2019-*.txt"))
    found = {standardize_tag(name.split(".")[1]): name for name in sorted(names) if name.startswith(("ref.", "src."))}
    return {"en": found.pop("en"), **found}


def extract(name: str, files: Mapping[str, str], options: argparse.Namespace, lines: int) -> hubstore.Store:
    """The store of a model or, where its name says so, of its twin."""
    folder, how = FOLDERS[name.removesuffix(TWIN)]
    path = options.work / f"{name}-{len(files)}.hub"
    if path.exists():
        return hubstore.open(path)
    corpus = read_parallel({tag: str(options.ntrex / f"newstest2019-{file}.txt") for tag, file in files.items()},
                           limit=lines)  # fmt: skip
    model = load_model(str(options.models / folder), device=options.device, dtype="float32")
    if name.endswith(TWIN):
        model = random_twin(model, SEED)
    settings: dict[str, Any] = {"layers": ("all", "final"), "dtype": "float32", "readers": 0, **how}
    poolings = ("mean", "last") if files is SOME else ("mean",)  # the tuned lens reads the last
    return hubstore.extract(corpus, model, path, poolings=poolings, **settings)


def without_language(store: hubstore.Store) -> list[dict[str, Any]]:
    """At some depths, recall and language accuracy on tested concepts, by what is removed."""
    depth = max(int(layer) for layer in store.layers if layer != "final")
    layers = [str(round(share * depth)) for share in DEPTHS]
    rows = subspace(store, layers=layers, seed=SEED).to_pylist()
    cells = {(row["layer"], row["variant"], row["metric"]): row for row in rows if row["x"] == "*"}
    return [
        {
            "layer": layer,
            **{
                variant: {"directions": cells[layer, variant, "recall@1"]["directions"]}
                | {metric: cells[layer, variant, metric]["value"] for metric in ("recall@1", "language_accuracy")}
                for variant in REMOVED
            },
            **{metric: cells[layer, "lsar", metric]["value"] for metric in COUNTED},
        }
        for layer in dict.fromkeys(layers)
    ]


def tuned(store: hubstore.Store, models: Path) -> list[dict[str, Any]]:
    """What the tuned lens of Gemma loses on held-out concepts, beside the raw and the normed one."""
    model = load_model(str(models / FOLDERS[TUNED][0]), device="cpu", dtype="float32", head=True)
    rows = tuned_losses(store, Lens.of_model(model), layers=TUNED_LAYERS, pooling="last", seed=SEED).to_pylist()
    return [{name: row[name] for name in ("layer", "variant", "metric", "value", "n")} for row in rows]


def lines_of(table: pa.Table) -> list[dict[str, Any]]:
    """For every two stores and measure the best of all pairs of layers: means over the languages, and the largest p."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        if row["layer"] == "best":
            found.setdefault((row["store_x"], row["store_y"], row["metric"], row["variant"]), []).append(row)
    return [
        {
            **dict(zip(("x", "y", "metric", "variant"), key, strict=True)),
            **{name: statistics.mean(row[name] for row in rows) for name in ("value", "null_mean", "calibrated")},
            "p_at_most": max(row["p_value"] for row in rows),
            "languages": len(rows),
            "n": rows[0]["n"],
        }
        for key, rows in found.items()
    ]


def main() -> int:
    """Extract, score, compare, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hub", description=__doc__)
    parser.add_argument("--ntrex", type=Path, required=True, help="folder of newstest2019-*.txt")
    parser.add_argument("--models", type=Path, required=True, help="folder of the models' folders")
    parser.add_argument("--work", type=Path, required=True, help="folder for the stores; reused")
    parser.add_argument("--only", nargs="+", choices=FOLDERS, default=list(FOLDERS), help="some of the models")
    parser.add_argument("--score", action="store_true", help="each model's hub")
    parser.add_argument("--all", action="store_true", help="it in all languages of NTREX, and not in 26 of them")
    parser.add_argument("--compare", action="store_true", help="models with one another, and what is below languages")
    parser.add_argument("--lines", type=int, default=LINES, help="sentences of a language to score a hub by")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "hub", help="folder of the records")
    parser.add_argument("--commit", help="what was measured, where the code at hand has no history to ask")
    options = parser.parse_args()
    options.commit = options.commit or commit()
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.score:
        score(options)
    if options.compare:
        compare(options)
    return 0


def score(options: argparse.Namespace) -> None:
    """The record of each model beside its twin, and the figure of all that have one."""
    files = all_files(options.ntrex) if options.all else SOME
    which = f"-{len(files)}" if options.all else ""
    for name in options.only:
        store, twin = (extract(one, files, options, options.lines) for one in (name, f"{name}{TWIN}"))
        for own, control in ((store, twin), (twin, None)):
            record = {
                "model": own.attributes["model"]["id"],
                "items": len(own),
                "lines": options.lines,
                "languages": len(files),
                "pooling": own.poolings[0],
                "seed": SEED,
                "machine": gpu_machine() if options.device.startswith("cuda") else machine(options.work),
                "commit": options.commit,
                **hub_page(hub_score(own, twin=control, seed=SEED, device=options.device)),
            }
            write_json(options.out / f"{name}{'' if own is store else TWIN}{which}.json", rounded(record))
    scored = {name: options.out / f"{name}{which}.json" for one in FOLDERS for name in (one, f"{one}{TWIN}")}
    pages = {name: json.loads(path.read_text()) for name, path in scored.items() if path.exists()}
    (options.out / f"hub{which}.png").write_bytes(small(hub_png(pages)))


def compare(options: argparse.Namespace) -> None:
    """How alike the models and a twin are, what is left of each without the language, and the tuned lens."""
    names = [*options.only, f"{TUNED}{TWIN}"]
    stores = {name: extract(name, SOME, options, LINES) for name in names}
    alike = hubstore.compare(*stores.values(), partitions=LANGUAGES, measures=MEASURES, **COMPARED)
    record = {**COMPARED, "measures": MEASURES, "languages": LANGUAGES, "stores": lines_of(alike)}
    write_json(options.out / "compare.json", rounded({**record, "commit": options.commit}))
    (options.out / "compare-cka.png").write_bytes(small(compare_png(alike, "cka")))
    removed = {name: without_language(store) for name, store in stores.items()}
    record = {"concepts": "half fitted, half tested", "seed": SEED, "models": removed}
    write_json(options.out / "language.json", rounded({**record, "commit": options.commit}))
    record = {"model": TUNED, "seed": SEED, "lines": tuned(stores[TUNED], options.models)}
    write_json(options.out / "tuned-lens.json", rounded({**record, "commit": options.commit}))


def rounded(value: Any) -> Any:
    """Floats to four digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    raise SystemExit(main())
