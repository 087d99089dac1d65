"""The experiments of Wu et al. (2025, arXiv 2411.04986), one of Dumas et al. (2024) and one of ours, as recipes.

Each is a function under `recipes/`, registered by `@experiment(...)`, whose docstring says what it computes and when
the paper's claim counts as shown.
"""

import warnings
from typing import Any

from hubstore.experiments import recipes  # noqa: F401
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.registry import REGISTERED, Experiment, find_experiment
from hubstore.experiments.result import Result, make_table
from hubstore.experiments.run import Run, run_experiment, run_experiments
from hubstore.plots.experiment import Plot

EXPERIMENTS: tuple[Experiment, ...] = tuple(REGISTERED.values())
_RENAMED = {"Lab": "ExperimentContext", "Outcome": "Result", "Done": "Run", "experiment": "find_experiment"}

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "ExperimentContext",
    "Plot",
    "Result",
    "Run",
    "find_experiment",
    "make_table",
    "run_experiment",
    "run_experiments",
]


def __getattr__(name: str) -> Any:
    """Deprecated names, which go with the next release."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is called {_RENAMED[name]} now", DeprecationWarning, stacklevel=2)
    return globals()[_RENAMED[name]]
