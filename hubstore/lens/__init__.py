"""The logit lens: stored states, or texts given now, read through a model's unembedding."""

from hubstore.lens.kept import keep_lens, read_lens
from hubstore.lens.lens import VARIANTS, Lens, Variant
from hubstore.lens.vocabulary import Encoded, Vocabulary

__all__ = ["VARIANTS", "Encoded", "Lens", "Variant", "Vocabulary", "keep_lens", "read_lens"]
