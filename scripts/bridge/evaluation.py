"""What a trained bridge knows: recall@k between media and names, with chance and bootstrap intervals, layer by layer.

Images and audio are evaluated alike: states of a medium in a carrier against states of names in the same carrier.
Layers are numbered as hubstore does, but for the last: 0 is the embedding output, i the output of block i, and the last
entry that of the last block after the final norm.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

REPLICATES = 1000
TIE = 1e-6  # cosines closer than this are equal: the same name in another batch is no better answer


@dataclass(frozen=True)
class Carrier:
    """The text around a medium or a name: `before` + it + `after`; the last token of `after` is the one to read."""

    name: str
    before: str = ""
    after: str = ""


States = dict[str, Tensor]  # of each pooling: float32 [layers, items, width]


def text_states(
    model: torch.nn.Module, tokenizer: Any, names: Sequence[str], carrier: Carrier, batch: int = 256
) -> States:
    """States of names in a carrier: `last` token of all, and `mean` over the tokens of the name alone.

    Args:
        model: the trunk of a causal language model, given `input_ids` and `attention_mask`.
        tokenizer: with a BOS token; carrier and name are tokenized apart, so that carriers are equal everywhere.
        names: what the items are called.
        carrier: the text around them.
        batch: items in one forward.
    """
    rows, spans = [], []
    before = [tokenizer.bos_token_id, *ids_of(tokenizer, carrier.before)]
    after = ids_of(tokenizer, carrier.after)
    for ids in tokenizer(list(names), add_special_tokens=False).input_ids:
        rows.append(before + ids + after)
        spans.append((len(before), len(before) + len(ids)))
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    parts: list[States] = []
    for start in range(0, len(rows), batch):
        chosen = order[start : start + batch]
        width = max(len(rows[i]) for i in chosen)
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for j, i in enumerate(chosen):
            ids[j, : len(rows[i])] = torch.tensor(rows[i])
            mask[j, : len(rows[i])] = 1
        with torch.no_grad():
            hidden = model(
                input_ids=ids.to(device), attention_mask=mask.to(device), output_hidden_states=True, use_cache=False
            ).hidden_states
        parts.append(pooled(hidden, [spans[i] for i in chosen], [len(rows[i]) for i in chosen]))
    back = torch.tensor(np.argsort(order))
    return {pooling: torch.cat([part[pooling] for part in parts], 1)[:, back] for pooling in parts[0]}


def pooled(hidden: Sequence[Tensor], spans: Sequence[tuple[int, int]], lengths: Sequence[int]) -> States:
    """`last` state of each sequence and `mean` over its span, where the model is: [layers, items, width] each.

    Args:
        hidden: of each layer, [items, tokens, width], padded on the right.
        spans: first and one past the last token of what the mean is over.
        lengths: tokens of each item.
    """
    device = hidden[0].device
    place = torch.arange(hidden[0].shape[1], device=device)
    first, end = torch.tensor(spans, device=device).T
    inside = ((place >= first[:, None]) & (place < end[:, None])).float()
    ends = torch.tensor(lengths, device=device) - 1
    items = torch.arange(len(lengths), device=device)
    last = torch.stack([layer[items, ends].float() for layer in hidden])
    mean = torch.stack([torch.einsum("it,itw->iw", inside, layer.float()) for layer in hidden])
    return {"last": last, "mean": mean / inside.sum(1)[:, None]}


def ranks(queries: Tensor, candidates: Tensor, answers: Tensor, *, centered: bool) -> Tensor:
    """Where each query's answer stands by cosine, from 0: float64 [layers, queries].

    Candidates that are as near as the answer count half, so that equal states are no better than chance.

    Args:
        queries: [layers, queries, width].
        candidates: [layers, candidates, width].
        answers: int64 [queries], the candidate that is right.
        centered: each side's mean is removed first.
    """
    x, y = (
        F.normalize(side - side.mean(1, keepdim=True) if centered else side, dim=-1) for side in (queries, candidates)
    )
    cosines = x @ y.mT
    right = cosines.gather(2, answers.to(x.device).expand(len(x), -1)[:, :, None])
    nearer = (cosines > right + TIE).sum(2)
    equal = (cosines >= right - TIE).sum(2) - nearer - 1  # but for the answer itself
    return (nearer + equal / 2).double().cpu()


def rate(successes: Tensor, seed: int = 0) -> dict[str, float]:
    """The mean of booleans [n] with its 95 % percentile interval over resamples of the items."""
    return dict(_rate(int(successes.sum()), len(successes), seed))


@cache
def _rate(successes: int, n: int, seed: int) -> dict[str, float]:
    value = successes / n
    # A resample of n successes and failures is a binomial draw.
    resampled = np.random.default_rng([seed, n]).binomial(n, value, REPLICATES) / n
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4), "n": n}


def recall(found: Tensor, candidates: int, ks: Sequence[int] = (1, 10), seed: int = 0) -> list[dict[str, Any]]:
    """For each layer of `ranks`, recall at each k with chance and interval."""
    return [
        {f"recall@{k}": rate(row < k, seed) | {"chance": round(min(1.0, k / candidates), 4)} for k in ks}
        for row in found
    ]


def compare(queries: States, candidates: States, answers: Tensor) -> dict[str, list[dict[str, Any]]]:
    """`recall` by layer for each pooling, with means removed and not: "last centered", "last", "mean centered", ..."""
    return {
        f"{pooling}{' centered' if centered else ''}": recall(
            ranks(queries[pooling], candidates[pooling], answers, centered=centered), candidates[pooling].shape[1]
        )
        for pooling in queries
        for centered in (True, False)
    }


def best(comparison: Mapping[str, Sequence[Mapping[str, Any]]], k: int = 10) -> tuple[str, int, dict[str, float]]:
    """The pooling and layer of the highest recall@k; chosen on the same items, so only good for a progress line."""
    at = [(name, layer) for name, rows in comparison.items() for layer in range(len(rows))]
    name, layer = max(at, key=lambda place: comparison[place[0]][place[1]][f"recall@{k}"]["value"])
    return name, layer, dict(comparison[name][layer][f"recall@{k}"])


class Results:
    """A JSON file that is written whole after each result, so that a run that dies keeps what it found."""

    def __init__(self, path: Path, **provenance: Any) -> None:
        self._path = path
        self._found: dict[str, Any] = dict(provenance)
        self._write()

    def __setitem__(self, name: str, value: Any) -> None:
        self._found[name] = value
        self._write()

    def train(self, training: Any, clock: float) -> None:
        """Runs a training, and keeps its history, of one that fails too, and its seconds since `clock`."""
        try:
            training.run()
        finally:
            self["history"] = training.history
        self["seconds trained"] = round(time.time() - clock, 1)

    def attempt(self, name: str, evaluate: Callable[[], Any]) -> None:
        """Keeps what `evaluate` gives, or the error that it ends with: an evaluation must not lose the others."""
        try:
            self[name] = evaluate()
        except Exception as error:
            self[name] = {"error": repr(error)}
            print(f"{name}: {error!r}", flush=True)

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._found, ensure_ascii=False))
        partial.replace(self._path)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """A text's tokens, without the special ones."""
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids
