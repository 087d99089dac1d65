"""What a tokenizer adds to a text, and which of its tokens and positions a model has a row for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from hubstore.errors import ModelError

POSITIONS = re.compile(r"(^|\.)(wpe|(abs\w*_)?pos\w*_emb\w*|embed_pos\w*)$")
"""Names of tables of positions, of which a token has one."""


@dataclass(frozen=True, slots=True)
class Added:
    """The special tokens that a tokenizer puts around every text.

    Args:
        before: their ids, in front.
        after: their ids, behind.
        opening: `before` as it would be written in a text; "" for none.
        closing: `after`, likewise.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    opening: str = ""
    closing: str = ""

    @classmethod
    def by(cls, tokenizer: Any) -> Added:
        """What a tokenizer adds; nothing where it cannot be told from the text's own tokens."""
        whole, bare = (
            list(tokenizer("a", add_special_tokens=add, verbose=False)["input_ids"]) for add in (True, False)
        )
        special = set(tokenizer.all_special_ids)
        for start in range(len(whole) - len(bare) + 1):
            before, after = whole[:start], whole[start + len(bare) :]
            if whole[start : start + len(bare)] == bare and special.issuperset((*before, *after)):
                opening, closing = ("".join(tokenizer.convert_ids_to_tokens(ids)) for ids in (before, after))
                return cls(tuple(before), tuple(after), opening, closing)
        return NOTHING

    def without(self, texts: Sequence[str]) -> list[str]:
        """Texts without what the tokenizer adds anyway: a sequence begins and ends once, whatever a template holds.

        Special tokens inside the text stay as they are.
        """
        opening, closing = self.opening or UNWRITTEN, self.closing or UNWRITTEN
        return [
            self._stripped(text) if text.lstrip().startswith(opening) or text.endswith(closing) else text
            for text in texts
        ]

    def _stripped(self, text: str) -> str:
        """White space before what the tokenizer begins with is not of the text either: a template may be indented."""
        while self.opening and text.lstrip().startswith(self.opening):
            text = text.lstrip().removeprefix(self.opening)
        while self.closing and text.endswith(self.closing):
            text = text.removesuffix(self.closing)
        return text

    def leading(self, token_ids: Sequence[Sequence[int]], bos: int | None) -> npt.NDArray[np.int64]:
        """int64 [items]: how many special tokens each begins with; also where a template has put them there."""
        first = np.fromiter((ids[0] if len(ids) else -1 for ids in token_ids), np.int64, len(token_ids))
        count: npt.NDArray[np.int64] = ((first >= 0) & (first == (-1 if bos is None else bos))).astype(np.int64)
        if len(self.before) == 1:
            count[first == self.before[0]] = 1
        elif self.before:
            for item in np.flatnonzero(first == self.before[0]).tolist():
                if tuple(token_ids[item][: len(self.before)]) == self.before:
                    count[item] = len(self.before)
        return count


UNWRITTEN = "\0"
"""In the place of nothing, which every text begins and ends with."""

NOTHING = Added()
"""Of a model that reads no text beside a medium."""


def embedding_rows(trunk: Any) -> int | None:
    """How many tokens a model has an embedding for; None where it has no such table."""
    try:
        weight = getattr(trunk.get_input_embeddings(), "weight", None)
    except (AttributeError, NotImplementedError):
        return None
    return None if weight is None else len(weight)


def require_embeddings(name: str, tokenizer: Any, rows: int | None) -> None:
    """ModelError where the tokenizer makes tokens of ordinary text that the model has no embedding for.

    Special tokens beyond the table, such as a padding token, are in no ordinary text; `tokenize` refuses one that is.
    """
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.update(tokenizer.all_special_ids)
    beyond = {
        number: token
        for token, number in tokenizer.get_vocab().items()
        if rows is not None and number >= rows and number not in special
    }
    if beyond:
        first = min(beyond)
        raise ModelError(
            f"{name}: its tokenizer makes {len(beyond):,} tokens beyond its {rows:,} embeddings, such as "
            f"{beyond[first]!r} ({first}); use the tokenizer that the model was trained with, or a checkpoint saved "
            "after its embeddings were resized"
        )


def position_limits(trunk: nn.Module) -> Iterator[int]:
    """The longest sequence that each of a model's tables of learned positions has rows for.

    Models after RoBERTa begin behind the row of their padding, those after BART at an offset.
    """
    for name, module in trunk.named_modules():
        weight: Any = getattr(module, "weight", None)
        if POSITIONS.search(name) and getattr(weight, "ndim", 0) == 2:
            padding, offset = getattr(module, "padding_idx", None), getattr(module, "offset", 0)
            yield len(weight) - (offset if padding is None or offset else padding + 1)
