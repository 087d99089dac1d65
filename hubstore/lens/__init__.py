"""The logit lens: stored states, or texts given now, read through a model's unembedding."""

from hubstore.lens.kept import keep_lens, read_lens
from hubstore.lens.lens import VARIANTS, Lens, Variant
from hubstore.lens.reading import READING_SCHEMA, read_store, read_texts
from hubstore.lens.summary import lens_summary
from hubstore.lens.vocabulary import Encoded, Vocabulary

__all__ = [
    "READING_SCHEMA",
    "VARIANTS",
    "Encoded",
    "Lens",
    "Variant",
    "Vocabulary",
    "keep_lens",
    "lens_summary",
    "read_lens",
    "read_store",
    "read_texts",
]
