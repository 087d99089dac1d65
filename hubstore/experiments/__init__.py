"""The experiments of Wu et al. (2025, arXiv 2411.04986), and one of ours, as recipes over hubstore's public parts.

Each is a module with `run(lab)`, whose docstring says what it computes and when the paper's claim counts as shown;
`registry` lists them all.
"""

from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, make_table
from hubstore.experiments.registry import EXPERIMENTS, Experiment, experiment
from hubstore.experiments.run import Done, run_experiment, run_experiments

__all__ = [
    "EXPERIMENTS",
    "Done",
    "Experiment",
    "Lab",
    "Outcome",
    "Plot",
    "experiment",
    "make_table",
    "run_experiment",
    "run_experiments",
]
