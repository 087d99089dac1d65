"""Token ids to pooled rows: batches, packing, capture, pooling, compilation; for extraction, lens and steering."""

from hubstore.forward.capture import Capture, forward
from hubstore.forward.pooling import pool

__all__ = ["Capture", "forward", "pool"]
