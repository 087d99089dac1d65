"""Are the states that are captured those that the model itself calls its hidden states?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hubstore.errors import HubstoreError, SelfCheckError
from hubstore.forward import Batch
from hubstore.forward.capture import Capture, forward
from hubstore.models import Model, hidden_state, on_calls

NEAR = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Greatest relative distance of two states that are one but for the order of their arithmetic."""


def compare_with_own(probe: Capture, batch: Batch, captured: torch.Tensor) -> str:
    """Compare the states of one item with the model's own `output_hidden_states`, whose last is after the final norm.

    Args:
        probe: the model and the layers that were captured.
        batch: the item, alone.
        captured: float32 [layers, rows, width], at the batch's token rows.

    Returns:
        What they were compared with: "own hidden states", or "number of blocks" where the model gives none.

    Raises:
        SelfCheckError: they are others, or there are not as many as the model has blocks, and one.
    """
    model = probe.model
    name, depth = model.identity["id"], model.depth
    run = _own_run(model, batch)
    if run.calls != depth:
        raise _refused(name, f"its forward calls {run.calls} blocks where it has {depth}")
    if run.hidden is None:
        configured = getattr(model.trunk.config, "num_hidden_layers", depth)
        if isinstance(configured, int) and configured != depth:
            raise _refused(name, f"its forward calls {depth} blocks, and its configuration has {configured} layers")
        return "number of blocks"
    if len(run.hidden) != depth + 1:
        raise _refused(name, f"it gives {len(run.hidden)} hidden states of its own, and has {depth} blocks")
    # Mamba's and RWKV's own begin behind the first block: their last block's is among them, what it reads is not.
    begin = int(_is_same(run.hidden[0], run.first))
    for layer, state in zip(probe.layers, captured, strict=True):
        if layer == "final":
            same = run.final is None or _near(_at_rows(run.final, batch, state), state, model)
        elif int(layer) < depth + begin:
            same = int(layer) < begin or _near(_at_rows(run.hidden[int(layer) - begin], batch, state), state, model)
        else:
            same = _last_agrees(run, batch, state, model)
        if not same:
            raise _refused(name, f"the states captured at layer {layer} are not the model's own hidden states")
    return "own hidden states"


def _refused(name: str, why: str) -> SelfCheckError:
    return SelfCheckError(
        f"{name}: {why}; its blocks do not carry the residual stream as hubstore expects, so it cannot be extracted; "
        "use another model"
    )


class _OwnRun:
    """What a forward of the whole model gave.

    Args:
        calls: of blocks.
        hidden: the model's own hidden states; None where it gives none.
        final: its output.
        first: the first block's state.
        last: the last block's state.
        readers: the modules beyond the blocks that read it, with what they gave: the final norm, if there is one.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.hidden: tuple[Any, ...] | None = None
        self.final: Any = None
        self.first: Any = None
        self.last: Any = None
        self.readers: list[tuple[nn.Module, Any]] = []


@torch.inference_mode()
def _own_run(model: Model, batch: Batch) -> _OwnRun:
    run = _OwnRun()

    def before(number: int, module: nn.Module, hidden: Any) -> None:
        pass

    def after(number: int, module: nn.Module, output: Any) -> None:
        run.calls, run.last = number, hidden_state(output)
        run.first = run.last if number == 1 else run.first

    def reads(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and _is_same(args[0], run.last):
            run.readers.append((module, output))

    with _on_modules_beside(model, reads):
        output = None
        try:
            with on_calls(model.blocks, before, after):
                output = forward(model, batch, output_hidden_states=True)
        except HubstoreError:
            raise
        except Exception:  # a model of its authors' own code may not know of hidden states
            run.readers.clear()
            with on_calls(model.blocks, before, after):
                forward(model, batch)
    run.final = getattr(output, "last_hidden_state", None)
    named = (getattr(output, key, None) for key in ("hidden_states", "decoder_hidden_states"))
    run.hidden = next((states for states in named if states is not None), None)
    return run


@contextlib.contextmanager
def _on_modules_beside(model: Model, hook: Any) -> Iterator[None]:
    inside = {id(module) for block in model.blocks for module in block.modules()}
    others = [m for m in model.trunk.modules() if id(m) not in inside and m is not model.trunk]
    handles = [module.register_forward_hook(hook) for module in others]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_same(one: Any, other: Any) -> bool:
    """Whether two are one state; models may view it in between."""
    both = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return both and one.numel() == other.numel() and one.data_ptr() == other.data_ptr()


def _at_rows(own: Any, batch: Batch, state: torch.Tensor) -> torch.Tensor | None:
    """[rows, width] of a state of the model's own; None where it is of another shape."""
    if not isinstance(own, torch.Tensor) or own.ndim != 3 or own.shape[-1] != state.shape[-1]:
        return None
    return own.flatten(0, 1).index_select(0, batch.token_rows)


def _near(reference: torch.Tensor | None, state: torch.Tensor, model: Model) -> bool:
    if reference is None or reference.shape != state.shape:
        return False
    distance = (reference.float() - state).norm(dim=-1)
    return bool((distance <= NEAR[model.dtype] * state.norm(dim=-1) + 1e-30).all())


@torch.inference_mode()
def _last_agrees(run: _OwnRun, batch: Batch, state: torch.Tensor, model: Model) -> bool:
    """Whether the last block's state is the model's last one, or what its final norm makes that of.

    Where something else is between the two, neither can be inferred from the other.
    """
    assert run.hidden is not None
    ends = [run.hidden[-1], run.final]
    if any(_near(_at_rows(end, batch, state), state, model) for end in ends):
        return True
    if any(_is_same(run.last, end) for end in ends):
        return False
    for module, output in run.readers:
        for end in ends:
            if isinstance(end, torch.Tensor) and isinstance(output, torch.Tensor) and torch.equal(output, end):
                normed = module(state[None].to(model.dtype))[0].float()
                return _near(_at_rows(end, batch, state), normed, model)
    return True
