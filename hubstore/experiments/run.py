"""Experiments are run, their results written, and run again only where something changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hubstore.errors import AnalysisError, HubstoreError, LensError, ModelError, SteeringError
from hubstore.experiments.context import ExperimentContext, package_version, sha256_of
from hubstore.experiments.controls import compare, not_done, with_controls, without_controls
from hubstore.experiments.materials import shipped_bytes
from hubstore.experiments.registry import Experiment, find_experiment
from hubstore.experiments.result import Control, Result, read_json, read_result, write_json, write_result
from hubstore.plots.experiment import experiment_png
from hubstore.version import __version__

SUMMARY = "summary.json"

NOTHING_TO_MEASURE = (AnalysisError, LensError, SteeringError)
"""What a control raises that has no answer to the question; a fault of the machine is raised, and no answer."""


@dataclass(frozen=True)
class Run:
    """An experiment and what came of it.

    Args:
        experiment: which.
        result: what it found; None where it could not be done.
        error: why not.
    """

    experiment: Experiment
    result: Result | None
    error: HubstoreError | None = None

    @property
    def outcome(self) -> Result | None:
        """Deprecated: `result`; goes with the next release."""
        return self.result

    def to_json(self) -> dict[str, Any]:
        """A line of the summary."""
        found = self.result
        return {
            "experiment": self.experiment.name,
            "claim": self.experiment.claim,
            "verdict": None if found is None else found.verdict,
            "shown": None if found is None else found.shown,
            "figure": None if found is None else found.figure,
            "n": None if found is None else found.n,
            "controls": [] if found is None else [vars(one) for one in found.controls],
            "error": None if self.error is None else str(self.error),
        }


def run_experiment(name: str, context: ExperimentContext) -> Result:
    """One experiment by name: from <out>/<name>/ where it was made from the same, else done and written there.

    Raises:
        QueryError: there is no such experiment.
        MissingDependencyError: it needs a package that is not installed.
        ModelError: it is done on images or audio, and the model reads none.
        HubstoreError: what the experiment itself refuses: a model without a head, words that are not one token.
    """
    chosen = find_experiment(name)
    if chosen.head:
        context.language_model.require_head()
    if not chosen.fits(context.model):
        model = context.model.identity["id"]
        raise ModelError(
            f"{chosen.name} needs a model that reads {' or '.join(chosen.modalities)} items, and {model} reads "
            f"{' and '.join(context.model.modalities)}; give one, or one more over the same language model "
            "(--extra-model)"
        )
    made_with = provenance(context, chosen)
    found = read_result(context.folder(chosen.name), made_with)
    if found is not None:
        return found
    result, stores = _done(context, chosen)
    if context.controls:
        result = with_controls(result, [_control(context, chosen, name, result, stores) for name in chosen.controls])
    else:
        result = without_controls(result)
    _write(context, chosen, made_with, result, stores)
    return result


def _done(context: ExperimentContext, chosen: Experiment) -> tuple[Result, dict[str, Any]]:
    """What an experiment finds, and the stores that it read."""
    context.stores.clear()
    return chosen.run(context), dict(context.stores)


def _control(
    context: ExperimentContext, chosen: Experiment, name: str, result: Result, stores: dict[str, Any]
) -> Control:
    """What the experiment finds on a control, written in a folder inside the experiment's."""
    context.progress(f"{chosen.name}, {name}", 0, 1)
    control = context.as_control(name, head=chosen.head)
    try:
        found, read = _done(control, chosen)
    except NOTHING_TO_MEASURE as error:
        return not_done(name, result, str(error))
    stores |= read
    _write(control, chosen, {**provenance(context, chosen), "control": name}, found, read)
    return compare(name, result, found, context.seed)


def _write(
    context: ExperimentContext, chosen: Experiment, provenance: dict[str, Any], result: Result, stores: dict[str, Any]
) -> None:
    """The result and its table, in the experiment's folder; a figure too where it is no control."""
    description = {
        "name": chosen.name,
        "title": chosen.title,
        "claim": chosen.claim,
        "made_from": provenance,
        "stores": stores,
    }
    title = f"{chosen.title} ({context.model.identity['id']})"
    figure = None if context.control else experiment_png(result.table, result.plots, title)
    write_result(context.folder(chosen.name), result, description, figure)


def run_experiments(names: Sequence[str], context: ExperimentContext) -> list[Run]:
    """Several experiments; one that cannot be done does not stop the others.

    <out>/summary.json says after each what was found so far, by earlier runs too.

    Raises:
        QueryError: there is no such experiment; nothing is done then.
    """
    runs: list[Run] = []
    for chosen in dict.fromkeys(map(find_experiment, names)):
        context.progress(chosen.name, len(runs), len(names))
        try:
            runs.append(Run(chosen, run_experiment(chosen.name, context)))
        except HubstoreError as error:
            runs.append(Run(chosen, None, error))
        _summarize(context, runs)
    return runs


def _summarize(context: ExperimentContext, runs: Sequence[Run]) -> None:
    """Put these runs in the place of what the summary says of the same experiments with this model."""
    path, model = context.out / SUMMARY, context.model_record()
    found = {one.experiment.name: one.to_json() for one in runs}
    earlier = read_json(path) or {}
    if earlier.get("model") == model:
        found = {line["experiment"]: line for line in earlier["experiments"]} | found
    write_json(path, {"model": model, "experiments": list(found.values())})


def provenance(context: ExperimentContext, experiment: Experiment) -> dict[str, Any]:
    """All that an experiment's result is computed from; MissingDependencyError where a package is not installed."""
    own = {name: path for name in experiment.files if (path := context.file(name)) is not None}
    return {
        "experiment": experiment.name,
        "model": context.model_record(),
        "data": {
            **{name: sha256_of(shipped_bytes(name)) for name in experiment.shipped},
            **{name: sha256_of(path.read_bytes()) for name, path in own.items()},
        },
        "packages": {name: package_version(name) for name in experiment.packages},
        "limit": context.limit,
        "seed": context.seed,
        "bootstrap": context.bootstrap,
        "controls": list(experiment.controls) if context.controls else [],
        "version": __version__,
        **({"media_template": context.media_template} if experiment.modalities else {}),
    }
