"""Tokenizing alone, in a process that imports little."""

from __future__ import annotations

from collections.abc import Sequence

from hubstore.reading.texts import TOKENIZED, TextReader


def encode(reader: TextReader, parts: Sequence[Sequence[str]], number: int) -> int:
    """The tokens of one part of the texts: as many texts at a time as hubstore has, their ids not looked at."""
    texts, tokenizer = parts[number], reader.tokenizer
    portions = (texts[at : at + TOKENIZED] for at in range(0, len(texts), TOKENIZED))
    return sum(len(encoding) for portion in portions for encoding in tokenizer.encode_batch_fast(portion))
