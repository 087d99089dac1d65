"""Patchscopes: a state is put into a prompt that repeats words, and the model itself says what it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
from torch import Tensor

from hubstore.errors import SteeringError
from hubstore.lens import Lens
from hubstore.models import Model
from hubstore.steer.patching import patch, place_after

IDENTITY = "cat->cat; 135->135; hello->hello; {state}"
"""Ghandeharioun et al. (2024), section 4.1: every word is followed by itself."""

PLACE, STAND_IN = "{state}", "?"

SCHEMA = pa.schema(
    [
        ("state", pa.int64()),
        ("layer", pa.string()),
        ("top_ids", pa.list_(pa.int32())),
        ("top_tokens", pa.list_(pa.string())),
        ("top_log_probabilities", pa.list_(pa.float32())),
        ("target_log_probabilities", pa.list_(pa.float32())),
    ]
)
"""A row for each state and layer, the states numbered; natural logarithms, targets in their order."""


def patchscope(  # noqa: PLR0913
    model: Model,
    states: Tensor,
    layers: Sequence[int],
    *,
    prompt: str = IDENTITY,
    into: int | None = None,
    targets: Sequence[str] = (),
    k: int = 5,
    batch_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Read states by what their own model says with each in a prompt (Ghandeharioun et al., 2024, arXiv 2401.06102).

    A lens that needs no map: the blocks above the layer translate. It reads what a lens cannot where states and
    unembedding are far apart, and, as any model, says what the prompt makes probable: read an empty state beside it.

    Args:
        model: a causal model with its head.
        states: [n, layers, width], stored ones (`store.hidden(layer).take(rows)`) or those of `last_states`.
        layers: what each is of: 0 is the embedding output, i the output of block i.
        prompt: where `{state}` stands for the state; the next token after the whole prompt is what is read.
        into: at which layer states are put in; each at its own by default.
        targets: words to look up, each one token, leading space and all.
        k: most probable tokens to give.
        batch_tokens: see `patch`.
        progress: see `patch`.

    Returns:
        A table of `SCHEMA`.

    Raises:
        ModelError: the model has no head.
        LensError: a target that is several tokens.
        SteeringError: the prompt has no place for a state, or several; and what `patch` refuses.

    Example:
        >>> store = hubstore.open("words.hub")
        >>> states = torch.stack([store.hidden(layer, "last").take([3]) for layer in (6, 9, 12)], 1)
        >>> patchscope(store.model, states, (6, 9, 12)).to_pylist()
    """
    places = prompt.count(PLACE)
    if places != 1:
        has = "no place for a state" if not places else f"{places} places for one state"
        raise SteeringError(f"the prompt {prompt!r} has {has}; write it with {PLACE} once")
    vocabulary = Lens.of_model(model).vocabulary
    text = prompt.replace(PLACE, STAND_IN)
    place = place_after(model, prompt[: prompt.index(PLACE)] + STAND_IN, text)
    if place is None:
        raise SteeringError(f"in {text!r} a token reaches over the end of {STAND_IN!r}; put a space after {PLACE}")
    found = patch(
        model,
        [text] * len(states),
        states,
        [vocabulary.token(target) for target in targets],
        layers=[*layers] if into is None else [into] * len(layers),
        places=[place] * len(states),
        k=k,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    rows = [
        {
            "state": number,
            "layer": str(layer),
            "top_ids": ids.tolist(),
            "top_tokens": vocabulary.texts(ids.tolist()),
            "top_log_probabilities": top.tolist(),
            "target_log_probabilities": looked_up.tolist(),
        }
        for number, of_state in enumerate(
            zip(found.top, found.top_log_probabilities, found.log_probabilities, strict=True)
        )
        for layer, ids, top, looked_up in zip(layers, *of_state, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
