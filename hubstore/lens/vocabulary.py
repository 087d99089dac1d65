"""The tokens of a lens: words to token ids, ids to what a person reads, texts to tokens and their places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from tokenizers import Tokenizer

from hubstore.errors import LensError
from hubstore.models import Model

ANCHOR = "\n"
"""Stands before a word that is tokenized alone: some tokenizers put a space before the first word of a text."""


@dataclass(frozen=True)
class Encoded:
    """A text as its model reads it.

    Args:
        ids: tokens, special ones included.
        offsets: (start, stop) characters of each token; (0, 0) for special ones.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]

    def covering(self, character: int) -> int | None:
        """The place of the token that holds `character`; None where no token does."""
        for place, (start, stop) in enumerate(self.offsets):
            if start <= character < stop:
                return place
        return None


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A tokenizer, as the JSON that the `tokenizers` library writes and reads."""

    definition: str

    @classmethod
    def of_model(cls, model: Model) -> Vocabulary:
        """A model's; LensError where its tokenizer has no such definition."""
        backend = getattr(model.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise LensError(
                f"the tokenizer of {model.identity['id']} is {type(model.tokenizer).__name__}, a slow one; a lens "
                "needs one of the tokenizers library (tokenizer.json)"
            )
        return cls(backend.to_str())

    @cached_property
    def tokenizer(self) -> Any:
        """A `tokenizers.Tokenizer` that neither pads nor cuts."""
        tokenizer = Tokenizer.from_str(self.definition)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @cached_property
    def _anchor(self) -> list[int]:
        ids: list[int] = self.tokenizer.encode(ANCHOR, add_special_tokens=False).ids
        return ids

    def encode(self, text: str) -> Encoded:
        """A text with the special tokens that the model puts around it."""
        encoding = self.tokenizer.encode(text)
        return Encoded(tuple(encoding.ids), tuple(encoding.offsets))

    def encode_all(self, texts: Sequence[str]) -> list[Encoded]:
        """`encode` of many texts at once."""
        return [Encoded(tuple(e.ids), tuple(e.offsets)) for e in self.tokenizer.encode_batch(list(texts))]

    def pieces(self, text: str) -> list[int]:
        """Token ids of a text in the middle of another, without special tokens: " three" is not "three"."""
        anchored: list[int] = self.tokenizer.encode(ANCHOR + text, add_special_tokens=False).ids
        if anchored[: len(self._anchor)] == self._anchor:
            return anchored[len(self._anchor) :]
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def token_or_none(self, text: str) -> int | None:
        """The token that is `text`, leading space and all; None where it is several."""
        ids = self.pieces(text)
        return ids[0] if len(ids) == 1 else None

    def token(self, text: str) -> int:
        """The token that is `text`; LensError, showing its pieces, where it is several."""
        ids = self.pieces(text)
        if len(ids) != 1:
            shown = " + ".join(repr(self.text(token)) for token in ids) or "nothing"
            other = text[1:] if text.startswith(" ") else f" {text}"
            hint = f"; {other!r} is one" if self.token_or_none(other) is not None else ""
            raise LensError(f"{text!r} is not one token but {len(ids)}: {shown}{hint}. Name a word that is one token")
        return ids[0]

    def text(self, token: int) -> str:
        """What a token adds to a text; its name where that is no whole character, or nothing."""
        return _text(self, token)

    def texts(self, tokens: Iterable[int]) -> list[str]:
        """`text` of each."""
        return [self.text(int(token)) for token in tokens]


@lru_cache(maxsize=1 << 16)
def _text(vocabulary: Vocabulary, token: int) -> str:
    tokenizer = vocabulary.tokenizer
    name: str | None = tokenizer.id_to_token(token)
    if name is None:
        return f"<{token}>"  # an unembedding may have more rows than the tokenizer has tokens
    before: str = tokenizer.decode(vocabulary._anchor, skip_special_tokens=False)
    both: str = tokenizer.decode([*vocabulary._anchor, token], skip_special_tokens=False)
    text = both[len(before) :] if both.startswith(before) else tokenizer.decode([token], skip_special_tokens=False)
    return name if not text or "\N{REPLACEMENT CHARACTER}" in text else text
