"""Choosing next tokens, step by step, for a batch whose prompts the model has read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hubstore.checks import check_count, check_number
from hubstore.errors import SteeringError
from hubstore.models import Model
from hubstore.steer.intervention import Intervention, steering

NUCLEUS = 1024
"""Most probable tokens that are looked at first for `top_p`; sorting a whole vocabulary costs as much as a step."""


@dataclass(frozen=True)
class Decoding:
    """How a next token is chosen.

    Args:
        max_new_tokens: of a continuation, its end-of-sequence token included.
        temperature: 0 takes the most probable token; else logits are divided by it and a token is drawn.
        top_k: draw among so many most probable tokens only; None for all.
        top_p: draw among the fewest most probable tokens that have this probability together.

    Raises:
        SteeringError: a number that it cannot be.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        checked = {
            "max_new_tokens": check_count("max_new_tokens", self.max_new_tokens, error=SteeringError),
            "temperature": check_number("temperature", self.temperature, least=0, error=SteeringError),
            "top_k": None if self.top_k is None else check_count("top_k", self.top_k, error=SteeringError),
            "top_p": check_number("top_p", self.top_p, above=0, most=1, error=SteeringError),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Prefilled:
    """A batch after its prompts.

    Args:
        cache: keys and values of all blocks.
        final: [rows, width], last states after the final norm.
        mask: int64 [rows, length], 1 where a prompt's token is; padding is on the left.
        next_positions: int64 [rows], of the token that comes.
    """

    cache: Any
    final: Tensor
    mask: Tensor
    next_positions: Tensor


@torch.inference_mode()
def decode(
    model: Model, prefilled: Prefilled, interventions: Sequence[Intervention], decoding: Decoding, draws: Tensor
) -> tuple[list[list[int]], list[list[float]]]:
    """Tokens and log-probabilities of each row, up to its end-of-sequence token where there is one."""
    every_step = [one for one in interventions if one.when == "every step"]
    rows, steps, device = len(prefilled.mask), decoding.max_new_tokens, model.device
    stops = torch.tensor(stop_tokens(model), device=device)
    draws = draws.to(device)
    tokens = torch.zeros(rows, steps, dtype=torch.int64, device=device)
    log_probabilities = torch.zeros(rows, steps, device=device)
    alive = torch.arange(rows, device=device)
    is_done = torch.zeros(rows, dtype=torch.bool, device=device)
    positions = prefilled.next_positions
    mask = torch.cat([prefilled.mask, prefilled.mask.new_ones(rows, steps)], dim=1)
    cache, final, filled = prefilled.cache, prefilled.final, prefilled.mask.shape[1]
    with ExitStack() as steered:
        steered.enter_context(steering(model, every_step))
        for step in range(steps):
            logits = token_logits(model, final)
            token = _choose(logits, decoding, draws[alive, step] if decoding.temperature else None)
            tokens[alive, step] = token
            log_probabilities[alive, step] = logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(-1)
            is_done |= torch.isin(token, stops)
            left = len(alive) - int(is_done.sum())
            if not left or step + 1 == steps:
                break
            if 2 * left <= len(alive):  # rows that are done are dropped when they are half of the batch
                kept = (~is_done).nonzero()[:, 0]
                cache.batch_select_indices(kept)
                alive, token, mask, positions, is_done = (x[kept] for x in (alive, token, mask, positions, is_done))
                steered.close()
                rows_left = alive.tolist()
                steered.enter_context(steering(model, [one.for_rows(rows_left) for one in every_step]))
            inputs = {"input_ids": token[:, None], "attention_mask": mask[:, : filled + step + 1]}
            if model.takes_position_ids:
                inputs["position_ids"] = (positions + step)[:, None]
            output = model.trunk(**inputs, past_key_values=cache, use_cache=True)
            final = output.last_hidden_state[:, -1]
    return _until_stop(tokens.tolist(), log_probabilities.tolist(), set(stops.tolist()))


def token_logits(model: Model, final: Tensor) -> Tensor:
    """float32 [rows, vocabulary]; a token that stands for a piece of an image is never said."""
    logits = model.require_head().logits(final)
    pieces = getattr(getattr(model.trunk, "vocabulary_mapping", None), "image_tokens", None)
    if pieces is not None:  # Chameleon bars them in its own forward
        logits[:, pieces] = torch.finfo(logits.dtype).min
    return logits


def _choose(logits: Tensor, decoding: Decoding, draws: Tensor | None) -> Tensor:
    """int64 [rows]: the most probable tokens, or for draws [rows] those where the cumulated probability passes them."""
    if draws is None:
        return logits.argmax(-1)
    probabilities, ids = (logits.to(torch.float64) / decoding.temperature).softmax(-1), None
    if decoding.top_k is not None and decoding.top_k < probabilities.shape[1]:
        probabilities, ids = probabilities.topk(decoding.top_k)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    elif decoding.top_p < 1:
        probabilities, ids = _most_probable(probabilities, decoding.top_p)
    if decoding.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= decoding.top_p, 0.0)
    cumulated = probabilities.cumsum(-1)
    place = torch.searchsorted(cumulated, draws[:, None] * cumulated[:, -1:], right=True)
    place = place.clamp_max(probabilities.shape[1] - 1)
    return (place if ids is None else ids.gather(1, place))[:, 0]


def _most_probable(probabilities: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Descending probabilities and their tokens, as many as make up the share in every row."""
    few, ids = probabilities.topk(min(NUCLEUS, probabilities.shape[1]))
    if bool((few.sum(-1) >= share).all()):
        return few, ids
    ordered, all_ids = probabilities.sort(descending=True)
    return ordered, all_ids


def _until_stop(
    tokens: list[list[int]], log_probabilities: list[list[float]], stops: set[int]
) -> tuple[list[list[int]], list[list[float]]]:
    ends = [next((i + 1 for i, token in enumerate(row) if token in stops), len(row)) for row in tokens]
    return (
        [row[:end] for row, end in zip(tokens, ends, strict=True)],
        [row[:end] for row, end in zip(log_probabilities, ends, strict=True)],
    )


def stop_tokens(model: Model) -> list[int]:
    """End-of-sequence tokens, by the configuration and by the tokenizer."""
    of_config = getattr(model.trunk.config, "eos_token_id", None)
    named = [*(of_config if isinstance(of_config, list) else [of_config]), model.tokenizer.eos_token_id]
    return sorted({int(token) for token in named if token is not None})
