"""The logit lens: stored states, or texts given now, read through a model's unembedding."""

from hubstore.lens.languages import TokenLanguages, count_token_languages, token_languages_of_words
from hubstore.lens.lens import VARIANTS, Lens, Variant
from hubstore.lens.reading import READING_SCHEMA, read_media, read_store, read_texts
from hubstore.lens.storage import LensUpdate, keep_lens, read_lens
from hubstore.lens.summary import lens_summary
from hubstore.lens.translators import TunedLens
from hubstore.lens.trends import LanguageMass, language_mass, language_trends
from hubstore.lens.tuned import tuned_lens, tuned_losses
from hubstore.lens.vocabulary import Encoded, Vocabulary

__all__ = [
    "READING_SCHEMA",
    "VARIANTS",
    "Encoded",
    "LanguageMass",
    "Lens",
    "LensUpdate",
    "TokenLanguages",
    "TunedLens",
    "Variant",
    "Vocabulary",
    "count_token_languages",
    "keep_lens",
    "language_mass",
    "language_trends",
    "lens_summary",
    "read_lens",
    "read_media",
    "read_store",
    "read_texts",
    "token_languages_of_words",
    "tuned_lens",
    "tuned_losses",
]
