"""What is computed of the materials: importing this registers every experiment."""

from hubstore.experiments.recipes import (  # noqa: F401
    cross_modal,
    lens_media,
    lens_text,
    patching,
    similarity,
    steering_media,
    steering_sentiment,
    steering_text,
    trends,
)
