"""Sweeps: every strength over every prompt and seed, in one table that says how it was made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import pyarrow as pa
from torch import Tensor

from hubstore.errors import SteeringError
from hubstore.models import Model
from hubstore.steer.decoding import Decoding
from hubstore.steer.directions import Direction
from hubstore.steer.generation import Continuation, generate
from hubstore.steer.intervention import Intervention, Kind, Positions, When
from hubstore.steer.prompts import MediaPrompt, Prompt
from hubstore.store.result import METADATA
from hubstore.version import __version__

FIELDS = [
    pa.field("prompt", pa.string()),
    pa.field("strength", pa.float64()),
    pa.field("seed", pa.int64()),
    pa.field("text", pa.string()),
    pa.field("tokens", pa.list_(pa.int64())),
    pa.field("log_probabilities", pa.list_(pa.float64())),
    pa.field("log_probability", pa.float64()),
    pa.field("is_complete", pa.bool_()),
]


def sweep(  # noqa: PLR0913
    model: Model,
    direction: Direction | Tensor,
    prompts: Sequence[Prompt],
    strengths: Sequence[float],
    layers: Sequence[int],
    *,
    kind: Kind = "add",
    positions: Positions = "all",
    when: When = "prompt",
    seeds: Sequence[int] = (0,),
    decoding: Decoding | None = None,
    batch_tokens: int | None = None,
    restart: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Continue every prompt under every strength and seed; the blocks below the intervention run once a prompt.

    Args:
        model: a causal model with its head.
        direction: of all prompts; or a tensor [prompts, width], one for each.
        prompts: texts, and images or audio clips with text around them; see `generate`.
        strengths: 0 among them is the model as it is.
        layers: see `Intervention`.
        kind: see `Intervention`.
        positions: see `Intervention`; a list for each prompt where it is one for each row.
        when: see `Intervention`.
        seeds: the same draws meet a prompt under every strength. One only where decoding is greedy.
        decoding: see `generate`.
        batch_tokens: see `generate`.
        restart: see `generate`.
        progress: called with continuations done and continuations in all.

    Returns:
        A row for each prompt, strength and seed, in that order: `prompt`, `strength`, `seed`, `text`, `tokens`,
        `log_probabilities` (of the tokens), `log_probability` (of all of them) and `is_complete`. How it was made, as
        JSON, is the schema's metadata under b"hubstore"; `hubstore.analysis.metadata` reads it.

    Raises:
        SteeringError: no prompt, strength or seed, several seeds under greedy decoding, or what `generate` refuses.
    """
    decoding = decoding or Decoding()
    for name, values in (("prompt", prompts), ("strength", strengths), ("seed", seeds)):
        if not values:
            raise SteeringError(f"a sweep without a {name} has no row; give one at least")
    if not decoding.temperature and len(seeds) > 1:
        raise SteeringError("greedy decoding draws nothing: give one seed, or a temperature above 0")
    cells = list(product(range(len(prompts)), strengths, seeds))
    of_prompts = Intervention(direction, layers, kind, positions=positions, when=when)
    of_prompts.check_rows(len(prompts))
    of_rows = of_prompts.for_rows([prompt for prompt, _, _ in cells])
    intervention = Intervention(
        of_rows.direction, layers, kind, [strength for _, strength, _ in cells], of_rows.positions, when
    )
    found = generate(
        model,
        [prompts[prompt] for prompt, _, _ in cells],
        [intervention],
        decoding=decoding,
        seeds=[seed for _, _, seed in cells],
        batch_tokens=batch_tokens,
        restart=restart,
        progress=progress,
    )
    provenance = {
        "steering": {"kind": kind, "layers": list(layers), "positions": _plain(positions), "when": when},
        "direction": dict(direction.provenance) if isinstance(direction, Direction) else None,
        "media": {one.shown: one.digest for one in prompts if isinstance(one, MediaPrompt)},
        "strengths": list(strengths),
        "seeds": list(seeds),
        "decoding": asdict(decoding),
        "model": dict(model.identity),
        "version": __version__,
    }
    return _table(found, [strength for _, strength, _ in cells], provenance)


def _table(found: Sequence[Continuation], strengths: Sequence[float], provenance: dict[str, Any]) -> pa.Table:
    rows = [
        {
            "prompt": one.prompt,
            "strength": strength,
            "seed": one.seed,
            "text": one.text,
            "tokens": one.token_ids,
            "log_probabilities": one.log_probabilities,
            "log_probability": one.log_probability,
            "is_complete": one.is_complete,
        }
        for one, strength in zip(found, strengths, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(FIELDS, metadata={METADATA: json.dumps(provenance).encode()}))


def _plain(positions: Any) -> Any:
    """Positions as JSON has them: a slice is [start, stop, step]."""
    if isinstance(positions, slice):
        return [positions.start, positions.stop, positions.step]
    if isinstance(positions, (str, int)):
        return positions
    return [_plain(position) for position in positions]
