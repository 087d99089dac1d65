"""Steering and patching: directions and states of the residual stream, put in, and what a model says then."""

from hubstore.lazy import lazy_names
from hubstore.steer.ablation import language_ablation
from hubstore.steer.decoding import Decoding
from hubstore.steer.directions import (
    Direction,
    difference_of_partitions,
    difference_of_texts,
    difference_of_tokens,
    last_states,
    load_direction,
)
from hubstore.steer.generation import Continuation, generate, next_log_probabilities
from hubstore.steer.intervention import Intervention, steering
from hubstore.steer.metrics import Proportion, perplexity, relevance, success_share
from hubstore.steer.patching import Patched, patch, place_after
from hubstore.steer.patchscopes import patchscope
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
    "Patched",
    "Proportion",
    "difference_of_partitions",
    "difference_of_texts",
    "difference_of_tokens",
    "generate",
    "language_ablation",
    "last_states",
    "load_direction",
    "media_prompt",
    "next_log_probabilities",
    "patch",
    "patchscope",
    "perplexity",
    "place_after",
    "relevance",
    "steering",
    "success_share",
    "sweep",
]

__getattr__ = lazy_names(__name__, {}, renamed={"Share": "Proportion"})
