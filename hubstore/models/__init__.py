"""Language models: loading them, finding their blocks, making batches for them."""

from hubstore.models.batch import Batch, Padding, make_batch, tokenize
from hubstore.models.blocks import find_blocks
from hubstore.models.model import Model, load_model, wrap_model

__all__ = ["Batch", "Model", "Padding", "find_blocks", "load_model", "make_batch", "tokenize", "wrap_model"]
