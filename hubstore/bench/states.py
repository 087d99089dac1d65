"""Made-up hidden states, drawn where they are used and the same for the same seed and device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hubstore.errors import OptionError
from hubstore.extraction.estimate import memory_available

RESULT_BYTES = 12
"""Of one result: a score or a probability, and what it is of."""

DRAWN = 1 << 26
"""Numbers drawn at once, in float32: what is made beyond the rows themselves stays small."""

LARGE_DIMENSIONS = 4
LARGE = 1000.0
LARGE_DEVIATION = 0.005

LANGUAGES = 3
"""In which `hub_states` has every concept."""


def require_memory(needed: int, device: torch.device) -> None:
    """OptionError where a device has less memory than a measurement takes at least, in bytes."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_available()
    if free is not None and needed > free:
        raise OptionError(
            f"these sizes take {needed / 1e9:.3g} GB of memory, and {free / 1e9:.3g} GB are free ({device}); ask for "
            "fewer rows, layers, states or results"
        )


def unit_states(rows: int, width: int, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    """[rows, width] rows of norm 1 in all directions: their cosines lie around 0, 1 / √width apart."""
    made = torch.empty(rows, width, dtype=dtype, device=device)
    for drawn, into in _draws(made, seed):
        into.copy_(normalize(drawn, dim=-1))
    return made


def near_parallel_states(rows: int, width: int, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    """[rows, width] rows as residual streams have them: a few dimensions a thousand times the others, nearly constant.

    All cosines then crowd near 1 and differ in the fourth digit or later.
    """
    made = torch.empty(rows, width, dtype=dtype, device=device)
    for drawn, into in _draws(made, seed):
        large = drawn[:, :LARGE_DIMENSIONS]
        large.mul_(LARGE_DEVIATION).add_(1.0).mul_(LARGE)
        into.copy_(drawn)
    return made


def hub_states(rows: int, width: int, seed: int = 0, near_parallel: bool = False) -> Tensor:
    """Float32 [rows, width] clustered as hidden states are: every third row is the same concept in another language.

    `near_parallel` moves all by a few huge dimensions, until the mean cosine is within 1e-5 of 1.
    """
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, width + 1) ** -0.5
    concepts = -(-rows // LANGUAGES)
    topics = rng.standard_normal((max(1, concepts // 25), width)) * spectrum
    meaning = topics[rng.integers(0, len(topics), concepts)] + rng.standard_normal((concepts, width)) * spectrum
    tongue = rng.standard_normal((LANGUAGES, width)) * spectrum * 0.7
    states = np.repeat(meaning, LANGUAGES, 0)[:rows] + np.tile(tongue, (concepts, 1))[:rows]
    states += rng.standard_normal((rows, width)) * spectrum * 0.6
    if near_parallel:
        offset = rng.standard_normal(width) * 5
        offset[width // 2] = 1000
        states += offset
    return torch.from_numpy(states).float()


def _draws(made: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Normal numbers for pieces of `made`, and those pieces."""
    generator = torch.Generator(made.device).manual_seed(seed)
    for into in torch.split(made, max(1, DRAWN // made.shape[1])):
        yield torch.randn(into.shape, generator=generator, device=made.device), into
