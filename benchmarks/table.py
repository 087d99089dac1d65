"""`python -m benchmarks.table`: the tables of the READMEs, made of benchmarks/results. `--write` puts them there,
`--check` fails where they are others."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bridge import bridge_tables
from benchmarks.hub_table import hub_tables
from benchmarks.record import RESULTS, ROOT, Result
from hubstore.experiments.claims import MIDDLE
from hubstore.experiments.context import CONTROLS
from hubstore.experiments.recipes.cosines import MEANS_REMOVED
from hubstore.experiments.recipes.lens import NORMED

SUMMARY, BENCHMARKS, EXPERIMENTS, BRIDGE, SCALING = "summary", "benchmarks", "experiments", "bridge", "scaling"
HUB = "hub"

PLACES: Mapping[str, str] = {
    SUMMARY: "README.md",
    BENCHMARKS: "benchmarks/README.md",
    EXPERIMENTS: "hubstore/experiments/README.md",
    BRIDGE: "scripts/bridge/README.md",
    SCALING: "hubstore/extraction/README.md",
    HUB: "hubstore/experiments/README.md",
}
"""Where each section that is made here stands, between <!-- name:begin --> and <!-- name:end -->."""

HEADLINES = (
    ("nvidia-h200", "gpu-extraction-1", "Llama 8B, 20,480 sentences, 33 layers, mean", "bare forward"),
    ("nvidia-h200", "gpu-extraction-1", "Llama 8B, 20,480 sentences, 33 layers, mean", "authors' loop"),
    ("nvidia-h100-80gb-hbm3", "gpu-media", "ViT-L/14, 224 px, 16,384 items", "authors' loop"),
    ("nvidia-h200", "topk", "1M x 1024 float16 in all directions, 4,096 queries, k 10", "product alone"),
    ("nvidia-h200", "lens", "8,192 states x 4096, vocabulary 128,256, bfloat16", "bare product"),
    ("nvidia-h200", "one-query", "one query, 1M x 1024 float16, k 10", "one read"),
    ("amd-epyc-2-cores", "extraction", "multilingual-e5-small, 210 texts, 13 layers x 384, float16", "bare forward"),
    ("amd-epyc-2-cores", "store", "scan a layer of 100,000 x 768 float16", "numpy memmap"),
    ("intel-r-xeon-r-processor-2-cores", "kernels_cpu", "topk_cosine, 1,000 queries", "FAISS IndexFlatIP"),
)
"""The summary's rows: file, suite, how the case begins, and what it is compared with."""

CEILINGS = "ceilings"
"""The suite whose values are the machine's, not hubstore's."""


def summary_table(files: Mapping[str, Mapping[str, Any]]) -> str:
    """The headlines that were measured, as Markdown; a headline whose figure is not in `files` is left out."""
    lines = [_row(("what", "on", "hubstore", "ratio")), _row(["---"] * 4)]
    for file, suite, begin, peer in HEADLINES:
        if suite not in files.get(file, {}).get("suites", {}):
            continue
        on = files[file]["machine"]
        device = on.get("gpu", f"{on['cores']} cores of {on['cpu']}")
        results = map(Result.from_json, files[file]["suites"][suite]["results"])
        result = next(r for r in results if r.case.startswith(begin) and peer in r.ratios)
        compared = f"{result.ratios[peer]:.2f} of {peer}"
        lines.append(_row((result.case, device, f"{number(result.value)} {result.unit}", compared)))
    return "\n".join(lines)


def suite_table(results: Iterable[Result]) -> str:
    """A Markdown table of one suite's results, and below it what to know to read it."""
    results = list(results)
    measured = "measured" if all(result.work == CEILINGS for result in results) else "hubstore"
    header = ("case", measured, "unit", "beside it", "ratio", "target")
    lines = [_row(header), _row(["---"] * len(header)), *(_row(_cells(result)) for result in results)]
    notes = list(dict.fromkeys(note for result in results for note in result.notes))
    return "\n".join(lines) + ("\n\n" + "; ".join(notes) + "." if notes else "") + "\n"


def tables(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Every suite of every machine, as Markdown."""
    parts = []
    for _, content in sorted(files.items()):
        parts.append(_heading(content["machine"]))
        for suite, run in content["suites"].items():
            versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
            parts.append(f"**{suite}** ({run['date'][:10]}, commit {run['commit']}; {versions})")
            parts.append(suite_table(Result.from_json(result) for result in run["results"]).rstrip())
    return "\n\n".join(parts)


def _heading(machine: Mapping[str, Any]) -> str:
    host = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']:g} GB"
    ratios = "ratios (x) are hubstore's value over the other's in the same turn, medians over the turns."
    if "gpu" in machine:
        gpus = machine["gpu"] if machine["gpus"] == 1 else f"{machine['gpus']} x {machine['gpu']}"
        gpu = f"{gpus} of {machine['gpu_memory_gb']:g} GB, driver {machine['driver']}, CUDA {machine['cuda']}"
        return f"On {gpu} ({host}): medians (least to greatest); {ratios}"
    return (
        f"On {host}, {machine['filesystem']}, {machine['pinned']}: medians (least to greatest). The machine is shared "
        f"and its speed moves: {ratios}"
    )


LED = {"yes": "led", "no": "**not led**", "too few to say": "too few to say"}
"""Whether the model leads a control."""


def experiment_tables(records: Mapping[str, Mapping[str, Any]]) -> str:
    """What each model shows of the paper's claims, as Markdown; records by the name of their file."""
    parts = []
    for name, record in sorted(records.items()):
        model = record["model"]
        shown = [line for line in record["experiments"] if line["shown"] is not None]
        count = f"{sum(line['shown'] for line in shown)} of {len(shown)} claims shown"
        if earlier_rules := sum(line["shown"] and "controls" not in line for line in shown):
            count += f", {earlier_rules} of them by the first edition's rules and without controls"
        parts.append(f"**{model['id']}**{_origin(record)}, seed {record['seed']}: {count}.")
        earlier = dict.fromkeys(_origin({**record, **line}) for line in record["experiments"])
        parts += [f"Other rows are of another run{one}." for one in earlier if one != _origin(record)]
        header = (
            "experiment",
            "what the paper found",
            "shown",
            "as measured, with 95 % intervals",
            *CONTROLS,
            "n",
            "s",
        )
        lines = [_row(header), _row(["---"] * len(header))]
        for line in record["experiments"]:
            figure = f"[{line['experiment']}](../../benchmarks/results/experiments/{name}-{line['experiment']}.png)"
            said = f"{_verdict(line)}{_changed(line)}"
            measured = "; ".join([line["figure"] or line["error"], *_readings(line["notes"])])
            n = "" if line["n"] is None else f"{line['n']:,}"
            beside = (_control(line, name) for name in CONTROLS)
            cells = (figure if line["figure"] else line["experiment"], line["claim"], said, measured, *beside, n)
            lines.append(_row([*(cell.replace("|", "\\|") for cell in cells), f"{line['seconds']:.0f}"]))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _verdict(line: Mapping[str, Any]) -> str:
    """Of a line that an earlier release recorded, too."""
    said = line.get("verdict", {True: "yes", False: "no", None: "not done"}[line["shown"]]) or "not done"
    return "**no**" if said == "no" else said


def _origin(run: Mapping[str, Any]) -> str:
    """What lines were measured on."""
    on = run["machine"]
    data = f", on {run['data']}" if run["data"] else ""
    most = "" if run.get("limit") is None else f", {run['limit']:,} items at most"
    return f"{data}{most} ({on.get('gpu', on['cpu'])}, commit {run['commit']})"


def _changed(line: Mapping[str, Any]) -> str:
    """How a verdict differs from the first edition's, and why."""
    if "controls" not in line:
        return " (first edition, no controls)"
    before, now = line.get("before"), line["verdict"]
    if before in (None, now):
        return ""
    why = [f"{one['name']} {LED[one['verdicts'][0]]}" for one in line["controls"] if one["verdicts"][0] != "yes"]
    return f" (was {before}; {', '.join(why) or 'by the test of all layers'})"


def _control(line: Mapping[str, Any], name: str) -> str:
    """What a control says beside, and whether the model leads it, by each way to read the states."""
    found = next((one for one in line.get("controls", ()) if one["name"] == name), None)
    if found is None:
        return ""
    return "; ".join(f"{LED[v]}: {words}" for v, words in zip(found["verdicts"], found["words"], strict=True))


def _readings(notes: Sequence[str]) -> list[str]:
    """What an experiment says of other ways to read the states, and of the middle of the model."""
    return [note for note in notes if note.startswith((f"{NORMED} it is", f"{MEANS_REMOVED} it is", MIDDLE))]


def insert(text: str, section: str, name: str) -> str:
    """`text` with `section` between the markers of `name`; ValueError where it has none."""
    begins, ends = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = text.partition(begins)
    _, end, after = rest.partition(ends)
    if not begin or not end:
        raise ValueError(f"there is no place for the tables; put {begins} and {ends} on lines of their own")
    return f"{before}{begin}\n\n{section}\n\n{end}{after}"


def main(arguments: Sequence[str] | None = None, root: Path = ROOT, results: Path = RESULTS) -> int:
    """Print, write or check the tables; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--write", action="store_true", help="put the tables into the READMEs")
    choice.add_argument("--check", action="store_true", help="fail where the READMEs have other tables")
    options = parser.parse_args(arguments)
    measured = _read(results)
    sections = {
        SUMMARY: summary_table(measured),
        BENCHMARKS: tables(measured),
        EXPERIMENTS: experiment_tables(_read(results / EXPERIMENTS)),
        BRIDGE: bridge_tables(_read(results / BRIDGE)),
        SCALING: tables(_read(results / SCALING)),
        HUB: hub_tables(_read(results / HUB)),
    }
    if not (options.write or options.check):
        print(*sections.values(), sep="\n\n")
        return 0
    code = 0
    for name, section in sections.items():
        page = root / PLACES[name]
        text = page.read_text()
        try:
            wanted = insert(text, section, name)
        except ValueError as error:
            print(f"{PLACES[name]}: {error}", file=sys.stderr)
            return 1
        if options.write:
            page.write_text(wanted)
        elif wanted != text:
            print(f"{PLACES[name]}: its tables are not those of benchmarks/results; python -m benchmarks.table --write")
            code = 1
    return code


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """What was kept in a folder, by the name of its file."""
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def _cells(result: Result) -> list[str]:
    return [
        result.case if result.recall is None else f"{result.case}, recall {result.recall:.4g}",
        f"{number(result.value)} ({number(result.spread[0])} to {number(result.spread[1])})",
        result.unit,
        ", ".join(_peer(result, name) for name in result.peers),
        f"{result.ratio:.2f} of {result.against}" if result.ratio is not None else "",
        _target(result),
    ]


def _peer(result: Result, name: str) -> str:
    value = result.peers[name]
    if value is None:
        return f"{name} did not run"
    details = [f"x {result.ratios[name]:.2f}"] if name in result.ratios else []
    if name in result.peer_recalls:
        details.append(f"recall {result.peer_recalls[name]:.4g}")
    return f"{name} {number(value)}" + (f" ({', '.join(details)})" if details else "")


def _target(result: Result) -> str:
    """What was aimed at and whether it was met."""
    targets = []
    if result.target is not None:
        unit = f" {result.unit}" if result.target_of == "value" else ""
        targets.append(f"{'≥' if result.better == 'higher' else '≤'} {result.target:g}{unit}")
    if result.recall_target is not None:
        targets.append(f"recall ≥ {result.recall_target:g}")
    return f"{', '.join(targets)} {'met' if result.met else '**missed**'}" if targets else ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    """Three digits: 5.04, 61.2, 1,230; an exponent where two decimals would show none: 3.1e-05."""
    value = float(f"{value:.3g}")
    if 0 < abs(value) < 0.005:
        return f"{value:.1e}"
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{decimals}f}"


if __name__ == "__main__":
    sys.exit(main())
