"""Activation patching: a state of one prompt in the place of another's, layer by layer, and what comes next then.

All tokens before the patched one are the same whatever is put in: they run once a prompt, and their keys and values are
handed to every row. A row is a prompt with a layer, and runs from the patched token on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from hubstore.checks import check_count
from hubstore.errors import NonFiniteError, SteeringError
from hubstore.forward import make_batch, tokenize
from hubstore.forward.members import batch_members
from hubstore.models import Model
from hubstore.steer.decoding import token_logits
from hubstore.steer.directions import check_layer, check_width, token_budget
from hubstore.steer.intervention import Intervention, steering
from hubstore.steer.prompts import prompt_tokens


@dataclass(frozen=True, eq=False)
class Patched:
    """What comes next after each prompt with a state put in at each layer.

    Args:
        layers: where states were put in.
        log_probabilities: float32 [prompts, layers, tokens] of the tokens that were asked for.
        top: int64 [prompts, layers, k], the most probable tokens.
        top_log_probabilities: float32 [prompts, layers, k], theirs.
    """

    layers: tuple[int, ...]
    log_probabilities: Tensor
    top: Tensor
    top_log_probabilities: Tensor


def place_after(model: Model, beginning: str, prompt: str) -> int | None:
    """Which token of the prompt is the last one of its beginning; None where a token reaches over that end."""
    (first, whole), _ = tokenize(model, [beginning, prompt], model.max_tokens)
    return len(first) - 1 if whole[: len(first)] == first else None


def patch(  # noqa: PLR0913
    model: Model,
    prompts: Sequence[str],
    states: Tensor,
    tokens: Sequence[int],
    *,
    layers: Sequence[int],
    places: Sequence[int] | None = None,
    onward: bool = False,
    k: int = 1,
    batch_tokens: int | None = None,
    restart: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Patched:
    """Put a state into each prompt, at each layer alone, and look tokens up after it.

    With prompts that have a concept translated, and states of other prompts that have another translated between other
    languages, this is the experiment of Dumas et al. (2024, arXiv 2411.08745).

    Args:
        model: a causal model with its head.
        prompts: n of them; the same one may be there many times, with other states.
        states: [n, layers, width], what is put into each at each layer, as from `last_states` or from a store.
        tokens: t token ids.
        layers: 0 is the embedding output, i the output of block i.
        places: which token of each prompt; negative ones count from its end. The last by default.
        onward: put in the states of all later layers in `layers` too, so that nothing of the prompt's own comes back
            at the patched token.
        k: most probable tokens to give.
        batch_tokens: of a batch, padding included; by default what suits the device.
        restart: run what is before the patched token once a prompt. Without it each row runs alone, as the reference.
        progress: called with rows done and rows in all, of which each prompt has one for each layer.

    Raises:
        ModelError: the model has no head, or a prompt no token.
        SteeringError: the states are not [n, layers, width], a layer or place that is not there, or a prompt that the
            context cuts.
        NonFiniteError: what is put in drives the states beyond the dtype.

    Example:
        >>> states = last_states(model, ['Deutsch: "Katze" - Italiano: "'], layers=range(19))
        >>> patch(model, ['Français: "livre" - English: "'], states, [cat, book], layers=range(19)).log_probabilities
    """
    _check(model, prompts, states, layers)
    most = model.require_head().vocabulary - 1
    looked_up = [check_count("a token", token, least=0, most=most, error=SteeringError) for token in tokens]
    k = check_count("k", k, most=most + 1, of="tokens", error=SteeringError)
    token_ids = prompt_tokens(model, prompts, 1)
    at = [-1] * len(prompts) if places is None else list(places)
    Intervention(states[:, 0], layers, positions=[[one] for one in at]).check_prompts([len(ids) for ids in token_ids])
    at = [place % len(ids) for place, ids in zip(at, token_ids, strict=True)]
    shape = len(prompts), len(layers)
    top = torch.empty(*shape, k, dtype=torch.int64)
    found = Patched(tuple(layers), torch.empty(*shape, len(looked_up)), top, torch.empty(*shape, k))
    budget = token_budget(model.device) if batch_tokens is None else batch_tokens
    done = 0
    for rows, which in _batches(token_ids, at, len(layers), budget):
        ids, put_in = [token_ids[row] for row in rows], [states[row] for row in rows]
        interventions = _interventions(torch.stack(put_in), layers, which, onward)
        with torch.inference_mode():
            final = _run(model, ids, [at[row] for row in rows], interventions, restart)
            logits = token_logits(model, final)
            total = logits.logsumexp(-1, keepdim=True)
            best = logits.topk(k)
        if not bool(torch.isfinite(total).all()):
            raise NonFiniteError(
                f"patched prompts such as {prompts[rows[0]][-60:]!r} have no finite probabilities: the states are "
                f"beyond {model.dtype}; load the model with dtype float32"
            )
        found.log_probabilities[rows, which] = (logits[:, looked_up] - total).cpu()
        found.top[rows, which] = best.indices.cpu()
        found.top_log_probabilities[rows, which] = (best.values - total).cpu()
        done += len(rows)
        if progress is not None:
            progress(done, len(prompts) * len(layers))
    return found


def _check(model: Model, prompts: Sequence[str], states: Tensor, layers: Sequence[int]) -> None:
    for layer in layers:
        check_layer(model, layer)
    if states.ndim != 3 or states.shape[:2] != (len(prompts), len(layers)) or not states.numel():
        raise SteeringError(
            f"states to put in are [prompts, layers, width], here [{len(prompts)}, {len(layers)}, {model.width}]; "
            f"these are {list(states.shape)}"
        )
    check_width(states, model)


def _interventions(states: Tensor, layers: Sequence[int], which: Sequence[int], onward: bool) -> list[Intervention]:
    """What is put into each row, whose layer is the `which`-th: of states [rows, layers, width]."""
    own = torch.tensor(which)
    chosen = [own <= place if onward else own == place for place in range(len(layers))]
    return [
        Intervention(states[:, place], [layer], "replace", at.float().tolist(), when="every step")
        for place, (layer, at) in enumerate(zip(layers, chosen, strict=True))
        if bool(at.any())
    ]


def _batches(
    token_ids: Sequence[Sequence[int]], at: Sequence[int], layers: int, budget: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts and the places of layers, row by row: those with as many tokens after the patched one, of like length."""
    after = np.array([len(ids) - place for ids, place in zip(token_ids, at, strict=True)])
    for number in np.unique(after).tolist():
        members = np.flatnonzero(after == number)
        lengths = np.repeat(np.array([len(token_ids[i]) for i in members.tolist()], np.int32), layers)
        for batch in batch_members(lengths, budget):
            yield members[batch // layers].tolist(), (batch % layers).tolist()


def _run(
    model: Model,
    token_ids: Sequence[Sequence[int]],
    at: Sequence[int],
    interventions: Sequence[Intervention],
    restart: bool,
) -> Tensor:
    """The last states after the final norm, [rows, width], of rows with as many tokens after the patched one."""
    before = [tuple(ids[:place]) for ids, place in zip(token_ids, at, strict=True)]
    if not (restart and all(before)):
        return _whole(model, token_ids, at, interventions)
    number = {ids: place for place, ids in enumerate(dict.fromkeys(before))}
    shared = DynamicCache(config=model.trunk.config)
    inputs = make_batch(model, list(number), "left", explicit_positions=True).inputs
    model.trunk(**inputs, past_key_values=shared, use_cache=True)
    if not all(isinstance(layer, DynamicLayer) for layer in shared.layers):
        return _whole(model, token_ids, at, interventions)  # its cache is not of tokens alone
    rows = torch.tensor([number[ids] for ids in before], device=model.device)
    cache, mask = _for_rows(shared, rows), inputs["attention_mask"][rows]
    rest = torch.tensor([ids[place:] for ids, place in zip(token_ids, at, strict=True)], device=model.device)
    for step, token in enumerate(rest.T):
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        arguments: dict[str, Any] = {"input_ids": token[:, None], "attention_mask": mask}
        if model.takes_position_ids:
            arguments["position_ids"] = mask.sum(1, keepdim=True) - 1
        with steering(model, () if step else interventions):
            output = model.trunk(**arguments, past_key_values=cache, use_cache=True)
    final: Tensor = output.last_hidden_state[:, -1]
    return final


def _whole(
    model: Model, token_ids: Sequence[Sequence[int]], at: Sequence[int], interventions: Sequence[Intervention]
) -> Tensor:
    """The same without a cache: every row runs whole."""
    inputs = make_batch(model, token_ids, "left", explicit_positions=True).inputs
    placed = [
        Intervention(one.vector, one.layers, one.kind, one.strength, [[place] for place in at]) for one in interventions
    ]
    with steering(model, placed):
        final: Tensor = model.trunk(**inputs, use_cache=False).last_hidden_state[:, -1]
    return final


def _for_rows(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """Keys and values of rows, int64 [n], of another cache, which stays as it is."""
    forked = copy.copy(cache)
    forked.layers = [copy.copy(layer) for layer in cache.layers]
    forked.batch_select_indices(rows)
    return forked
