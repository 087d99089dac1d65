"""Every experiment by name, with the paper's claim and the data it needs: what `@experiment(...)` registers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from hubstore.errors import QueryError
from hubstore.experiments.context import CONTROLS, ExperimentContext
from hubstore.experiments.result import Result
from hubstore.models import Model


@dataclass(frozen=True)
class Experiment:
    """One experiment of Wu et al. (2025).

    Args:
        name: on the command line.
        run: does it now, whatever was found before; its docstring says what it computes and when it counts as shown.
        title: what is done, in a line.
        claim: what the paper found.
        data: what it is done on, and what else may be given.
        shipped: files among the materials that come with hubstore.
        files: names of files that a user may give in place of what ships.
        packages: optional packages it needs, as they are imported.
        head: whether it needs the model's unembedding, which an encoder does not have.
        modalities: "image" and "audio", one of which the model must read; () where text is enough.
        controls: what it is done on besides. Steering has directions of its own in the place of shuffled states.
    """

    name: str
    run: Callable[[ExperimentContext], Result]
    title: str
    claim: str
    data: str
    shipped: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    head: bool = False
    modalities: tuple[str, ...] = ()
    controls: tuple[str, ...] = CONTROLS

    def fits(self, model: Model) -> bool:
        """Whether the model reads what it is done on."""
        return not self.modalities or any(modality in model.modalities for modality in self.modalities)


REGISTERED: dict[str, Experiment] = {}
DEPRECATED_NAMES = {"vision-lens-colour": "vision-lens-color"}
"""Names of an earlier release, which are to go with the next."""


def experiment(  # noqa: PLR0913
    name: str,
    *,
    title: str,
    claim: str,
    data: str,
    shipped: tuple[str, ...] = (),
    files: tuple[str, ...] = (),
    packages: tuple[str, ...] = (),
    head: bool = False,
    modalities: tuple[str, ...] = (),
    controls: tuple[str, ...] = CONTROLS,
) -> Callable[[Callable[[ExperimentContext], Result]], Callable[[ExperimentContext], Result]]:
    """Register the decorated function as an experiment; see `Experiment`."""

    def register(run: Callable[[ExperimentContext], Result]) -> Callable[[ExperimentContext], Result]:
        REGISTERED[name] = Experiment(
            name, run, title, claim, data, shipped, files, packages, head, modalities, controls
        )
        return run

    return register


def find_experiment(name: str) -> Experiment:
    """The experiment called `name`; QueryError, naming those there are, when there is none."""
    if name in DEPRECATED_NAMES:
        warnings.warn(f"{name} is called {DEPRECATED_NAMES[name]} now", FutureWarning, stacklevel=2)
    found = REGISTERED.get(DEPRECATED_NAMES.get(name, name))
    if found is None:
        raise QueryError(f"there is no experiment {name!r}; there are {', '.join(REGISTERED)}")
    return found
