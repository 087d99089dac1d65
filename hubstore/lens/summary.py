"""What a lens reads in each partition of a store, layer by layer, with intervals; kept in the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.analysis.results import Findings, Row, intervals, stored_or_computed
from hubstore.checks import check_resamples, check_seed
from hubstore.errors import LensError
from hubstore.lens.lens import Lens, Variant
from hubstore.lens.reading import STATES, Question
from hubstore.lens.rows import own_layer, text_rows
from hubstore.lens.tuned import with_tuned
from hubstore.stats.bootstrap import Bootstrap

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Floats = npt.NDArray[np.float64]
COLUMNS = {"target": pa.string()}


def lens_summary(  # noqa: PLR0913
    store: StoreReader,
    lens: Lens,
    *,
    partitions: Sequence[str] | None = None,
    layers: Sequence[str | int] | None = None,
    pooling: str | None = None,
    variant: Variant = "raw",
    targets: Sequence[str] = (),
    seed: int = 0,
    bootstrap: int = 1000,
) -> pa.Table:
    """Means over a partition's items of what the lens reads; under "tokens", of an item's mean over its tokens.

    Args:
        store: an opened store.
        lens: of the store's model.
        partitions: None is all.
        layers: None is all.
        pooling: None is the store's first.
        variant: "raw", "normed" or "tuned"; see `read_store`.
        targets: words, each one token.
        seed: of the bootstrap.
        bootstrap: resamples of the items; 0 gives no intervals.

    Returns:
        A row per layer, x (a partition) and metric: "entropy" in nats; "agreement", the share of states whose most
        probable token is the model's own, where the store has the last block's states; and for each target (in the
        column of that name) "log_probability" and "rank", a geometric mean (of 1 + rank). Intervals are 95 %.
        Special tokens around every text, such as BOS, are left out.

    Raises:
        QueryError: a partition, layer or pooling that the store does not have.
        LensError: a target that is not one token, or a number that is out of its range.
    """
    names = store.layer_names(layers)
    chosen = [store.partition(name).name for name in (partitions or store.partitions)]
    pooled = store.pooling_name(pooling)
    question = Question(with_tuned(store, lens, variant, names, pooled), variant, tuple(targets), 1)
    ids = question.target_ids

    def make() -> Findings:
        summary = _Summary(store, question, pooled, Bootstrap(bootstrap, seed))
        rows = [row for name in chosen for row in summary.partition(name, names)]
        return Findings(COLUMNS, rows)

    parameters = {
        "partitions": chosen,
        "layers": names,
        "pooling": pooled,
        "variant": variant,
        "lens": question.lens.digest,
        "targets": list(zip(targets, ids, strict=True)),
        "seed": check_seed(seed, error=LensError),
        "bootstrap": check_resamples("bootstrap", bootstrap, error=LensError),
    }
    return stored_or_computed(store, "lens", parameters, COLUMNS, make)


class _Summary:
    """Reads partition by partition."""

    def __init__(self, store: StoreReader, question: Question, pooling: str, resampling: Bootstrap) -> None:
        self._store = store
        self._question = question
        self._pooling = pooling
        self._resampling = resampling
        self._last = own_layer(store)

    def partition(self, name: str, layers: Sequence[str]) -> Iterator[Row]:
        positions = self._store.partition(name).positions()
        rows, owners = text_rows(self._store, self._question.lens, positions, self._pooling)
        own = None if self._last is None else self._own(rows, self._last)
        for layer in layers:
            values = self._values(rows, layer, own)
            sums = np.stack([np.bincount(owners, column, len(positions)) for column in values.T], 1)
            means = sums / np.bincount(owners, minlength=len(positions))[:, None]
            for row, (target, metric) in zip(self._intervals(means), self._columns(own is not None), strict=True):
                shown = {key: np.expm1(row[key]) for key in ("value", "low", "high")} if metric == "rank" else {}
                yield {**row, **shown, "layer": layer, "x": name, "y": "", "variant": self._question.variant,
                       "metric": metric, "target": target, "n": len(positions)}  # fmt: skip

    def _own(self, rows: npt.NDArray[np.int64], last: str) -> torch.Tensor:
        states = self._store.hidden(last, self._pooling)
        return torch.cat([self._question.own(states.take(part), last) for part in _blocks(rows)])

    def _values(self, rows: npt.NDArray[np.int64], layer: str, own: torch.Tensor | None) -> Floats:
        """[rows, metrics], in the order of `_columns`."""
        states = self._store.hidden(layer, self._pooling)
        found: list[torch.Tensor] = []
        read = 0
        for part in _blocks(rows):
            swept = self._question.read(states.take(part), layer)
            columns = [swept.entropy[:, None]]
            if own is not None:
                agrees = swept.top_tokens[:, 0] == own[read : read + len(part)]
                columns.append(agrees[:, None].to(torch.float32))
            columns += [swept.target_log_probabilities, torch.log1p(swept.target_ranks.to(torch.float32))]
            found.append(torch.cat(columns, 1))
            read += len(part)
        return np.asarray(torch.cat(found).to("cpu", torch.float64).numpy())

    def _columns(self, agreement: bool) -> list[tuple[str | None, str]]:
        targets = self._question.targets
        own = [(None, "entropy"), *([(None, "agreement")] if agreement else [])]
        return [*own, *((t, "log_probability") for t in targets), *((t, "rank") for t in targets)]

    def _intervals(self, means: npt.NDArray[Any]) -> list[Row]:
        return intervals([""] * means.shape[1], means.mean(0), self._resampling.of_means(means))


def _blocks(rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(rows), STATES):
        yield rows[start : start + STATES]
