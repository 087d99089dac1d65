"""A model as hubstore sees it: its trunk, its blocks, its tokenizer and where it came from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn

from hubstore.errors import ModelError
from hubstore.models.adapters import Adapter
from hubstore.models.head import Head
from hubstore.models.special import embedding_rows, position_limits, tokenizing_part
from hubstore.reading.layout import TextLayout
from hubstore.reading.texts import NOTHING, TEXT, Added, TextReader

Kind = Literal["encoder", "causal"]

UNBOUNDED = 1 << 20
"""Tokenizers write a huge number where they know no limit."""


@dataclass(frozen=True)
class Model:
    """A loaded model: its trunk, how images and audio reach it, and its head where that was asked for.

    Args:
        trunk: the module whose blocks are read, in eval mode on its device; it turns token ids into hidden states, or
            of a vision or audio encoder images or audio.
        tokenizer: its tokenizer; None where no texts are read.
        blocks: the blocks of the residual stream, in order; layer i is the output of block i.
        kind: "encoder" when a token's state depends on later tokens, "causal" when it does not.
        identity: id, revision, digests, dtype, attention and class, as kept in the store.
        head: final norm and unembedding, where the model was loaded with them.
        adapters: by modality, how images and audio are read.
        joint: by modality, what gives each item one vector, for a pair of towers that meet in it; such a model has
            no blocks, and its only layer is "final".
    """

    trunk: Any
    tokenizer: Any
    blocks: nn.ModuleList
    kind: Kind
    identity: Mapping[str, Any]
    head: Head | None = None
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    joint: Mapping[str, Callable[..., torch.Tensor]] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it reads: "text", "image", "audio"."""
        return (*(("text",) if self.tokenizer is not None else ()), *self.adapters)

    def require_modality(self, modality: str) -> None:
        """ModelError unless it reads the modality."""
        if modality not in self.modalities:
            raise ModelError(
                f"{self.identity['id']} reads {' and '.join(self.modalities)} items, no {modality} items; "
                "leave them out of the corpus, or use a model that reads them"
            )

    @property
    def device(self) -> torch.device:
        """Where the trunk is."""
        device: torch.device = next(self.trunk.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        found: torch.dtype = next(p.dtype for p in self.trunk.parameters() if p.is_floating_point())
        return found

    @property
    def width(self) -> int:
        """Elements of a hidden state."""
        return int(self.identity["width"])

    @property
    def depth(self) -> int:
        """Blocks of the whole model."""
        return int(self.identity["blocks"])

    @property
    def _text_part(self) -> Any:
        """The module whose blocks see texts."""
        return getattr(self.trunk, "text_model", self.trunk) if self.joint else self.trunk

    @cached_property
    def max_tokens(self) -> int:
        """The longest sequence it takes, special tokens included."""
        config = self._text_part.config
        limits = [
            getattr(config, "max_position_embeddings", None),
            getattr(config, "n_positions", None),
            getattr(self.tokenizer, "model_max_length", None),
            *(position_limits(self._text_part) if self.tokenizer is not None else ()),
        ]
        # Some write -1 or 0 where they know no limit.
        return int(min([UNBOUNDED, *(one for one in limits if isinstance(one, int | float) and one >= 1)]))

    @cached_property
    def rows(self) -> int | None:
        """How many tokens it has an embedding for; None where it has no table of them."""
        return embedding_rows(self._text_part)

    @cached_property
    def has_tokens_beyond(self) -> bool:
        """Whether its tokenizer has tokens, special ones, that it has no embedding for."""
        return self.rows is not None and max(self.tokenizer.get_vocab().values(), default=0) >= self.rows

    @cached_property
    def pad_id(self) -> int:
        """A token id to pad with; masked wherever it stands."""
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(self.tokenizer, name, None)
            if value is not None and (self.rows is None or value < self.rows):
                return int(value)
        return 0

    @cached_property
    def fixed_tokens(self) -> int | None:
        """The length that every text is padded to, for a model that was trained without a mask (SigLIP); else None."""
        if self.tokenizer is None or "attention_mask" in self.tokenizer.model_input_names:
            return None
        return self.max_tokens

    @cached_property
    def added(self) -> Added:
        """The special tokens that its tokenizer puts around every text."""
        return Added.by(self.tokenizer)

    @cached_property
    def bos_id(self) -> int | None:
        """The token that its tokenizer begins a sequence with; None where it has none."""
        bos: int | None = getattr(self.tokenizer, "bos_token_id", None)
        return bos

    def text_reader(self, max_tokens: int, template: str = TEXT) -> TextReader:
        """What makes token ids of texts for it, here or in another process."""
        return TextReader(
            tokenizing_part(self.tokenizer),
            self.identity["id"],
            max_tokens,
            self.added,
            self.bos_id,
            self.kind == "causal",
            self.rows if self.has_tokens_beyond else None,
            getattr(self.tokenizer, "truncation_side", "right"),
            getattr(self.tokenizer, "split_special_tokens", False),
            template,
        )

    @property
    def text_layout(self) -> TextLayout:
        """What the arrays of a batch of texts depend on."""
        causal = self.kind == "causal" and self.tokenizer is not None
        return TextLayout(
            self.pad_id,
            self.added if causal else NOTHING,
            self.bos_id,
            causal,
            self.fixed_tokens,
            # In a causal model no token sees padding to its right. Without a mask a GPU takes its fastest attention.
            unmasked=self.kind == "causal" and self.device.type == "cuda",
            takes_positions=self.takes_position_ids,
        )

    @cached_property
    def takes_position_ids(self) -> bool:
        """Whether positions can be given to its forward."""
        return "position_ids" in inspect.signature(self.trunk.forward).parameters

    def require_head(self) -> Head:
        """Its head; ModelError, saying how to have one, where it was loaded without."""
        if self.head is None:
            raise ModelError(f"{self.identity['id']} was loaded without its head; load_model(..., head=True) keeps it")
        return self.head

    def layer_names(self) -> tuple[str, ...]:
        """ "0" (the embedding output) to the number of blocks, then "final" (after the final norm)."""
        return ("final",) if self.joint else (*map(str, range(self.depth + 1)), "final")
