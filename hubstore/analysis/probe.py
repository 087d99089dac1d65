"""Probes: what a linear map reads in the states, on concepts and in languages that it was not fitted on.

Beside each stands a control task (Hewitt and Liang, 2019): labels that mean nothing, which a probe can only memorize.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from hubstore.analysis.comparing import by_partition, compare_options
from hubstore.analysis.layers import Executor, LayerTask, Prepared, Progress, over_layers
from hubstore.analysis.results import Row, stored_or_computed
from hubstore.analysis.shared_concepts import SharedConcepts
from hubstore.analysis.states import States
from hubstore.checks import check_strings
from hubstore.devices import resolve_device
from hubstore.errors import AnalysisError, Parameter, QueryError
from hubstore.options import CompareOptions
from hubstore.stats.intervals import share_intervals
from hubstore.stats.ridge import fit_ridge, indicators

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Floats = npt.NDArray[np.float64]
COLUMNS = {"chance": pa.float64(), "seen": pa.float64(), "control": pa.float64()}
WHOLE = "*"
CLASS, LENGTH, LANGUAGE = "concept_class", "length", "language"
MOST_CLASSES = 256
NORMAL = 1.959964  # its 97.5 % quantile
ENDS = (-1 + 1e-12, 1 - 1e-12)  # correlations whose Fisher transform is finite


def probe(
    store: StoreReader,
    partitions: Sequence[str] | None = None,
    options: CompareOptions | None = None,
    *,
    label: str | Mapping[str, str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    jobs: int | Executor = 1,
    **named: Any,
) -> pa.Table:
    """What ridge probes read of the language, the length and the class of a concept, and whether languages share it.

    Args:
        store: an opened store.
        partitions: two or more that share concepts; None is all.
        options: its fields (layers, pooling, seed, ...) may be given by name too; `bootstrap` 0 leaves intervals out.
        label: classes of concepts: a column of the items, or the class of each concept; None leaves them out. Concepts
            without one are left out of that probe.
        device: "auto" (CUDA where PyTorch sees it), "cpu", "cuda" or "cuda:1".
        progress: called with layers done and layers in all.
        jobs: processes that share the layers, or who else does; the table is the same.

    Returns:
        A row per layer and probe, on the half of the concepts that nothing was fitted on. Variant "language": accuracy
        of telling partitions apart (x and y "*"). Variants "length" (metric "correlation" with the logarithm of the
        text's characters) and "concept_class" ("accuracy"): fitted on partition x, tested on y. `seen` is the same on
        the concepts that were fitted, in y; `control` of labels that are drawn anew for each concept (for "language"
        for each item), on those too: seen - control is the selectivity. `chance` is what knows nothing reaches.
        Intervals are 95 %: Wilson's, and Fisher's of correlations.

    Raises:
        QueryError: a partition, layer, pooling or column that the store does not have, or a device that is not there.
        AnalysisError: a number that is out of its range; fewer than two partitions, or they share fewer than 24
            concepts; fewer than two classes, or more than 256 or than one for two concepts.
    """
    parameters = by_partition(store, compare_options("probe", options, named, partitions=partitions))
    parameters["label"] = label if label is None or isinstance(label, str) else dict(sorted(label.items()))
    task = LayerTask(_prepared, parameters, COLUMNS, resolve_device(device))
    return stored_or_computed(store, "probe", parameters, COLUMNS, lambda: over_layers(store, task, progress, jobs))


@dataclass(frozen=True)
class _Task:
    """What a probe is to read of each concept, in each partition.

    Args:
        name: the variant.
        targets: float64 [partitions, concepts, t], class indicators or one number.
        control: of labels that mean nothing, the same shape.
        fitted: places of the concepts that it is fitted on.
        tested: of those that it is tested on.
    """

    name: str
    targets: Tensor
    control: Tensor
    fitted: Tensor
    tested: Tensor

    @property
    def chance(self) -> float:
        """What the commonest class, or no correlation, reaches."""
        return 0.0 if self.name == LENGTH else float(self.targets[:, self.tested].mean((0, 1)).max())


def _prepared(store: StoreReader, on: torch.device, params: Mapping[str, Any]) -> Prepared:
    """What is the same for all layers, and what finds the rows of one."""
    concepts = SharedConcepts.of(store, params["partitions"], params["seed"])
    states = States(store, params["pooling"], on)
    rng = np.random.default_rng([params["seed"], 1])
    tasks = [_lengths(store, concepts, rng)]
    left_out = 0
    if params["label"] is not None:
        classes = _classes(store, concepts, params["label"])
        left_out = sum(one is None for one in classes)
        tasks.append(_of_classes(store, concepts, classes, rng))
    shuffled = torch.from_numpy(rng.permutation(len(concepts.selections) * len(concepts.fitted)))
    with_intervals = params["bootstrap"] > 0

    def find(layer: str) -> list[Row]:
        every = concepts.states(states, layer)
        rows = [_language(every, concepts, shuffled.to(on))]
        rows += [row for task in tasks for row in _transfer(every, task, concepts.names)]
        return [{"layer": layer, **row, **(_bounds(row) if with_intervals else {})} for row in rows]

    return Prepared(find, {"fitted": len(concepts.fitted), "tested": len(concepts.tested), "without_class": left_out})


def _language(every: Tensor, concepts: SharedConcepts, shuffled: Tensor) -> Row:
    """One probe of all partitions; its control memorizes, for each item has a label of its own."""
    languages = len(every)
    fitted, tested = (every[:, places].flatten(0, 1) for places in (concepts.fitted, concepts.tested))
    labels, answers = (
        torch.arange(languages, device=every.device).repeat_interleave(len(of) // languages) for of in (fitted, tested)
    )
    held = concepts.held(every.device).repeat(languages)
    own, other = (fit_ridge(fitted, indicators(of, languages), held) for of in (labels, labels[shuffled]))
    right = (own(tested).argmax(1) == answers).to(torch.float64).reshape(languages, -1).mean(0)  # [concepts]
    return {
        "x": WHOLE,
        "y": WHOLE,
        "variant": LANGUAGE,
        "metric": "accuracy",
        "value": float(right.mean()),
        "right": right,
        "seen": _accuracy(own(fitted), indicators(labels, languages)),
        "control": _accuracy(other(fitted), indicators(labels[shuffled], languages)),
        "chance": 1 / languages,
        "n": len(right),
    }


def _transfer(every: Tensor, task: _Task, names: Sequence[str]) -> Iterator[Row]:
    """Fitted on one partition, tested on each."""
    score, metric = (_correlation, "correlation") if task.name == LENGTH else (_accuracy, "accuracy")
    held = torch.arange(len(task.fitted), device=every.device) % 4 == 3
    for x, name in enumerate(names):
        rows = every[x, task.fitted]
        own, control = (fit_ridge(rows, of[x, task.fitted], held) for of in (task.targets, task.control))
        for y, other in enumerate(names):
            seen, tested = (every[y, places] for places in (task.fitted, task.tested))
            said, answers = own(tested), task.targets[y, task.tested]
            yield {
                "x": name,
                "y": other,
                "variant": task.name,
                "metric": metric,
                "value": score(said, answers),
                "right": (said.argmax(1) == answers.argmax(1)).to(torch.float64),
                "seen": score(own(seen), task.targets[y, task.fitted]),
                "control": score(control(seen), task.control[y, task.fitted]),
                "chance": task.chance,
                "n": len(task.tested),
            }


def _lengths(store: StoreReader, concepts: SharedConcepts, rng: np.random.Generator) -> _Task:
    texts = [store.items["text"].take(pa.array(one.positions)).to_pylist() for one in concepts.selections]
    lengths = torch.tensor([[np.log1p(len(text)) for text in of] for of in texts], dtype=torch.float64)[..., None]
    order = torch.from_numpy(rng.permutation(lengths.shape[1]))  # one for all partitions: of the concept
    fitted, tested = (torch.from_numpy(places) for places in (concepts.fitted, concepts.tested))
    return _Task(LENGTH, lengths, lengths[:, order], fitted, tested)


def _classes(store: StoreReader, concepts: SharedConcepts, label: str | Mapping[str, str]) -> list[str | None]:
    """The class of each concept: by a column, that of its item in the first partition that has one."""
    if isinstance(label, Mapping):
        names = store.items["concept"].take(pa.array(concepts.selections[0].positions)).to_pylist()
        found = [label.get(name) for name in names]
        check_strings("label", [one for one in found if one is not None], error=AnalysisError)
        return found
    if label not in store.items.column_names:
        raise QueryError(f"the items of {store.path} have no column {label!r}; they have "
                         f"{', '.join(store.items.column_names)}")  # fmt: skip
    columns = [store.items[label].take(pa.array(one.positions)).to_pylist() for one in concepts.selections]
    return [next((str(one) for one in of if one is not None), None) for of in zip(*columns, strict=True)]


def _of_classes(
    store: StoreReader, concepts: SharedConcepts, classes: Sequence[str | None], rng: np.random.Generator
) -> _Task:
    labeled = np.array([one is not None for one in classes])
    known = sorted({one for one in classes if one is not None})
    most = min(MOST_CLASSES, int(labeled.sum()) // 2)
    if len(known) < 2:
        raise AnalysisError(f"the concepts of {store.path} are of {len(known)} classes; a probe tells two or more "
                            "apart: name other ", Parameter("label", "..."))  # fmt: skip
    if len(known) > max(2, most):
        raise AnalysisError(f"the {labeled.sum()} concepts of {store.path} that have a class are of {len(known)}; a "
                            f"probe tells at most {max(2, most)} apart, one for two concepts and {MOST_CLASSES} at "
                            "most: name fewer with ", Parameter("label", "..."))  # fmt: skip
    number_of = {name: number for number, name in enumerate(known)}
    numbers = np.array([-1 if one is None else number_of[one] for one in classes])
    drawn = numbers.copy()
    drawn[labeled] = rng.permutation(numbers[labeled])  # as often as they come
    fitted, tested = (torch.from_numpy(places[labeled[places]]) for places in (concepts.fitted, concepts.tested))
    if len(fitted) < 2 or len(tested) < 2:
        raise AnalysisError(f"{int(labeled.sum())} concepts of {store.path} have a class; a probe needs some to be "
                            "fitted and others to be tested")  # fmt: skip
    targets, control = (
        indicators(torch.from_numpy(of.clip(0)), len(known)).expand(len(concepts.selections), -1, -1)
        for of in (numbers, drawn)
    )
    return _Task(CLASS, targets, control, fitted, tested)


def _accuracy(said: Tensor, targets: Tensor) -> float:
    return float((said.argmax(1) == targets.argmax(1)).to(torch.float64).mean())


def _correlation(said: Tensor, targets: Tensor) -> float:
    x, y = (of[:, 0] - of[:, 0].mean() for of in (said, targets))
    norms = float(x.norm() * y.norm())
    return float(x @ y) / norms if norms > 0 else 0.0


def _bounds(row: Row) -> Row:
    """The interval of an accuracy over concepts, or of a correlation."""
    if row["metric"] == "accuracy":
        low, high = share_intervals(row["right"].cpu().numpy()[:, None])[:, 0]
    else:
        z, error = np.arctanh(np.clip(row["value"], *ENDS)), NORMAL / max(row["n"] - 3, 1) ** 0.5
        low, high = np.tanh([z - error, z + error])
    return {"low": float(low), "high": float(high)}
