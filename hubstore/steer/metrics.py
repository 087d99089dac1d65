"""What continuations are: successes by a rule, how probable, how near to their prompt."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubstore.errors import SteeringError
from hubstore.forward import Capture, make_batch, tokenize
from hubstore.forward.members import batch_members, padded_batching
from hubstore.kernels import paired_cosine
from hubstore.lens import Lens
from hubstore.models import Model
from hubstore.steer.directions import token_budget


@dataclass(frozen=True)
class Proportion:
    """How many of n texts are successes, with a Wilson interval.

    Args:
        value: the share.
        low: of the interval.
        high: of the interval.
        n: texts.
    """

    value: float
    low: float
    high: float
    n: int


def success_share(
    texts: Sequence[str], rule: str | re.Pattern[str] | Callable[[str], bool], level: float = 0.95
) -> Proportion:
    """The share of texts that a rule accepts.

    The interval is Wilson's score interval (Wilson, JASA 22, 1927), which holds for shares near 0 and 1 too.

    Args:
        texts: one at least.
        rule: a regular expression that is to be found in the text, or a function of the text.
        level: how often the interval should cover.

    Raises:
        SteeringError: no text, or an expression that is none.
    """
    if not texts:
        raise SteeringError("there is no text to judge; give one at least")
    holds = rule if callable(rule) else _expression(rule).search
    n, successes = len(texts), sum(bool(holds(text)) for text in texts)
    z, share = NormalDist().inv_cdf((1 + level) / 2), successes / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Proportion(share, max(0.0, center - reach), min(1.0, center + reach), n)


def _expression(rule: str | re.Pattern[str]) -> re.Pattern[str]:
    try:
        return re.compile(rule)
    except re.error as error:
        raise SteeringError(f"{rule!r} is no regular expression: {error}") from error


def perplexity(model: Model, prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
    """exp(-mean log-probability) of each continuation's tokens, given its prompt.

    Prompt and continuation are tokenized together; the continuation's tokens are those after what that shares with
    the prompt alone, so that a token that reaches over the end of the prompt counts with the continuation.

    Args:
        model: a causal model with its head: the one that was steered, or better another.
        prompts: one for each continuation.
        continuations: texts.

    Returns:
        A number for each; NaN for a continuation without a token.

    Raises:
        ModelError: the model has no head, or a prompt no token.
        SteeringError: not as many prompts as continuations, or a text that the model's context cuts.
    """
    _same_number(prompts, continuations)
    lens = Lens.of_model(model)
    whole = [prompt + continuation for prompt, continuation in zip(prompts, continuations, strict=True)]
    ids, cut = tokenize(model, whole, model.max_tokens)
    if any(cut):
        raise SteeringError(
            f"{whole[cut.index(True)][:60]!r} is longer than the {model.max_tokens} tokens of {model.identity['id']}; "
            "take shorter continuations, or a model with a longer context"
        )
    alone, _ = tokenize(model, prompts, model.max_tokens)
    starts = [_shared(prompt, both) for prompt, both in zip(alone, ids, strict=True)]
    found = np.full(len(ids), np.nan)
    for members in batch_members(_lengths(ids), token_budget(model.device), padded_batching(model)):
        batch = make_batch(model, [ids[i] for i in members])
        with torch.inference_mode():
            final = model.trunk(**batch.inputs, use_cache=False).last_hidden_state
        counts = [len(ids[i]) - starts[i] for i in members]
        rows = [row for row, count in enumerate(counts) for _ in range(count)]
        places = [place - 1 for i in members for place in range(starts[i], len(ids[i]))]
        targets = torch.tensor([token for i in members for token in ids[i][starts[i] :]], dtype=torch.int64)
        if not rows:
            continue
        swept = lens.sweep(final[rows, places], variant="final", targets=targets[:, None], ranks=False)
        log_probabilities = torch.split(swept.target_log_probabilities[:, 0].cpu(), counts)
        found[members] = [
            math.exp(-float(part.double().mean())) if len(part) else math.nan for part in log_probabilities
        ]
    return [float(value) for value in found]


def relevance(
    embedder: Model, prompts: Sequence[str], continuations: Sequence[str], template: str = "{text}"
) -> list[float]:
    """Cosine of each prompt and its continuation, mean-pooled under an embedding model.

    Args:
        embedder: an embedding model, such as multilingual-e5-small.
        prompts: one for each continuation.
        continuations: texts.
        template: what the model wants around a text, as "query: {text}".

    Returns:
        A number for each; NaN for a continuation without a token.

    Raises:
        SteeringError: not as many prompts as continuations, or a template without {text}.
    """
    _same_number(prompts, continuations)
    if "{text}" not in template:
        raise SteeringError(f"the template {template!r} has no place for the text; write it with {{text}}")
    texts = list(dict.fromkeys([*prompts, *continuations]))
    kept = [text for text in texts if text.strip()]
    vectors = dict(zip(kept, _embed(embedder, [template.replace("{text}", text) for text in kept]), strict=True))
    pairs = [(p, c) for p, c in zip(prompts, continuations, strict=True) if p in vectors and c in vectors]
    found = dict.fromkeys(pairs, math.nan)
    if pairs:
        x, y = (torch.stack([vectors[pair[side]] for pair in pairs]) for side in (0, 1))
        found = dict(zip(pairs, paired_cosine(x, y).cosines.tolist(), strict=True))
    return [found.get(pair, math.nan) for pair in zip(prompts, continuations, strict=True)]


def _embed(model: Model, texts: Sequence[str]) -> Tensor:
    """float32 [texts, width], means over tokens after the final norm."""
    ids, _ = tokenize(model, texts, model.max_tokens) if texts else ([], [])
    capture = Capture(model, ["final"], ["mean"], torch.float32)
    vectors = torch.empty(len(ids), model.width)
    for members in batch_members(_lengths(ids), token_budget(model.device), padded_batching(model)):
        vectors[torch.from_numpy(members)] = capture.run(make_batch(model, [ids[i] for i in members]))["mean"][0].cpu()
    return vectors


def _shared(prompt: Sequence[int], both: Sequence[int]) -> int:
    """Tokens that both begin with; one at least, since a first token follows nothing."""
    same = (i for i, (x, y) in enumerate(zip(prompt, both, strict=False)) if x != y)
    return max(next(same, min(len(prompt), len(both))), 1)


def _lengths(token_ids: Sequence[Sequence[int]]) -> Any:
    return np.array([len(ids) for ids in token_ids], np.int32)


def _same_number(prompts: Sequence[str], continuations: Sequence[str]) -> None:
    if len(prompts) != len(continuations):
        raise SteeringError(f"there are {len(prompts)} prompts for {len(continuations)} continuations; give each one")
