"""`python -m benchmarks.coverage`: how often intervals cover and verdicts are wrongly yes, against known truth.

Writes benchmarks/results/statistics/coverage.json, or the same below `--out`: for each interval, setting and number of
items the share of simulations whose 95 % interval holds the truth; for each verdict, null and number of clusters the
share that says "yes", where 2.5 % may. Of statistics whose expectation depends on the number of items the truth is
their mean over simulations.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import RESULTS
from hubstore.analysis.neighbors import jackknifed_overlap, tempered
from hubstore.kernels import match_ranks, neighbor_weights
from hubstore.stats.bootstrap import Bootstrap
from hubstore.stats.intervals import share_intervals
from hubstore.stats.verdicts import sign_flip_test

WIDTH, K, LAYERS = 32, 10, 17
SIZES = (20, 50, 100, 300)
CLUSTERS = (5, 10, 20, 30, 50, 100, 500)
SIGNALS = {"strong": 3.0, "middling": 1.0, "weak": 0.4, "none": 0.0}
Floats = np.ndarray[Any, Any]


def correlated(rng: np.random.Generator, clusters: int, rho: float = 0.9) -> Floats:
    """Values of mean 0 at LAYERS layers that resemble their neighbors: [clusters, LAYERS]."""
    drawn = rng.standard_normal((clusters, LAYERS))
    for layer in range(1, LAYERS):
        drawn[:, layer] = rho * drawn[:, layer - 1] + np.sqrt(1 - rho**2) * drawn[:, layer]
    return drawn


NULLS: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "normal": correlated,
    "independent layers": lambda rng, n: correlated(rng, n, 0.0),
    "ties": lambda rng, n: np.round(correlated(rng, n)),
    "rare shares": lambda rng, n: (rng.random((n, LAYERS)) < 0.05) * 1.0 - (rng.random((n, LAYERS)) < 0.05),
    "right-skewed (lognormal, sigma 2)": lambda rng, n: np.exp(2 * correlated(rng, n)) - np.exp(2),
    "left-skewed (lognormal, sigma 2)": lambda rng, n: np.exp(2) - np.exp(2 * correlated(rng, n)),
    "left-skewed (lognormal, sigma 1)": lambda rng, n: np.exp(0.5) - np.exp(correlated(rng, n)),
    "shares of .9 less .9": lambda rng, n: np.repeat((rng.random((n, 1)) < 0.9) - 0.9, LAYERS, 1),
}


def sides(rng: np.random.Generator, n: int, signal: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Matched states of two languages, each with its own noise and its own offset."""
    meaning = signal * rng.standard_normal((n, WIDTH)) * np.linspace(2, 0.2, WIDTH)
    offsets = np.random.default_rng(1).standard_normal((2, WIDTH))
    x, y = (torch.from_numpy(meaning + rng.standard_normal((n, WIDTH)) + offset) for offset in offsets)
    return x, y


def estimates(n: int, signal: float, seed: int) -> dict[str, tuple[float, float, float]]:
    """Value, low and high of each statistic of one simulation."""
    x, y = sides(np.random.default_rng([seed, n]), n, signal)
    shared, added = jackknifed_overlap(*(neighbor_weights(side, K) for side in (x, y)), n, K)
    found = {}
    for name, column in (("mutual_knn", tempered(shared, added)), ("mutual_knn, neighbors kept", shared)):
        bounds = Bootstrap(300, 0).of_estimates(np.array([shared.mean()]), column[:, None])
        found[name] = (float(shared.mean()), float(bounds[0, 0]), float(bounds[1, 0]))
    ranks = match_ranks(x, y).forward.numpy()
    columns = np.stack([ranks < 1, ranks < 5, ranks < 10, 1 / (1 + ranks)], 1).astype(float)
    low, high = share_intervals(columns)
    for place, name in enumerate(("recall@1", "recall@5", "recall@10", "mrr")):
        found[name] = (float(columns[:, place].mean()), float(low[place]), float(high[place]))
    return found


def coverage(simulations: int) -> Iterator[dict[str, Any]]:
    """A line for each statistic, signal and number of items."""
    for signal, strength in SIGNALS.items():
        for n in SIZES:
            every = [estimates(n, strength, seed) for seed in range(simulations)]
            for name in every[0]:
                value, low, high = np.array([one[name] for one in every]).T
                truth = value.mean()
                covered = float(((low <= truth) & (truth <= high)).mean())
                line = {"interval": name, "signal": signal, "n": n, "truth": float(truth), "covered": covered}
                yield {**line, "width": float((high - low).mean())}


def false_positives(simulations: int) -> Iterator[dict[str, Any]]:
    """A line for each null and number of clusters."""
    for null, make in NULLS.items():
        for clusters in CLUSTERS:
            draws = (make(np.random.default_rng([11, seed]), clusters) for seed in range(simulations))
            said = [sign_flip_test(values, draws=399).verdict for values in draws]
            yield {
                "null": null,
                "clusters": clusters,
                **{name: said.count(name) / len(said) for name in sorted(set(said))},
            }


def main() -> int:
    """Simulate and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--simulations", type=int, default=400, help="of each setting")
    parser.add_argument("--only", choices=("intervals", "verdicts"), help="the record keeps what it has of the other")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.out / "statistics" / "coverage.json"
    record = json.loads(path.read_text()) if options.only else {"seed": "the number of the simulation"}
    for name, lines in {"intervals": coverage, "verdicts": false_positives}.items():
        if options.only in (None, name):
            record |= {f"simulations of {name}": options.simulations, name: list(lines(options.simulations))}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
