"""Models of texts, pictures and sounds: loading them, finding their blocks, making batches for them."""

from hubstore.models.batch import Batch, Batching, HostBatch, Padding, Spans, collate, make_batch, pack, pad, tokenize
from hubstore.models.blocks import find_blocks, hidden_state, on_calls
from hubstore.models.borders import Borders, length_borders
from hubstore.models.head import FinalNorm, Head, find_head
from hubstore.models.loading import devices_of, load_model, wrap_model
from hubstore.models.media import MEDIA, Adapter, MediaInputs, MediaReader, collate_media, shapes_of
from hubstore.models.model import Model
from hubstore.models.packed import packed_attention
from hubstore.models.unchanged import Restorer

__all__ = [
    "MEDIA",
    "Adapter",
    "Batch",
    "Batching",
    "Borders",
    "FinalNorm",
    "Head",
    "HostBatch",
    "MediaInputs",
    "MediaReader",
    "Model",
    "Padding",
    "Restorer",
    "Spans",
    "collate",
    "collate_media",
    "devices_of",
    "find_blocks",
    "find_head",
    "hidden_state",
    "length_borders",
    "load_model",
    "make_batch",
    "on_calls",
    "pack",
    "packed_attention",
    "pad",
    "shapes_of",
    "tokenize",
    "wrap_model",
]
