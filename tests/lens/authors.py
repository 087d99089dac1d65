"""What the paper's released code computes for its logit lens on text, said again plainly, as an oracle.

One text at a time: the states that transformers gives, without the embeddings, so that the last is after the final norm
and all others before it; times the unembedding, without the norm; a softmax over the vocabulary (Wu et al., 2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hubstore.models import Model


def states(model: Model, text: str) -> Tensor:
    """[layers, tokens, width] of a text without its BOS, from its own pass through the model."""
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"].to(model.device)
    with torch.inference_mode():
        hidden = model.trunk(input_ids=ids, output_hidden_states=True).hidden_states[1:]
    special = int(ids[0, 0] == model.tokenizer.bos_token_id)
    return torch.stack(hidden)[:, 0, special:]


def log_probabilities(
    model: Model, text: str, dtype: torch.dtype = torch.float32, places: slice = slice(None)
) -> Iterator[Tensor]:
    """[tokens, vocabulary] of each layer, at all places of the text or at some."""
    unembedding = model.require_head().unembedding.to(dtype)
    for hidden in states(model, text)[:, places]:
        yield (hidden.to(dtype) @ unembedding.T).log_softmax(-1)


def word_against_glosses(model: Model, text: str, place: int, word: int, glosses: Sequence[int]) -> Tensor:
    """[layers, 2]: log-probability of a word at a place of a text, and the greatest of its translations'."""
    found = [layer[0] for layer in log_probabilities(model, text, torch.float64, slice(place, place + 1))]
    return torch.stack([torch.stack([layer[word], layer[list(glosses)].max()]) for layer in found])


def counted(texts: Sequence[tuple[str, Sequence[int]]], vocabulary: int) -> Tensor:
    """[vocabulary, languages]: p(language given token), languages in the order in which they are met.

    p(token given language) / Σ over the languages of it, as all languages are as probable before; a token that is never
    seen is of all of them alike.
    """
    languages = list(dict.fromkeys(language for language, _ in texts))
    table = torch.zeros(vocabulary, len(languages), dtype=torch.float64)
    for language, tokens in texts:
        for token in tokens:
            table[token, languages.index(language)] += 1
    table = table / table.sum(0)
    seen = table.sum(1) > 0
    table[seen] = table[seen] / table[seen].sum(1, keepdim=True)
    table[~seen] = 1 / len(languages)
    return table


def trends(model: Model, texts: Sequence[str], token_languages: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[layers, languages]: the mean over all tokens of softmax @ p(language given token)."""
    given = token_languages.to(dtype)
    masses = [
        torch.stack([(layer.exp() @ given).sum(0) for layer in log_probabilities(model, t, dtype)]) for t in texts
    ]
    tokens = sum(states(model, text).shape[1] for text in texts)
    return torch.stack(masses).sum(0) / tokens
