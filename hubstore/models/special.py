"""What a tokenizer adds to a text, and which of its tokens and positions a model has a row for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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

    def without(self, text: str) -> str:
        """The text without what the tokenizer adds anyway: a sequence begins and ends once, whatever a template holds.

        Special tokens inside the text stay as they are.
        """
        while self.opening and text.startswith(self.opening):
            text = text.removeprefix(self.opening)
        while self.closing and text.endswith(self.closing):
            text = text.removesuffix(self.closing)
        return text

    def leading(self, ids: Sequence[int], bos: int | None) -> int:
        """How many special tokens a sequence begins with; also where a template has put them there."""
        if self.before and tuple(ids[: len(self.before)]) == self.before:
            return len(self.before)
        return int(bos is not None and len(ids) > 0 and ids[0] == bos)


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
