"""A tuned lens: an affine map a layer that takes its states to where the model's own head reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import xxhash
from torch import Tensor

from hubstore.errors import LensError


@dataclass(frozen=True)
class Translator:
    """hidden @ weights + bias, of one layer.

    Args:
        weights: float32 [width, width].
        bias: float32 [width].
    """

    weights: Tensor
    bias: Tensor

    def __call__(self, hidden: Tensor) -> Tensor:
        """float32 [n, width] of states [n, width] in any dtype, on the weights' device."""
        return hidden.to(self.weights) @ self.weights + self.bias


@dataclass(frozen=True, eq=False)
class TunedLens:
    """The maps of a store's layers.

    Args:
        target: the layer whose states they give: "final", or the last block.
        translators: by layer; the target has none, and is read as it is.
    """

    target: str
    translators: Mapping[str, Translator]

    def translate(self, layer: str, hidden: Tensor) -> Tensor:
        """The states of `target` that those of a layer are mapped to; LensError where the layer has no map."""
        if layer == self.target:
            return hidden
        if layer not in self.translators:
            raise LensError(
                f"the tuned lens has no map of layer {layer}, but of {', '.join(self.translators) or 'none'}; fit it "
                "to a store that keeps this layer"
            )
        return self.translators[layer](hidden)

    def to(self, device: torch.device | str) -> TunedLens:
        """The same on another device."""
        moved = {
            layer: Translator(one.weights.to(device), one.bias.to(device)) for layer, one in self.translators.items()
        }
        return TunedLens(self.target, moved)

    @cached_property
    def digest(self) -> str:
        """xxHash of the maps."""
        hashed = xxhash.xxh3_128(self.target.encode())
        for layer, one in self.translators.items():
            hashed.update(layer.encode())
            for tensor in (one.weights, one.bias):
                hashed.update(tensor.contiguous().cpu().numpy().tobytes())
        return hashed.hexdigest()
