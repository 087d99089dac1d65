"""The head of a causal language model: its final norm and its unembedding, as arithmetic that a store can keep.

A head is found by what it computes, and checked against the model's own logits, so that a model whose head does
something else is refused rather than misread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hubstore.errors import ModelError

NormKind = Literal["rms", "layer", "none"]

PROBED = 8
"""Tokens of the sequence on which a head is checked against its model."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 1e-2}
"""Greatest difference from the model's own logits, in their standard deviations."""


@dataclass(frozen=True)
class FinalNorm:
    """The norm between the last block and the unembedding.

    Args:
        kind: "rms" (x / √(mean x² + eps) · weight), "layer" (the mean removed first, a bias added last) or "none".
        eps: added to the mean square or variance.
        weight: [width], or None for ones. Gemma's 1 + w is kept as it acts.
        bias: [width], or None for zeros.
    """

    kind: NormKind
    eps: float = 0.0
    weight: Tensor | None = None
    bias: Tensor | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """float32 [..., width] of hidden states [..., width]; float64 stays float64."""
        wide = hidden if hidden.dtype == torch.float64 else hidden.to(torch.float32)
        if self.kind == "none":
            return wide
        if self.kind == "layer":
            wide = wide - wide.mean(-1, keepdim=True)
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        if self.weight is not None:
            normed = normed * self.weight.to(normed.dtype)
        return normed if self.bias is None else normed + self.bias.to(normed.dtype)

    def to(self, device: torch.device | str) -> FinalNorm:
        """The same norm on another device."""
        return FinalNorm(self.kind, self.eps, _moved(self.weight, device), _moved(self.bias, device))


@dataclass(frozen=True)
class Head:
    """logits = softcap · tanh(scale · (normed · unembeddingᵀ + bias) / softcap), the last only where there is one.

    Args:
        unembedding: [vocabulary, width], in the model's dtype.
        norm: applied to the last block's output, never to "final" states, which are after it.
        bias: [vocabulary], or None.
        scale: of the logits.
        softcap: bounds the logits (Gemma 2), or None.
    """

    unembedding: Tensor
    norm: FinalNorm
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @property
    def vocabulary(self) -> int:
        """Tokens that it tells apart; a tokenizer may have fewer."""
        return len(self.unembedding)

    @property
    def width(self) -> int:
        """Elements of a hidden state."""
        return self.unembedding.shape[1]

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.unembedding.device

    def logits(self, final: Tensor) -> Tensor:
        """All logits of a few states.

        Args:
            final: [n, width], after the final norm.

        Returns:
            float32 [n, vocabulary].
        """
        logits = (final.to(self.unembedding.dtype) @ self.unembedding.T).to(torch.float32)
        if self.bias is not None:
            logits = logits + self.bias.to(torch.float32)
        logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def to(self, device: torch.device | str) -> Head:
        """The same head on another device."""
        unembedding = self.unembedding.to(device)
        return Head(unembedding, self.norm.to(device), _moved(self.bias, device), self.scale, self.softcap)


def find_head(language_model: Any, trunk: Any, blocks: nn.ModuleList) -> Head:
    """The head of a causal language model of transformers.

    Args:
        language_model: the whole model, in eval mode.
        trunk: the part of it below the head.
        blocks: the trunk's blocks.

    Raises:
        ModelError: it has no unembedding, its final norm is of no known kind, or its logits are not what the head
            found gives.
    """
    name = type(language_model).__name__
    embeddings = language_model.get_output_embeddings()
    weight = getattr(embeddings, "weight", None)
    if weight is None or weight.shape[1] != trunk.config.hidden_size:
        raise ModelError(f"{name} has no unembedding of the hidden states' width; a lens needs a causal language model")
    ids = torch.arange(PROBED, device=weight.device).add(min(16, len(weight) // 2)).remainder(len(weight))[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    probe = _Probe(blocks, trunk)
    with torch.inference_mode():
        logits = language_model(**inputs).logits[0].to(torch.float32)
        with probe:
            trunk(**inputs)
    config = trunk.config
    head = Head(
        unembedding=weight.detach(),
        norm=_final_norm(probe, name),
        bias=_detached(getattr(embeddings, "bias", None)),
        scale=float(getattr(config, "logit_scale", None) or 1.0)
        / float(getattr(config, "logits_scaling", None) or 1.0),
        softcap=getattr(config, "final_logit_softcapping", None),
    )
    with torch.inference_mode():
        found = head.logits(probe.final[0])
    difference = float((found - logits).abs().max() / logits.std().clamp_min(1e-12))
    if not difference <= TOLERANCE.get(weight.dtype, 1e-4):
        raise ModelError(
            f"the logits of {name} are not its final states times its unembedding (they differ by {difference:.1e} "
            "standard deviations); its head does something that hubstore does not know"
        )
    return head


class _Probe:
    """While a model runs: the last block's output, the trunk's, and the module that made the one of the other."""

    def __init__(self, blocks: nn.ModuleList, trunk: nn.Module) -> None:
        self.last = torch.empty(0)
        self.final = torch.empty(0)
        self.norm: nn.Module | None = None
        self._blocks = blocks
        self._trunk = trunk

    def __enter__(self) -> None:
        between: list[tuple[nn.Module, Any]] = []
        inside = {id(module) for module in self._blocks.modules()}

        def after_last(module: nn.Module, args: Any, output: Any) -> None:
            self.last = output[0] if isinstance(output, tuple) else output

        def after_any(module: nn.Module, args: Any, output: Any) -> None:
            if args and isinstance(output, torch.Tensor) and _same(args[0], self.last):
                between.append((module, output))

        def after_trunk(module: nn.Module, args: Any, output: Any) -> None:
            self.final = output.last_hidden_state
            made = [module for module, state in between if _same(state, self.final)]
            self.norm = made[0] if made else None

        self._handles = [self._blocks[-1].register_forward_hook(after_last)]
        outside = [m for m in self._trunk.modules() if id(m) not in inside and m is not self._trunk]
        self._handles += [module.register_forward_hook(after_any) for module in outside]
        self._handles.append(self._trunk.register_forward_hook(after_trunk))

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()


def _same(x: Any, y: Tensor) -> bool:
    """Whether two are one state; models may reshape it in between."""
    return isinstance(x, Tensor) and x.numel() == y.numel() and x.data_ptr() == y.data_ptr()


def _final_norm(probe: _Probe, name: str) -> FinalNorm:
    """The norm among the known ones that does what the model's own did on the probe."""
    last, final = probe.last, probe.final
    if torch.equal(last, final):
        return FinalNorm("none")
    module = probe.norm
    if module is not None:
        weight, bias = _detached(getattr(module, "weight", None)), _detached(getattr(module, "bias", None))
        eps = next((float(value) for n in ("eps", "variance_epsilon") if (value := getattr(module, n, None))), 1e-6)
        shifted = None if weight is None else 1 + weight.to(torch.float32)
        candidates = [
            FinalNorm("rms", eps, weight, bias),
            FinalNorm("rms", eps, shifted, bias),
            FinalNorm("layer", eps, weight, bias),
        ]
        tolerance = TOLERANCE.get(last.dtype, 1e-4) * float(final.float().std())
        for norm in candidates:
            with torch.inference_mode():
                if float((norm(last) - final.float()).abs().mean()) <= tolerance:
                    return norm
    raise ModelError(
        f"the final norm of {name} ({type(module).__name__ if module is not None else 'not found'}) is neither "
        "RMSNorm nor LayerNorm; hubstore cannot read it"
    )


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def _moved(tensor: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
