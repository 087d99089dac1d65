"""Batched decoding of a model, steered or not: a seed for each row, and a restart from the layer of intervention.

What lies below the lowest intervened layer is the same for every strength, direction and seed. So each prompt runs
through those blocks once; its states and its keys and values are then handed to all rows that share it, and only the
blocks above run for each row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from hubstore.errors import NonFiniteError, SteeringError
from hubstore.extraction.pipeline import batch_members
from hubstore.models import Model, make_batch, tokenize
from hubstore.steer.intervention import Intervention, steering
from hubstore.steer.restart import resumed_at, run_to

GENERATED_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Of a batch by default, prompts with padding and continuations together."""

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
        wrong = {
            "max_new_tokens, which is 1 at least,": self.max_new_tokens < 1,
            "temperature, which is 0 or above,": not 0 <= self.temperature < float("inf"),
            "top_k, which is 1 at least,": self.top_k is not None and self.top_k < 1,
            "top_p, which is above 0 and at most 1,": not 0 < self.top_p <= 1,
        }
        for name, is_wrong in wrong.items():
            if is_wrong:
                raise SteeringError(f"{name} is {getattr(self, name.partition(',')[0])}")


@dataclass(frozen=True)
class Continuation:
    """What a model said after a prompt.

    Args:
        prompt: the prompt.
        text: what follows it, special tokens left out.
        token_ids: of the continuation, its end-of-sequence token included where there is one.
        log_probabilities: of each of those tokens under the model as it was steered, at temperature 1.
        seed: of the row's draws.
        is_complete: whether it ended with an end-of-sequence token.
    """

    prompt: str
    text: str
    token_ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    seed: int
    is_complete: bool

    @property
    def log_probability(self) -> float:
        """Of the whole continuation."""
        return sum(self.log_probabilities)


def generate(
    model: Model,
    prompts: Sequence[str],
    interventions: Sequence[Intervention] = (),
    *,
    decoding: Decoding | None = None,
    seeds: Sequence[int] | None = None,
    batch_tokens: int | None = None,
    restart: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Continuation]:
    """Continue prompts, a row for each, in batches of like length.

    Args:
        model: a causal model with its head.
        prompts: a prompt may be there many times, with other strengths, directions or seeds.
        interventions: what each has for each row it has for each prompt.
        decoding: greedy by default, 32 tokens.
        seeds: of each row's own random stream, which depends on its seed and its prompt and on nothing else of the
            batch: the same draws meet the same prompt under every strength. 0 for all by default.
        batch_tokens: of a batch, padding and continuations included; by default what suits the device.
        restart: run equal prompts once through the blocks below the lowest intervened layer. Without it each row runs
            alone; the tokens are the same but where two are equally probable to rounding.
        progress: called with rows done and rows in all.

    Returns:
        A continuation for each prompt, in their order.

    Raises:
        ModelError: the model has no head, or a prompt no token.
        SteeringError: an intervention does not fit the model or the rows, or a prompt leaves no room in its context.
        NonFiniteError: steering drove the states beyond the dtype.
    """
    how, rows = decoding or Decoding(), len(prompts)
    seeds = [0] * rows if seeds is None else list(seeds)
    if len(seeds) != rows:
        raise SteeringError(f"there are {len(seeds)} seeds for {rows} prompts; give each row one")
    model.require_head()
    for intervention in interventions:
        intervention.check(model)
    token_ids = _prompt_tokens(model, prompts, how.max_new_tokens)
    for intervention in interventions:
        intervention.check_prompts([len(ids) for ids in token_ids])
    budget = batch_tokens or GENERATED_TOKENS.get(model.device.type, GENERATED_TOKENS["cpu"])
    found: list[Continuation | None] = [None] * rows
    done = 0
    for members in _batches(token_ids, how.max_new_tokens, budget):
        ids = [token_ids[i] for i in members]
        here = [intervention.for_rows(members) for intervention in interventions]
        draws = _draws(ids, [seeds[i] for i in members], how)
        tokens, log_probabilities = _decode(model, _prefill(model, ids, here, restart), here, how, draws)
        for place, i in enumerate(members):
            found[i] = _continuation(model, prompts[i], ids[place], tokens[place], log_probabilities[place], seeds[i])
        done += len(members)
        if progress is not None:
            progress(done, rows)
    return [one for one in found if one is not None]


def _prompt_tokens(model: Model, prompts: Sequence[str], max_new_tokens: int) -> list[list[int]]:
    distinct = list(dict.fromkeys(prompts))
    room = model.max_tokens - max_new_tokens
    ids, cut = tokenize(model, distinct, max(room, 1)) if distinct else ([], [])
    for prompt, is_cut in zip(distinct, cut, strict=True):
        if is_cut or room < 1:
            raise SteeringError(
                f"the prompt {prompt[:60]!r} and {max_new_tokens} new tokens do not fit into the {model.max_tokens} "
                f"tokens of {model.identity['id']}; shorten the prompt or ask for fewer"
            )
    of_prompt = dict(zip(distinct, ids, strict=True))
    return [of_prompt[prompt] for prompt in prompts]


def _batches(token_ids: Sequence[Sequence[int]], max_new_tokens: int, budget: int) -> Iterator[list[int]]:
    """Rows of each batch, of like length, equal prompts side by side."""
    _, prompt_of = _distinct(token_ids)
    order = np.argsort(prompt_of, kind="stable")
    lengths = np.array([len(token_ids[i]) + max_new_tokens for i in order], np.int32)
    for members in batch_members(lengths, budget):
        yield order[members].tolist()


def _distinct(token_ids: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """The first row of each distinct prompt, and for each row the number of its prompt."""
    first: dict[tuple[int, ...], int] = {}
    for row, ids in enumerate(token_ids):
        first.setdefault(tuple(ids), row)
    number = {ids: place for place, ids in enumerate(first)}
    return list(first.values()), [number[tuple(ids)] for ids in token_ids]


def _draws(token_ids: Sequence[Sequence[int]], seeds: Sequence[int], how: Decoding) -> Tensor:
    """float64 [rows, new tokens], uniform in [0, 1): a row's depend on its seed and its prompt alone."""
    if not how.temperature:
        return torch.empty(len(seeds), 0)
    rows = []
    for ids, seed in zip(token_ids, seeds, strict=True):
        digest = hashlib.sha256(repr((seed, list(ids))).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        rows.append(torch.rand(how.max_new_tokens, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


@dataclass
class _Prefilled:
    """A batch after its prompts.

    Args:
        cache: keys and values of all blocks.
        final: [rows, width], last states after the final norm.
        mask: int64 [rows, length], 1 where a prompt's token is; padding is on the left.
    """

    cache: Any
    final: Tensor
    mask: Tensor


def _prefill(
    model: Model, token_ids: Sequence[Sequence[int]], interventions: Sequence[Intervention], restart: bool
) -> _Prefilled:
    inputs = _inputs(model, token_ids)
    firsts, prompt_of = _distinct(token_ids)
    below = min((layer for one in interventions for layer in one.layers), default=model.depth)
    cache = DynamicCache(config=model.trunk.config)
    if not (restart and below and len(firsts) < len(token_ids) and _is_per_block(cache, model)):
        with torch.inference_mode(), steering(model, interventions):
            output = model.trunk(**inputs, past_key_values=cache, use_cache=True)
        return _Prefilled(cache, output.last_hidden_state[:, -1], inputs["attention_mask"])
    shared = DynamicCache(config=model.trunk.config)
    once = _inputs(model, [token_ids[row] for row in firsts])
    reached = run_to(model, below, {**once, "past_key_values": shared, "use_cache": True})
    to_rows = torch.tensor(prompt_of, device=model.device)
    at_rows = replace(reached, states=reached.states[to_rows])
    # The lower blocks' keys and values come last: a cache that has some makes the model take the prompt for a step.
    with torch.inference_mode(), steering(model, interventions), resumed_at(model, below, at_rows):
        output = model.trunk(**inputs, past_key_values=cache, use_cache=True)
    for layer in shared.layers[:below]:
        layer.batch_select_indices(to_rows)
    cache.layers[:below] = shared.layers[:below]
    return _Prefilled(cache, output.last_hidden_state[:, -1], inputs["attention_mask"])


def _is_per_block(cache: DynamicCache, model: Model) -> bool:
    """Whether each block has keys and values of its own, so that the lower ones' can be had alone."""
    own = all(isinstance(layer, DynamicLayer) for layer in cache.layers)
    return own and len(cache.layers) in (0, model.depth)  # 0: they are made as the blocks run


def _inputs(model: Model, token_ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    return dict(make_batch(model, token_ids, "left", explicit_positions=True).inputs)


@torch.inference_mode()
def _decode(
    model: Model, prefilled: _Prefilled, interventions: Sequence[Intervention], how: Decoding, draws: Tensor
) -> tuple[list[list[int]], list[list[float]]]:
    """Tokens and log-probabilities of each row, up to its end-of-sequence token where there is one."""
    every_step = [one for one in interventions if one.when == "every step"]
    rows, steps, device = len(prefilled.mask), how.max_new_tokens, model.device
    head, stops = model.require_head(), torch.tensor(_stop_tokens(model), device=device)
    draws = draws.to(device)
    tokens = torch.zeros(rows, steps, dtype=torch.int64, device=device)
    log_probabilities = torch.zeros(rows, steps, device=device)
    alive = torch.arange(rows, device=device)
    is_done = torch.zeros(rows, dtype=torch.bool, device=device)
    lengths = prefilled.mask.sum(-1)
    mask = torch.cat([prefilled.mask, prefilled.mask.new_ones(rows, steps)], dim=1)
    cache, final, filled = prefilled.cache, prefilled.final, prefilled.mask.shape[1]
    with ExitStack() as steered:
        steered.enter_context(steering(model, every_step))
        for step in range(steps):
            logits = head.logits(final)
            token = _choose(logits, how, draws[alive, step] if how.temperature else None)
            tokens[alive, step] = token
            log_probabilities[alive, step] = logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(-1)
            is_done |= torch.isin(token, stops)
            left = len(alive) - int(is_done.sum())
            if not left or step + 1 == steps:
                break
            if 2 * left <= len(alive):  # rows that are done are dropped when they are half of the batch
                kept = (~is_done).nonzero()[:, 0]
                cache.batch_select_indices(kept)
                alive, token, mask, lengths, is_done = (x[kept] for x in (alive, token, mask, lengths, is_done))
                steered.close()
                rows_left = alive.tolist()
                steered.enter_context(steering(model, [one.for_rows(rows_left) for one in every_step]))
            inputs = {"input_ids": token[:, None], "attention_mask": mask[:, : filled + step + 1]}
            if model.takes_position_ids:
                inputs["position_ids"] = (lengths + step)[:, None]
            output = model.trunk(**inputs, past_key_values=cache, use_cache=True)
            final = output.last_hidden_state[:, -1]
    return _until_stop(tokens.tolist(), log_probabilities.tolist(), set(stops.tolist()))


def _choose(logits: Tensor, how: Decoding, draws: Tensor | None) -> Tensor:
    """int64 [rows]: the most probable tokens, or for draws [rows] those where the cumulated probability passes them."""
    if draws is None:
        return logits.argmax(-1)
    probabilities, ids = (logits.to(torch.float64) / how.temperature).softmax(-1), None
    if how.top_k is not None and how.top_k < probabilities.shape[1]:
        probabilities, ids = probabilities.topk(how.top_k)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    elif how.top_p < 1:
        probabilities, ids = _most_probable(probabilities, how.top_p)
    if how.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= how.top_p, 0.0)
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


def _stop_tokens(model: Model) -> list[int]:
    """End-of-sequence tokens, by the configuration and by the tokenizer."""
    of_config = getattr(model.trunk.config, "eos_token_id", None)
    named = [*(of_config if isinstance(of_config, list) else [of_config]), model.tokenizer.eos_token_id]
    return sorted({int(token) for token in named if token is not None})


def _continuation(
    model: Model,
    prompt: str,
    prompt_ids: Sequence[int],
    tokens: Sequence[int],
    log_probabilities: Sequence[float],
    seed: int,
) -> Continuation:
    if not np.isfinite(log_probabilities).all():
        raise NonFiniteError(
            f"the continuation of {prompt[:60]!r} has no finite probabilities: its states are beyond {model.dtype}; "
            "steer less strongly, or load the model with dtype float32"
        )
    is_complete = tokens[-1] in _stop_tokens(model)
    text = _text_after(model, prompt_ids, tokens)
    return Continuation(prompt, text, tuple(tokens), tuple(log_probabilities), seed, is_complete)


def _text_after(model: Model, prompt_ids: Sequence[int], tokens: Sequence[int]) -> str:
    """What the tokens add to the prompt: some tokenizers drop the space before a text's first word."""

    def decoded(ids: Sequence[int]) -> str:
        text: str = model.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    before, whole = decoded(prompt_ids), decoded([*prompt_ids, *tokens])
    return whole[len(before) :] if whole.startswith(before) else decoded(tokens)
