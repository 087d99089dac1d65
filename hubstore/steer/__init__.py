"""Steering: directions of the residual stream, interventions along them, what a model says then, and what that is."""

import warnings
from typing import Any

from hubstore.steer.decoding import Decoding
from hubstore.steer.directions import (
    Direction,
    difference_of_partitions,
    difference_of_texts,
    difference_of_tokens,
    load_direction,
)
from hubstore.steer.generation import Continuation, generate, next_log_probabilities
from hubstore.steer.intervention import Intervention, steering
from hubstore.steer.metrics import Proportion, perplexity, relevance, success_share
from hubstore.steer.prompts import MediaPrompt, media_prompt
from hubstore.steer.sentiment import Classifier, Lexicon
from hubstore.steer.sweep import sweep

__all__ = [
    "Classifier",
    "Continuation",
    "Decoding",
    "Direction",
    "Intervention",
    "Lexicon",
    "MediaPrompt",
    "Proportion",
    "difference_of_partitions",
    "difference_of_texts",
    "difference_of_tokens",
    "generate",
    "load_direction",
    "media_prompt",
    "next_log_probabilities",
    "perplexity",
    "relevance",
    "steering",
    "success_share",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """Deprecated names, which go with the next release."""
    if name != "Share":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("Share is deprecated; it is called Proportion now", DeprecationWarning, stacklevel=2)
    return Proportion
