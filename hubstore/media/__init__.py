"""Images and audio on their way to a model: decoding, processors, worker processes. Optional as a whole."""
