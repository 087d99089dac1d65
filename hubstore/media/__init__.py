"""Images and audio on their way to a model: decoding, processors, worker processes. Optional as a whole."""

from hubstore.media.processor import MEDIA, MediaInputs, MediaReader, shapes_of

__all__ = ["MEDIA", "MediaInputs", "MediaReader", "shapes_of"]
