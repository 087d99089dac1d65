"""Is 5+3 nearer "five plus three" than other expressions, and nearer those of equal result than the rest?

Each expression's last token (Wu et al., 2025). The paper's difference is that of the exact match and the
mean over all pairs, the exact ones included; "same result" here leaves the exact match out. Shown: both exact match
minus all pairs and same result minus other results are above zero at one intermediate block.

The means over n x n pairs come from sums of unit rows by result: pairs of x_i with its result r are x̂_i · Σ_r ŷ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from hubstore.corpus import Corpus, Item
from hubstore.experiments.arithmetic import Expression, expressions
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row, make_table
from hubstore.experiments.verdict import peak
from hubstore.kernels.rows import unit_rows

Floats = npt.NDArray[np.float64]
EXACT, SAME, OTHER, ALL = "exact match", "same result", "other results", "all pairs"
HEADLINES = (f"{EXACT} - {ALL}", f"{SAME} - {OTHER}")
PLOTS = (
    Plot("5+3 against five plus three", "cosine", (EXACT, SAME, OTHER)),
    Plot("how much nearer", "difference of cosines", HEADLINES),
)
SYMBOLS, WORDS = "x-arith", "en"


def run(lab: Lab) -> Outcome:
    """Cosines of expressions in symbols and in words, by what the two have in common."""
    chosen = lab.sample(expressions())
    store = lab.store("arithmetic", corpus(chosen))
    x, y = (store.positions([f"{language}:{one.symbols}" for one in chosen]) for language in (SYMBOLS, WORDS))
    results = torch.tensor([one.result for one in chosen])
    rows: list[Row] = []
    for number, layer in enumerate(lab.layers, 1):
        hidden = store.hidden(layer)
        rows += _compare(lab, layer, unit_rows(hidden.take(x)), unit_rows(hidden.take(y)), results)
        lab.progress("comparing expressions", number, len(lab.layers))
    best = peak(rows, HEADLINES, lab.intermediate)
    return Outcome(best.shown, best.words(lab), best.n, make_table(rows), PLOTS)


def corpus(chosen: Sequence[Expression]) -> Corpus:
    """Each expression in symbols and in words, one concept."""
    items = [
        Item(f"{language}:{one.symbols}", text, language, one.symbols)
        for one in chosen
        for language, text in ((SYMBOLS, one.symbols), (WORDS, one.words))
    ]
    return Corpus.from_items(items, "arithmetic")


def _compare(lab: Lab, layer: str, x: torch.Tensor, y: torch.Tensor, results: torch.Tensor) -> list[Row]:
    n = len(x)
    groups = torch.unique(results, return_inverse=True)[1]
    size = torch.bincount(groups)[groups].to(torch.float64)
    exact = (x * y).sum(1)
    same_x, same_y = (_toward_group(one, other, groups) for one, other in ((x, y), (y, x)))
    all_x, all_y = x @ y.sum(0), y @ x.sum(0)
    sums = {  # an expression's cosines, half of each to either side, their number, and how many expressions a pair has
        EXACT: (exact, torch.ones_like(exact), 1),
        SAME: ((same_x + same_y) / 2 - exact, size - 1, 2),
        OTHER: ((all_x + all_y - same_x - same_y) / 2, n - size, 2),
        ALL: ((all_x + all_y) / 2, torch.full_like(exact, n), 2),
    }
    means = {name: float(total.sum() / count.sum()) for name, (total, count, _) in sums.items()}
    # To first order an expression acts on a mean through the pairs that it is in.
    shares = {
        name: ((total - means[name] * count) * (degree * n / count.sum())).numpy()
        for name, (total, count, degree) in sums.items()
    }
    for headline in HEADLINES:
        more, less = headline.split(" - ")
        means[headline], shares[headline] = means[more] - means[less], shares[more] - shares[less]
    low, high = lab.resampling.of_estimates(np.array(list(means.values())), np.stack(list(shares.values()), axis=1))
    return [
        {"layer": layer, "quantity": name, "value": value, "low": float(below), "high": float(above), "n": n}
        for (name, value), below, above in zip(means.items(), low, high, strict=True)
    ]


def _toward_group(x: torch.Tensor, y: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """x̂_i · Σ ŷ over the group of i, [n]."""
    sums = torch.zeros(int(groups.max()) + 1, y.shape[1], dtype=y.dtype).index_add_(0, groups, y)
    return (x * sums[groups]).sum(1)
