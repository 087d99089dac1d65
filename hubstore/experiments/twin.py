"""A model with the weights that training begins with: what an experiment finds in it, no training put there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from hubstore.models import Model
from hubstore.models.loading import weights_digest


def random_twin(model: Model, seed: int) -> Model:
    """The model with random weights in the place of its own, which are overwritten: one of the same configuration.

    Weights are drawn as transformers draws them for a model that is to be trained, by the seed, on the CPU. What images
    and audio go through before the blocks is drawn anew too; tokenizer and processors stay.

    Args:
        model: which nothing else may use any more.
        seed: of the draws.

    Returns:
        The same modules, under a name of their own.
    """
    head, inside = model.head, {parameter.data_ptr() for parameter in model.trunk.parameters()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in (*(adapter.whole for adapter in model.adapters.values()), model.trunk):
            module.load_state_dict(type(module)(module.config).state_dict())
        if head is not None:
            if head.unembedding.data_ptr() not in inside:  # it is not the table of embeddings
                std = getattr(model.trunk.config, "initializer_range", 0.02)
                head.unembedding.copy_(torch.empty(head.unembedding.shape).normal_(std=std))
            if head.bias is not None:
                head.bias.zero_()
            # A norm begins as one that only norms, whichever way its weight acts.
            head = replace(head, norm=replace(head.norm, weight=None, bias=None))
    return replace(model, identity=_identity(model, seed), head=head)


def _identity(model: Model, seed: int) -> Mapping[str, Any]:
    named, media = model.identity, model.identity.get("media")
    drawn = {"id": f"{named['id']} with random weights, seed {seed}", "weights": weights_digest(model.trunk)}
    if media is None:
        return {**named, **drawn}
    return {**named, **drawn, "media": {name: {**one, "weights": drawn["weights"]} for name, one in media.items()}}
