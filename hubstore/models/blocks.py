"""Finding a trunk's blocks from the model itself."""

from __future__ import annotations

from typing import Any

from torch import nn

from hubstore.errors import ModelError


def find_blocks(trunk: nn.Module) -> nn.ModuleList:
    """The list of blocks whose outputs form the residual stream.

    Models of transformers 5 name their block class in `_can_record_outputs["hidden_states"]`; of others
    it is the list with as many modules as the configuration has layers, and most of the parameters.

    Raises:
        ModelError: there is no such list, or there are several (an encoder and a decoder, say).
    """
    lists = [module for module in trunk.modules() if isinstance(module, nn.ModuleList) and len(module)]
    recorded = _recorded_class(trunk)
    if recorded is not None:
        found = [blocks for blocks in lists if all(isinstance(block, recorded) for block in blocks)]
    else:
        depth = getattr(trunk.config, "num_hidden_layers", None)
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
