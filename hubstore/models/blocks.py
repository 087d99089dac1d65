"""Finding a trunk's blocks from the model itself, and following their calls."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from hubstore.errors import ModelError
from hubstore.models.unchanged import Restorer

PROBED = 4
"""Tokens on which shared blocks are seen being called."""


def find_blocks(trunk: nn.Module) -> nn.ModuleList:
    """The blocks whose outputs form the residual stream, in the order of their calls.

    Models of transformers 5 name their block class in `_can_record_outputs["hidden_states"]`; of others
    it is the list with as many modules as the configuration has layers, and most of the parameters. A block that
    several layers share, as in ALBERT, stands in the list once for each of them.

    Raises:
        ModelError: there is no such list, or there are several (an encoder and a decoder, say).
    """
    lists = [module for module in trunk.modules() if isinstance(module, nn.ModuleList) and len(module)]
    recorded = _recorded_class(trunk)
    depth = getattr(trunk.config, "num_hidden_layers", None)
    if recorded is not None:
        found = [blocks for blocks in lists if all(isinstance(block, recorded) for block in blocks)]
        own = [module for module in trunk.modules() if isinstance(module, recorded)]
        if own and (len(found) != 1 or (isinstance(depth, int) and len(found[0]) < depth)):
            called = _called_in_a_chain(trunk, own)
            found = [nn.ModuleList(called)] if called else found
    else:
        of_depth = [blocks for blocks in lists if len(blocks) == depth]
        found = sorted(of_depth, key=_parameters)[-1:]
    if len(found) != 1:
        raise ModelError(
            f"{type(trunk).__name__} has {len(found) or 'no'} lists of blocks where one is needed; "
            "hubstore reads models with one stack of blocks (encoders and decoder-only models)"
        )
    return found[0]


def _recorded_class(trunk: nn.Module) -> type[nn.Module] | None:
    outputs: dict[str, Any] = getattr(trunk, "_can_record_outputs", None) or {}
    recorded = outputs.get("hidden_states")
    recorded = getattr(recorded, "target_class", recorded)
    return recorded if isinstance(recorded, type) else None


def _parameters(blocks: nn.ModuleList) -> int:
    return sum(parameter.numel() for parameter in blocks.parameters())


def _called_in_a_chain(trunk: Any, modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules in the order in which a forward calls them, each on what the one before gave; else none."""
    called: list[nn.Module] = []
    states: list[Any] = []

    def before(number: int, module: nn.Module, hidden: Any) -> None:
        if number > 1 and hidden is not states[-1]:
            raise ModelError("not a chain")

    def after(number: int, module: nn.Module, output: Any) -> None:
        called.append(module)
        states.append(hidden_state(output))

    ids = torch.arange(PROBED, device=next(trunk.parameters()).device)[None]
    restorer = Restorer(trunk)
    training = trunk.training
    try:
        with torch.inference_mode(), on_calls(modules, before, after):
            trunk.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    except Exception:  # whatever a model's own code raises of what it cannot read: it has no such chain
        return []
    finally:
        restorer.restore()
        trunk.train(training)
    return called


BlockHook = Callable[[int, nn.Module, Any], None]


@contextlib.contextmanager
def on_calls(blocks: Iterable[nn.Module], before: BlockHook, after: BlockHook) -> Iterator[Callable[[], None]]:
    """Follow this thread's forwards through their blocks, whose calls are counted from 1.

    What it gives is called before another forward than the first, to count anew.

    Args:
        blocks: the modules; one that is called again for another layer counts again.
        before: called with the call's number, the block, and the hidden state that it reads.
        after: called with the call's number, the block, and its output.
    """
    number = 0
    own = threading.get_ident()  # another thread may run the same blocks

    def restart() -> None:
        nonlocal number
        number = 0

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        nonlocal number
        if threading.get_ident() == own:
            number += 1
            before(number, module, _read_state(args, kwargs))

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == own:
            after(number, module, output)

    handles = []
    for block in dict.fromkeys(blocks):
        handles.append(block.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(block.register_forward_hook(leave))
    try:
        yield restart
    finally:
        for handle in handles:
            handle.remove()


def _read_state(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a block reads: its first argument, "hidden_states", or the first floating-point tensor of any name."""
    named = [kwargs["hidden_states"]] if "hidden_states" in kwargs else list(kwargs.values())
    floating = (v for v in (*args, *named) if isinstance(v, torch.Tensor) and v.is_floating_point())
    return args[0] if args else next(floating, None)


def hidden_state(output: Any) -> Any:
    """A block's hidden state among what it gives: alone, or the first of a tuple, a list or a record of outputs."""
    if dataclasses.is_dataclass(output) and not isinstance(output, Mapping):
        output = [getattr(output, field.name) for field in dataclasses.fields(output)]
    if isinstance(output, Mapping):
        output = list(output.values())
    return output[0] if isinstance(output, tuple | list) and output else output
