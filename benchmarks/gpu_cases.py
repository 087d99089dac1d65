"""The kernels at the sizes that they are made for, with what each should reach on one H200."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks import gpu_peers as peers
from benchmarks import ground_truth as truth
from benchmarks.head_to_head import Bench, Contest, MakeReady, contest, peak_memory
from benchmarks.record import Result, compare
from hubstore.bench import ceilings
from hubstore.bench.states import near_parallel_states, unit_states
from hubstore.bench.timing import Task, interleave
from hubstore.kernels import LensSweep, lens_sweep, match_rank, paired_cosine, topk_cosine

Case = Callable[[Bench], list[Result]]
Of = Literal["ratio", "value"]

K = 10
CHECKED = 256
"""Queries whose answers are compared with float64's."""

RECALL = 0.999
DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}

SEARCH_NOTES = (
    "hubstore normalizes rows and queries in its own time and re-ranks exactly; its peers get them of norm 1, before "
    "their time is taken",
    f"recall@{K}: of the first {CHECKED} queries, against float64 on the same rows",
    "product alone: the float16 products by cuBLAS, in tiles, nothing done with them; int8 product alone: int8 ones",
    "torch: float16 products in tiles of 2^29 scores, torch.topk; flashlib: flash_knn in bfloat16; FAISS: "
    "GpuIndexFlatIP in float32, rows uploaded once",
    "baseline: float16 score tiles of 4096 rows, one pass keeping 16, float32 re-rank",
)


def topk(
    bench: Bench,
    *,
    width: int,
    dtype: torch.dtype = torch.float16,
    near_parallel: bool = False,
    target: float | None = None,
    rows: int = 1_000_000,
    queries: int = 4096,
) -> list[Result]:
    """Exact search: TFLOP/s of the products that it stands for, and recall."""
    n, q, width = bench.size(rows, 1000), bench.size(queries, 100), bench.size(width, 64)
    make = near_parallel_states if near_parallel else unit_states
    of = peers.Searching(
        make(q, width, dtype=dtype, device=bench.device, seed=1),
        make(n, width, dtype=dtype, device=bench.device, seed=0),
        K,
    )
    measured = contest(
        bench,
        lambda: topk_cosine(of.queries, of.rows, K)[1],
        {name: partial(make_ready, of) for name, make_ready in peers.SEARCHES.items()},
        _tflops(2 * n * q * width),
    )
    true = truth.nearest(of.queries[:CHECKED], of.rows, K)
    found = {name: output for name, output in measured.outputs.items() if output is not None}
    kind = "like residual streams" if near_parallel else "in all directions"
    return [
        _compare(
            "topk_cosine",
            f"{_count(n)} x {width} {DTYPES[dtype]} {kind}, {q:,} queries, k {K}",
            "TFLOP/s",
            measured,
            against="product alone",
            target=None if target is None else bench.target(target),
            recalls={name: truth.recall(indices, true) for name, indices in found.items()},
            recall_target=bench.target(RECALL),
            notes=SEARCH_NOTES,
        )
    ]


def few_queries(bench: Bench, *, queries: int) -> list[Result]:
    """The milliseconds of a few queries at once, which have to read every row."""
    n, width = bench.size(1_000_000, 1000), bench.size(1024, 64)
    rows = unit_states(n, width, dtype=torch.float16, device=bench.device, seed=0)
    asked = unit_states(queries, width, dtype=torch.float16, device=bench.device, seed=1)
    alone = queries == 1
    contestants: dict[str, MakeReady] = {
        "one read": lambda: rows.view(-1).view(torch.float32).sum,
        "torch": lambda: peers.torch_few_queries(asked, rows, K),
    }
    if alone:
        contestants["FAISS"] = lambda: peers.faiss_search(peers.Searching(asked, rows, K))
    measured = contest(
        bench,
        lambda: topk_cosine(asked, rows, K)[1],
        contestants,
        lambda seconds: 1e3 * seconds,
        runs=bench.size(21, 3),
    )
    true = truth.nearest(asked, rows, K)
    return [
        _compare(
            "topk_cosine",
            f"{'one query' if alone else f'{queries} queries at once'}, {_count(n)} x {width} float16, k {K}",
            "ms",
            measured,
            against="one read" if alone else "torch",
            target=bench.target(1.2 if alone else 1.0),
            target_of="ratio",
            better="lower",
            recalls={
                name: truth.recall(measured.outputs[name], true) for name in measured.outputs if name != "one read"
            },
            recall_target=bench.target(RECALL),
            notes=(
                "one read: the sum of the rows' bytes as float32 words",
                "torch: one product of float16 rows of norm 1, and torch.topk",
                "from an idle GPU, launches included",
            ),
        )
    ]


def match(bench: Bench) -> list[Result]:
    """Ranks of all matches in both directions, counted as one product; and the memory that it takes."""
    n, width = bench.size(100_000, 1000), bench.size(4096, 64)
    x = unit_states(n, width, dtype=torch.float16, device=bench.device, seed=0)
    y = (x + 16 * unit_states(n, width, dtype=torch.float16, device=bench.device, seed=1)).contiguous()
    work = partial(match_rank, x, y)
    measured = contest(bench, work, {"torch": lambda: peers.torch_match_rank(x, y)}, _tflops(2 * n * n * width))
    true = truth.match_ranks(x, y, CHECKED), truth.match_ranks(y, x, CHECKED)
    case = f"{_count(n)} pairs, width {width}, float16, both directions"
    notes = (
        "match_rank: counted as one product of 2 n² width, though both directions come of it",
        "torch: float16 products of rows of norm 1 in tiles of 16384², compared and counted in both directions",
        f"share of ranks: of the first {CHECKED} pairs in both directions, against float64",
    )
    return [
        _compare("match_rank", case, "TFLOP/s", measured, target=bench.target(650), notes=notes),
        _fact(
            "match_rank",
            f"{case}: share of ranks that are float64's",
            "",
            _agreement(measured.outputs["hubstore"], true),
            others={name: _agreement(measured.outputs[name], true) for name in measured.outputs if name != "hubstore"},
        ),
        *_memory("match_rank", f"{case}: memory beyond the inputs", work, bench, megabytes=256),
    ]


def pairs(bench: Bench) -> list[Result]:
    """The bytes of both sides read once, beside a copy on the device that reads and writes as many."""
    layers, n, width = bench.size(32, 3), bench.size(20_000, 500), bench.size(4096, 64)
    x, y = (
        unit_states(layers * n, width, dtype=torch.float16, device=bench.device, seed=seed).view(layers, n, width)
        for seed in (0, 1)
    )
    target = torch.empty_like(x)
    contestants: dict[str, MakeReady] = {
        "device copy": lambda: partial(target.copy_, x),
        "torch": lambda: peers.torch_paired_cosine(x, y),
    }
    size = x.nbytes + y.nbytes
    measured = contest(bench, lambda: paired_cosine(x, y), contestants, lambda seconds: size / seconds / 1e9)
    return [
        _compare(
            "paired_cosine",
            f"{layers} layers x {_count(n)} x {width} float16 ({size / 1e9:.1f} GB)",
            "GB/s",
            measured,
            against="device copy",
            target=bench.target(0.8),
            target_of="ratio",
            notes=(
                "device copy: bytes read and written both counted, as many as paired_cosine reads",
                "torch: cosine_similarity and the sums of normalized rows, layer by layer, in float16",
            ),
        )
    ]


def lens(bench: Bench) -> list[Result]:
    """A sweep over the vocabulary beside the bare product; its memory, and how far it is from float64."""
    n, width, vocabulary = bench.size(8192, 200), bench.size(4096, 64), bench.size(128_256, 1000)
    hidden = unit_states(n, width, dtype=torch.bfloat16, device=bench.device, seed=0) * width**0.5
    unembedding = (
        unit_states(vocabulary, width, dtype=torch.bfloat16, device=bench.device, seed=1) * 3
    )  # logits' spread
    generator = torch.Generator(bench.device).manual_seed(2)
    targets = torch.randint(vocabulary, (n, 4), generator=generator, device=bench.device)
    logits = torch.empty(n, vocabulary, dtype=torch.bfloat16, device=bench.device)
    contestants: dict[str, MakeReady] = {
        "bare product": lambda: partial(torch.matmul, hidden, unembedding.T, out=logits),
        "torch": lambda: peers.torch_lens(hidden, unembedding, targets, K),
        "cut-cross-entropy": lambda: peers.cut_cross_entropy(hidden, unembedding, targets[:, 0]),
    }
    work = partial(lens_sweep, hidden, unembedding, targets=targets, k=K)
    measured = contest(bench, work, contestants, _milliseconds)
    case = f"{n:,} states x {width}, vocabulary {vocabulary:,}, bfloat16, 4 targets with ranks, top {K}"
    found: LensSweep = measured.outputs["hubstore"]
    rows = torch.linspace(0, n - 1, 64, device=bench.device).long()
    error = _lens_error(found, hidden, unembedding, targets, rows)
    notes = (
        "bare product: all logits in bfloat16, nothing done with them",
        "torch: 1024 states at a time, float32 log_softmax, gather, compare and count, torch.topk",
        "cut-cross-entropy: the log-probability of one target, and nothing else",
        "error: of log-partition's, targets' and top tokens' log-probabilities of 64 states, against float64",
    )
    share = 100 / (4 * n * vocabulary)
    return [
        _compare(
            "lens_sweep",
            case,
            "ms",
            measured,
            against="bare product",
            target=bench.target(1.2),
            target_of="ratio",
            better="lower",
            notes=notes,
        ),
        *(
            _fact("lens_sweep", f"{case}: memory", "% of float32 logits", share * peak, target=bench.target(5))
            for peak in [peak_memory(work, bench.device)]
            if peak is not None
        ),
        _fact("lens_sweep", f"{case}: greatest error of a log-probability", "nats", error, target=bench.target(1e-4)),
    ]


def machine_ceilings(bench: Bench) -> list[Result]:
    """What the device can do at best."""
    cuda, size = bench.device.type == "cuda", bench.size(1 << 30, 1 << 22)
    tasks: dict[tuple[str, str], Task] = {
        ("copy on the device, bytes read and written", "GB/s"): ceilings.copying(bench.device, size)
    }
    m, width = bench.size(8192, 256), bench.size(4096, 64)
    for dtype in (torch.bfloat16, torch.float16):
        case = f"product {m}² x {width}, {DTYPES[dtype]}"
        tasks[case, "TFLOP/s"] = ceilings.multiplying(m, m, width, dtype=dtype, device=bench.device)
    if cuda:
        tasks["copy to page-locked memory of the host", "GB/s"] = ceilings.to_host(bench.device)
    units = dict(tasks)
    samples = interleave({case: task for (case, _), task in tasks.items()}, bench.runs, warm=2, disk=False)
    return [
        Result("ceilings", case, unit, samples[case].median, len(samples[case].values), samples[case].spread)
        for case, unit in units
    ]


CASES: Mapping[str, tuple[Case, ...]] = {
    "ceilings": (machine_ceilings,),
    "topk": (
        partial(topk, width=4096, target=660),
        partial(topk, width=1024, target=560),
        partial(topk, width=384, target=400),
        partial(topk, width=1024, dtype=torch.float32),
        partial(topk, width=1024, near_parallel=True),
        partial(topk, width=1024, dtype=torch.bfloat16, near_parallel=True),
    ),
    "one-query": (partial(few_queries, queries=1),),
    "few-queries": tuple(partial(few_queries, queries=q) for q in (2, 4, 8, 16, 32, 64)),
    "all-pairs": (partial(topk, width=640, target=450, rows=100_000, queries=100_000),),
    "match-rank": (match,),
    "paired-cosine": (pairs,),
    "lens": (lens,),
}
"""By the name that the command line has for them."""


def _compare(work: str, case: str, unit: str, measured: Contest, *, target_of: Of = "value", **options: Any) -> Result:
    return compare(work, case, unit, measured.samples, missing=measured.missing, target_of=target_of, **options)


def _fact(
    work: str,
    case: str,
    unit: str,
    value: float,
    *,
    target: float | None = None,
    others: Mapping[str, float] | None = None,
) -> Result:
    """Something that is counted, not timed; the less the better where there is a target."""
    return Result(
        work=work,
        case=case,
        unit=unit,
        value=value,
        runs=1,
        spread=(value, value),
        peers=others or {},
        target=target,
        target_of="value",
        better="lower",
    )


def _memory(work: str, case: str, doing: Callable[[], object], bench: Bench, *, megabytes: float) -> list[Result]:
    peak = peak_memory(doing, bench.device)
    return [] if peak is None else [_fact(work, case, "MB", peak / 1e6, target=bench.target(megabytes))]


def _agreement(found: tuple[Tensor, Tensor], true: tuple[Tensor, Tensor]) -> float:
    same = [ranks[: len(wanted)] == wanted for ranks, wanted in zip(found, true, strict=True)]
    return float(torch.cat(same).double().mean())


def _lens_error(found: LensSweep, hidden: Tensor, unembedding: Tensor, targets: Tensor, rows: Tensor) -> float:
    true = truth.log_probabilities(hidden[rows], unembedding)
    logits = (hidden[rows, None].double() * unembedding[targets[rows]].double()).sum(-1)  # [64, 4]
    wanted = true.gather(1, targets[rows])
    errors = (
        found.target_log_probabilities[rows] - wanted,
        found.top_log_probabilities[rows] - true.gather(1, found.top_tokens[rows]),
        found.log_partition[rows, None] - (logits - wanted),
    )
    return max(float(error.abs().max()) for error in errors)


def _tflops(operations: int) -> Callable[[float], float]:
    return lambda seconds: operations / seconds / 1e12


def _milliseconds(seconds: float) -> float:
    return 1e3 * seconds


def _count(number: int) -> str:
    """1,000,000 as 1M, 100,000 as 100k."""
    if number % 1_000_000 == 0:
        return f"{number // 1_000_000}M"
    return f"{number // 1000}k" if number % 1000 == 0 else f"{number:,}"
