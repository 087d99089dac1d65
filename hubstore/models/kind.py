"""Whether a model's tokens see those after them, found by running it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hubstore.errors import ModelError
from hubstore.models.adapters import Stack
from hubstore.models.model import Kind
from hubstore.models.unchanged import Restorer


def find_kind(stack: Stack, name: str, rows: int | None) -> Kind:
    """Whether a token's state depends on later ones: change the last of eight tokens, and see whether others move.

    Args:
        stack: of a model that is on its device.
        name: for messages.
        rows: of its table of input embeddings; None where it has none.

    Raises:
        ModelError: it cannot be run, or its states are not finite.
    """
    if not stack.text or stack.joint:
        return "causal" if any(adapter.reader.decoder for adapter in stack.adapters.values()) else "encoder"
    trunk = stack.trunk
    what = f"{name} ({type(trunk).__name__})"
    if rows is None:
        raise ModelError(f"{what} has no table of input embeddings, so that hubstore cannot run it; use another model")
    ids = torch.arange(8).remainder(rows).add(min(16, rows // 2)).remainder(rows)[None]
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % rows
    both = torch.cat([ids, other]).to(next(trunk.parameters()).device)
    restorer = Restorer(trunk)
    try:
        with torch.inference_mode():
            states = trunk(input_ids=both, attention_mask=torch.ones_like(both)).last_hidden_state.float()
            moved = float((states[0, :-1] - states[1, :-1]).norm() / states[0, :-1].norm())
            finite = bool(states.isfinite().all())
            restorer.restore()
        # In a causal model nothing at all moves but for rounding; in a random, tiny encoder it moves by 1e-5. A
        # mixture's experts round otherwise where they get other tokens: what its last token passes on is still zero.
        causal = moved < 1e-6 or (moved < 0.5 and _passes_nothing_back(trunk, trunk.get_input_embeddings(), both[:1]))
    except Exception as error:  # whatever a model's own code raises
        said = next(iter(str(error).strip().splitlines()), "")
        raise ModelError(
            f"{what} cannot be run on eight tokens ({type(error).__name__}: {said}); "
            "hubstore cannot read it as it is: use another model"
        ) from error
    finally:
        restorer.restore()
    if not finite:
        raise ModelError(
            f"{what} gives states that are not finite in {next(trunk.parameters()).dtype}; use --model-dtype float32, "
            "and if they stay so, fetch its weights again"
        )
    return "causal" if causal else "encoder"


def _passes_nothing_back(trunk: Any, embeddings: nn.Module, ids: torch.Tensor) -> bool:
    """Whether the gradient of all states but the last, by the last token's embedding, is zero; exact in any dtype."""
    embedded: list[torch.Tensor] = []

    def watch(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = embeddings.register_forward_hook(watch)
    try:
        with torch.enable_grad():
            states = trunk(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, :-1].float()
            (gradient,) = torch.autograd.grad(
                (states * torch.linspace(1, 2, states.shape[-1]).to(states)).sum(), embedded[:1]
            )
    except Exception:  # a kernel that has no gradient, or embeddings that give something else
        return False
    finally:
        handle.remove()
    passed = gradient.float().norm(dim=-1)[0]
    return bool(passed[-1] <= 1e-7 * passed.sum()) and bool(passed.sum() > 0)
