"""The logit lens: hidden states read through a model's unembedding (nostalgebraist, 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import xxhash
from torch import Tensor

from hubstore.errors import LensError
from hubstore.kernels import LensSweep, lens_sweep
from hubstore.lens.storage import read_lens
from hubstore.lens.translators import TunedLens
from hubstore.lens.vocabulary import Encoded, Vocabulary
from hubstore.models import Head, Model

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Variant = Literal["raw", "normed", "tuned", "final"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

HASHED_ROWS = 8192
"""Of an unembedding, hashed at a time."""


@dataclass(frozen=True, eq=False)
class Lens:
    """A model's head and vocabulary: all that reading a stored state needs.

    Args:
        head: final norm and unembedding.
        vocabulary: its tokens.
        name: of the model, for messages.
        tuned: maps of layers to where the head reads; None where there are none. See `hubstore.lens.tuned_lens`.
    """

    head: Head
    vocabulary: Vocabulary
    name: str
    tuned: TunedLens | None = None

    @classmethod
    def of_model(cls, model: Model) -> Lens:
        """The lens of a loaded model; ModelError where it was loaded without its head."""
        return cls(model.require_head(), Vocabulary.of_model(model), str(model.identity["id"]))

    @classmethod
    def of_store(cls, store: StoreReader, device: torch.device | str = "cpu") -> Lens:
        """The lens that a store keeps; LensError, saying how to add it, where it keeps none."""
        head, definition = read_lens(store)
        return cls(head.to(device), Vocabulary(definition), str(store.attributes["model"]["id"]))

    def to(self, device: torch.device | str) -> Lens:
        """The same lens on another device."""
        tuned = None if self.tuned is None else self.tuned.to(device)
        moved = Lens(self.head.to(device), self.vocabulary, self.name, tuned)
        if "digest" in self.__dict__:
            moved.__dict__["digest"] = self.digest
        return moved

    @cached_property
    def digest(self) -> str:
        """xxHash of all that a lens reads with: unembedding, bias, norm, scale, softcap, tokenizer and tuned maps.

        What is kept of a lens's readings is kept under it: the head of another model of the same name reads otherwise.
        """
        head = self.head
        hashed = xxhash.xxh3_128(repr((head.norm.kind, head.norm.eps, head.scale, head.softcap)).encode())
        hashed.update(self.vocabulary.definition.encode())
        if self.tuned is not None:
            hashed.update(self.tuned.digest.encode())
        for tensor in (head.unembedding, head.bias, head.norm.weight, head.norm.bias):
            hashed.update(repr(None if tensor is None else (tensor.dtype, tuple(tensor.shape))).encode())
            for rows in () if tensor is None else torch.split(tensor.detach(), HASHED_ROWS):
                hashed.update(rows.contiguous().view(torch.uint8).cpu().numpy().tobytes())
        return hashed.hexdigest()

    def sweep_layer(self, hidden: Tensor, layer: str, *, variant: Variant = "raw", **asked: Any) -> LensSweep:
        """What the states of a layer say: "final" ones as they are, "tuned" ones by way of the layer's map.

        Args:
            hidden: [n, width], of `layer`.
            layer: its name.
            variant: of all layers but "final".
            asked: targets, k, groups and ranks; see `sweep`.

        Raises:
            LensError: "tuned" without maps, or without one of this layer; and what `sweep` refuses.
        """
        if layer == "final":
            return self.sweep(hidden, variant="final", **asked)
        if variant != "tuned":
            return self.sweep(hidden, variant=variant, **asked)
        if self.tuned is None:
            raise LensError(
                f"the lens of {self.name} has no tuned maps; fit them to a store, with tuned_lens or --variant tuned"
            )
        translated = self.tuned.translate(layer, hidden.to(self.head.device))
        return self.sweep(translated, variant="final" if self.tuned.target == "final" else "normed", **asked)

    def sweep(
        self,
        hidden: Tensor,
        *,
        variant: Variant = "raw",
        targets: Tensor | None = None,
        k: int = 0,
        groups: Tensor | None = None,
        ranks: bool = True,
    ) -> LensSweep:
        """What the states say; logits are never held.

        Args:
            hidden: [n, width], in any dtype, on any device; read where the lens is.
            variant: "raw" multiplies states as they are with the unembedding (Wu et al., 2025); "normed" applies the
                final norm first; "final" is for states that are after it already. For "tuned" see `sweep_layer`.
            targets: int64 [n, t], tokens to look up.
            k: most probable tokens to give.
            groups: [vocabulary, g] weights of tokens in groups.
            ranks: whether to count the tokens before each target.

        Raises:
            LensError: states of another width, or an unknown variant.
            NonFiniteError: a state holds NaN or infinity.
        """
        if hidden.shape[-1] != self.head.width:
            raise LensError(f"states of width {hidden.shape[-1]}; the unembedding of {self.name} has {self.head.width}")
        if variant not in ("raw", "normed", "final"):
            raise LensError(f"there is no lens {variant!r}; use raw, normed, final, or tuned by sweep_layer")
        states = hidden.to(self.head.device)
        if variant == "normed":
            states = self.head.norm(states)
        if self.head.scale != 1:
            states = states.to(torch.float32) * self.head.scale
        plain = states.dtype == self.head.unembedding.dtype and self.head.bias is None
        if self.head.bias is not None:
            states = torch.cat([states.to(torch.float32), torch.ones_like(states[:, :1], dtype=torch.float32)], dim=1)
        targets = None if targets is None else targets.to(self.head.device)
        rows = self.head.unembedding if plain else self._wide
        return lens_sweep(states, rows, targets=targets, k=k, groups=groups, softcap=self.head.softcap, ranks=ranks)

    @cached_property
    def _wide(self) -> Tensor:
        """float32 [vocabulary, width], or [vocabulary, width + 1] with the bias as a last column.

        On a CPU the kernel widens tiles as it goes, so that there a copy is made for a bias only.
        """
        head = self.head
        if head.bias is not None:
            bias = (head.bias.to(torch.float32) * head.scale)[:, None]
            return torch.cat([head.unembedding.to(torch.float32), bias], dim=1)
        return head.unembedding if head.device.type == "cpu" else head.unembedding.to(torch.float32)

    def token(self, text: str) -> int:
        """The token that is `text`, leading space and all; LensError, showing its pieces, where it is several."""
        return self.vocabulary.token(text)

    def token_or_none(self, text: str) -> int | None:
        """The token that is `text`; None where it is several."""
        return self.vocabulary.token_or_none(text)

    def encode(self, text: str) -> Encoded:
        """A text's tokens and their characters, with the special tokens that the model puts around it."""
        return self.vocabulary.encode(text)
