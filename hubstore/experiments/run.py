"""Experiments done in a lab, kept in its folder and done again only where something changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hubstore.errors import HubstoreError, ModelError
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, keep, read_json, read_kept, write_json
from hubstore.experiments.registry import Experiment, experiment
from hubstore.plots.experiment import png

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Done:
    """An experiment and what came of it.

    Args:
        experiment: which.
        outcome: what it found; None where it could not be done.
        error: why not.
    """

    experiment: Experiment
    outcome: Outcome | None
    error: HubstoreError | None = None

    def to_json(self) -> dict[str, Any]:
        """A line of the summary."""
        found = self.outcome
        return {
            "experiment": self.experiment.name,
            "claim": self.experiment.claim,
            "shown": None if found is None else found.shown,
            "figure": None if found is None else found.figure,
            "n": None if found is None else found.n,
            "error": None if self.error is None else str(self.error),
        }


def run_experiment(name: str, lab: Lab) -> Outcome:
    """One experiment by name: from <out>/<name>/ where it was made from the same, else done and kept there.

    Raises:
        QueryError: there is no such experiment.
        MissingDependencyError: it needs a package that is not installed.
        ModelError: it is done on pictures or sounds, and the model reads none.
        HubstoreError: what the experiment itself refuses: a model without a head, words that are not one token.
    """
    chosen = experiment(name)
    if chosen.head:
        lab.language_model.require_head()
    if not chosen.fits(lab.model):
        model = lab.model.identity["id"]
        raise ModelError(
            f"{name} needs a model that reads {' or '.join(chosen.modalities)} items, and {model} reads "
            f"{' and '.join(lab.model.modalities)}; give one, or one over the same language model too (also)"
        )
    made_from = lab.record(chosen)
    folder = lab.out / name
    kept = read_kept(folder, made_from)
    if kept is not None:
        return kept
    lab.stores.clear()
    outcome = chosen.run(lab)
    model = str(lab.model.identity["id"])
    description = {
        "name": name,
        "title": chosen.title,
        "claim": chosen.claim,
        "made_from": made_from,
        "stores": dict(lab.stores),
    }
    keep(folder, outcome, description, png(outcome, f"{chosen.title} ({model})"))
    return outcome


def run_experiments(names: Sequence[str], lab: Lab) -> list[Done]:
    """Several experiments; one that cannot be done does not keep the others from being done.

    <out>/summary.json says after each what was found so far, by earlier runs too.

    Raises:
        QueryError: there is no such experiment; nothing is done then.
    """
    done: list[Done] = []
    for chosen in [experiment(name) for name in dict.fromkeys(names)]:
        lab.progress(chosen.name, len(done), len(names))
        try:
            done.append(Done(chosen, run_experiment(chosen.name, lab)))
        except HubstoreError as error:
            done.append(Done(chosen, None, error))
        _summarise(lab, done)
    return done


def _summarise(lab: Lab, done: Sequence[Done]) -> None:
    """Put what was done now in the place of what an earlier run with this model said of the same experiments."""
    path, model = lab.out / SUMMARY, lab.model_record()
    found = {one.experiment.name: one.to_json() for one in done}
    earlier = read_json(path) or {}
    if earlier.get("model") == model:
        found = {line["experiment"]: line for line in earlier["experiments"]} | found
    write_json(path, {"model": model, "experiments": list(found.values())})
