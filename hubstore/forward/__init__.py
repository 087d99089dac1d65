"""Token ids to pooled rows: batches, packing, capture, pooling, compilation; for extraction, lens and steering."""

from hubstore.forward.batch import Batch, HostBatch, Spans, collate, make_batch, pack, pad, tokenize
from hubstore.forward.capture import Capture, forward
from hubstore.forward.media_batch import collate_media
from hubstore.forward.packed import packed_attention
from hubstore.forward.pooling import pool
from hubstore.reading.batching import Batching, Padding

__all__ = [
    "Batch",
    "Batching",
    "Capture",
    "HostBatch",
    "Padding",
    "Spans",
    "collate",
    "collate_media",
    "forward",
    "make_batch",
    "pack",
    "packed_attention",
    "pad",
    "pool",
    "tokenize",
]
