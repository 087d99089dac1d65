"""Batched decoding of a model, steered or not: a seed for each row, and a restart from the layer of intervention.

What lies below the lowest intervened layer is the same for every strength, direction and seed. So each prompt runs
through those blocks once; its states and its keys and values are then handed to all rows that share it, and only the
blocks above run for each row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from hubstore.checks import check_count, check_seed
from hubstore.errors import NonFiniteError, SteeringError
from hubstore.forward.members import batch_members
from hubstore.models import Model
from hubstore.steer.decoding import Decoding, Prefilled, decode, stop_tokens, token_logits
from hubstore.steer.directions import token_budget
from hubstore.steer.intervention import Intervention, steering
from hubstore.steer.prompts import MediaPrompt, Prompt, TrunkInputs, kind_of, prompt_tokens, shown, trunk_inputs
from hubstore.steer.restart import resumed_at, run_to


@dataclass(frozen=True)
class Continuation:
    """What a model said after a prompt.

    Args:
        prompt: the prompt; the name of an image or audio clip stands in its place.
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
    prompts: Sequence[Prompt],
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
        prompts: texts, and images or audio clips with text around them (`media_prompt`). A prompt may be there many
            times, with other strengths, directions or seeds.
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
    decoding, rows = decoding or Decoding(), len(prompts)
    seeds = [0] * rows if seeds is None else [check_seed(seed, error=SteeringError) for seed in seeds]
    if len(seeds) != rows:
        raise SteeringError(f"there are {len(seeds)} seeds for {rows} prompts; give each row one")
    found: list[Continuation | None] = [None] * rows
    for part in _parts(model, prompts, interventions, decoding.max_new_tokens, batch_tokens, progress):
        draws = _draws(part, [seeds[i] for i in part.members], decoding)
        tokens, log_probabilities = decode(model, _prefill(model, part, restart), part.interventions, decoding, draws)
        for place, i in enumerate(part.members):
            ids = part.token_ids[place]
            found[i] = _continuation(model, prompts[i], ids, tokens[place], log_probabilities[place], seeds[i])
    return [one for one in found if one is not None]


def next_log_probabilities(
    model: Model,
    prompts: Sequence[Prompt],
    tokens: Sequence[int],
    interventions: Sequence[Intervention] = (),
    *,
    batch_tokens: int | None = None,
    restart: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """How probable some tokens are right after each prompt.

    Args:
        model: see `generate`.
        prompts: n of them, see `generate`.
        tokens: t token ids.
        interventions: see `generate`.
        batch_tokens: see `generate`.
        restart: see `generate`.
        progress: see `generate`.

    Returns:
        float32 [n, t] on the CPU.

    Raises:
        ModelError: see `generate`.
        SteeringError: see `generate`.
        NonFiniteError: see `generate`.
    """
    most = model.require_head().vocabulary - 1
    tokens = [check_count("a token", token, least=0, most=most, error=SteeringError) for token in tokens]
    found = torch.empty(len(prompts), len(tokens))
    for part in _parts(model, prompts, interventions, 1, batch_tokens, progress):
        with torch.inference_mode():
            logits = token_logits(model, _prefill(model, part, restart).final)
            scores = (logits[:, tokens] - logits.logsumexp(-1, keepdim=True)).cpu()
        for place, i in enumerate(part.members):
            _check_finite(model, prompts[i], scores[place].tolist())
        found[part.members] = scores
    return found


@dataclass(frozen=True)
class _Part:
    """Some rows of what is asked for, as one batch.

    Args:
        members: which rows, equal prompts side by side.
        prompts: theirs.
        token_ids: of each.
        interventions: on these rows.
    """

    members: list[int]
    prompts: list[Prompt]
    token_ids: list[list[int]]
    interventions: list[Intervention]


def _parts(
    model: Model,
    prompts: Sequence[Prompt],
    interventions: Sequence[Intervention],
    new_tokens: int,
    batch_tokens: int | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[_Part]:
    """Check what is asked for, and go through it batch by batch."""
    model.require_head()
    for intervention in interventions:
        intervention.check(model)
    token_ids = prompt_tokens(model, prompts, new_tokens)
    placed = [one.at_media([_media_slices(prompt) for prompt in prompts]) for one in interventions]
    for intervention in placed:
        intervention.check_prompts([len(ids) for ids in token_ids])
    budget = token_budget(model.device)
    if batch_tokens is not None:
        budget = check_count("batch_tokens", batch_tokens, error=SteeringError)
    done = 0
    for members in _batches(prompts, token_ids, new_tokens, budget):
        yield _Part(
            members,
            [prompts[i] for i in members],
            [token_ids[i] for i in members],
            [one.for_rows(members) for one in placed],
        )
        done += len(members)
        if progress is not None:
            progress(done, len(prompts))


def _media_slices(prompt: Prompt) -> list[slice]:
    return [slice(*of_part) for of_part in prompt.inputs.media] if isinstance(prompt, MediaPrompt) else []


def _batches(
    prompts: Sequence[Prompt], token_ids: Sequence[Sequence[int]], new_tokens: int, budget: int
) -> Iterator[list[int]]:
    """Rows of each batch, of one kind and of like length, equal prompts side by side."""
    _, prompt_of = _distinct(prompts, token_ids)
    kinds = [kind_of(prompt) for prompt in prompts]
    order = np.argsort(prompt_of, kind="stable")
    for kind in dict.fromkeys(kinds):
        same_kind = np.array([i for i in order if kinds[i] == kind], np.int64)
        lengths = np.array([len(token_ids[i]) + new_tokens for i in same_kind], np.int32)
        for members in batch_members(lengths, budget):
            yield same_kind[members].tolist()


def _distinct(prompts: Sequence[Prompt], token_ids: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """The first row of each distinct prompt, and for each row the number of its prompt."""
    keys = [_key(prompt, ids) for prompt, ids in zip(prompts, token_ids, strict=True)]
    first: dict[tuple[Any, ...], int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    number = {key: place for place, key in enumerate(first)}
    return list(first.values()), [number[key] for key in keys]


def _key(prompt: Prompt, token_ids: Sequence[int]) -> tuple[Any, ...]:
    """What decides what a model is given: the tokens of a text, and the medium among them."""
    return (*token_ids, prompt.digest) if isinstance(prompt, MediaPrompt) else tuple(token_ids)


def _draws(part: _Part, seeds: Sequence[int], decoding: Decoding) -> Tensor:
    """float64 [rows, new tokens], uniform in [0, 1): a row's depend on its seed and its prompt alone."""
    if not decoding.temperature:
        return torch.empty(len(seeds), 0)
    rows = []
    for prompt, ids, seed in zip(part.prompts, part.token_ids, seeds, strict=True):
        digest = hashlib.sha256(repr((seed, list(_key(prompt, ids)))).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        rows.append(torch.rand(decoding.max_new_tokens, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def _prefill(model: Model, part: _Part, restart: bool) -> Prefilled:
    firsts, prompt_of = _distinct(part.prompts, part.token_ids)
    to_rows = torch.tensor(prompt_of, device=model.device)
    once = trunk_inputs(model, [part.prompts[row] for row in firsts], [part.token_ids[row] for row in firsts])
    every = None if once.can_be_shared else trunk_inputs(model, part.prompts, part.token_ids)
    inputs = every or once.for_rows(to_rows)
    below = min((layer for one in part.interventions for layer in one.layers), default=model.depth)
    cache = DynamicCache(config=model.trunk.config)
    is_shared = restart and below > 0 and len(firsts) < len(part.members)
    if not (is_shared and every is None and _is_per_block(cache, model)):
        with torch.inference_mode(), steering(model, part.interventions, tokens=inputs.mask):
            return _prefilled(model, cache, inputs)
    shared = DynamicCache(config=model.trunk.config)
    reached = run_to(model, below, {**once.arguments, "past_key_values": shared, "use_cache": True})
    at_rows = replace(reached, states=reached.states[to_rows])
    # The lower blocks' keys and values come last: a cache that has some makes the model take the prompt for a step.
    with (
        torch.inference_mode(),
        steering(model, part.interventions, tokens=inputs.mask),
        resumed_at(model, below, at_rows),
    ):
        prefilled = _prefilled(model, cache, inputs)
    for layer in shared.layers[:below]:
        layer.batch_select_indices(to_rows)
    cache.layers[:below] = shared.layers[:below]
    return prefilled


def _prefilled(model: Model, cache: DynamicCache, inputs: TrunkInputs) -> Prefilled:
    output = model.trunk(**inputs.arguments, past_key_values=cache, use_cache=True)
    return Prefilled(cache, output.last_hidden_state[:, -1], inputs.mask, inputs.next_positions)


def _is_per_block(cache: DynamicCache, model: Model) -> bool:
    """Whether each block has keys and values of its own, so that the lower ones' can be had alone."""
    own = all(isinstance(layer, DynamicLayer) for layer in cache.layers)
    return own and len(cache.layers) in (0, model.depth)  # 0: they are made as the blocks run


def _check_finite(model: Model, prompt: Prompt, log_probabilities: Sequence[float]) -> None:
    if not np.isfinite(log_probabilities).all():
        raise NonFiniteError(
            f"the continuation of {shown(prompt)[:60]!r} has no finite probabilities: its states are beyond "
            f"{model.dtype}; steer less strongly, or load the model with dtype float32"
        )


def _continuation(
    model: Model,
    prompt: Prompt,
    prompt_ids: Sequence[int],
    tokens: Sequence[int],
    log_probabilities: Sequence[float],
    seed: int,
) -> Continuation:
    _check_finite(model, prompt, log_probabilities)
    is_complete = tokens[-1] in stop_tokens(model)
    text = _text_after(model, prompt_ids, tokens)
    return Continuation(shown(prompt), text, tuple(tokens), tuple(log_probabilities), seed, is_complete)


def _text_after(model: Model, prompt_ids: Sequence[int], tokens: Sequence[int]) -> str:
    """What the tokens add to the prompt: some tokenizers drop the space before a text's first word."""

    def decoded(ids: Sequence[int]) -> str:
        text: str = model.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    before, whole = decoded(prompt_ids), decoded([*prompt_ids, *tokens])
    return whole[len(before) :] if whole.startswith(before) else decoded(tokens)
