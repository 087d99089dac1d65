"""Models of texts, images and audio: loading them, finding their blocks, and how they read what they are given."""

from hubstore.models.adapters import Adapter
from hubstore.models.blocks import find_blocks, hidden_state, on_calls
from hubstore.models.borders import Borders, length_borders
from hubstore.models.head import FinalNorm, Head, find_head
from hubstore.models.loading import devices_of, load_model, wrap_model
from hubstore.models.model import Model
from hubstore.models.unchanged import Restorer

__all__ = [
    "Adapter",
    "Borders",
    "FinalNorm",
    "Head",
    "Model",
    "Restorer",
    "devices_of",
    "find_blocks",
    "find_head",
    "hidden_state",
    "length_borders",
    "load_model",
    "on_calls",
    "wrap_model",
]
