"""Which of a tokenizer's tokens and positions a model has a row for, and which library its texts go through."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerFast

from hubstore.errors import ModelError

POSITIONS = re.compile(r"(^|\.)(wpe|(abs\w*_)?pos\w*_emb\w*|embed_pos\w*)$")
"""Names of tables of positions, of which a token has one."""

ENCODING: Final = ("__call__", "_encode_plus", "set_truncation_and_padding", "_convert_encoding")
"""Methods of transformers through which a text goes on its way to the tokenizers library."""


def tokenizing_part(tokenizer: Any) -> Any:
    """The tokenizers library's own tokenizer, where transformers' does nothing beside it; else transformers'."""
    backend, base = getattr(tokenizer, "backend_tokenizer", None), PreTrainedTokenizerFast
    if not isinstance(tokenizer, base) or not isinstance(backend, Tokenizer):
        return tokenizer
    own = (name for name in ENCODING if getattr(type(tokenizer), name, None) is not getattr(base, name, None))
    return tokenizer if any(own) else backend


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
