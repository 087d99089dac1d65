"""Steering: directions of the residual stream, interventions along them, and what a model says then."""

from hubstore.steer.directions import (
    Direction,
    difference_of_partitions,
    difference_of_texts,
    difference_of_tokens,
    load_direction,
)
from hubstore.steer.generation import Continuation, Decoding, generate
from hubstore.steer.intervention import Intervention, steering
from hubstore.steer.sweep import sweep

__all__ = [
    "Continuation",
    "Decoding",
    "Direction",
    "Intervention",
    "difference_of_partitions",
    "difference_of_texts",
    "difference_of_tokens",
    "generate",
    "load_direction",
    "steering",
    "sweep",
]
