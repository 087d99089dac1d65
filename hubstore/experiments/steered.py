"""Continuations under several directions and strengths, and where what they lead by is clearest.

A direction that does nothing but disturb the model also changes what it says. So each experiment on steering has a
control: another direction of the same length, at the same place, with the same strengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import torch
from torch import Tensor

from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Row
from hubstore.experiments.verdict import Peak, peak
from hubstore.models import Model
from hubstore.steer import Continuation, Decoding, Intervention, generate
from hubstore.steer.intervention import Positions

PAPER_DEPTH = 32
"""Blocks of the paper's models."""

UNSTEERED = ("", 0.0)
"""The condition without a direction, which is the same for all of them."""

COLUMNS = {"strength": pa.float64()}
"""Further column of these experiments' tables."""

EXAMPLES = 2

Condition = tuple[str, float]
"""The name of a direction, and a strength."""

Continued = Mapping[Condition, Sequence[Continuation]]


def as_deep_as(layer: int, model: Model) -> int:
    """The layer that is as deep in a model as `layer` is in the paper's 32 blocks."""
    return min(max(round(layer / PAPER_DEPTH * model.depth), 1), model.depth)


def conditions(names: Iterable[str], strengths: Sequence[float]) -> list[Condition]:
    """Every named direction with every strength."""
    return [(name, strength) for name in names for strength in strengths]


def continue_prompts(
    lab: Lab,
    prompts: Sequence[str],
    layer: int,
    directions: Mapping[str, Tensor],
    chosen: Sequence[Condition],
    decoding: Decoding,
    positions: Positions = "last",
    seeds: Sequence[int] | None = None,
) -> dict[Condition, list[Continuation]]:
    """Continue every prompt under every condition; the blocks below the layer run once a prompt.

    Args:
        lab: whose model it is.
        prompts: n of them.
        layer: where the directions are added: the output of that block.
        directions: each [width], or [n, width] with one for each prompt.
        chosen: directions by name, with strengths; `UNSTEERED` needs no direction.
        decoding: how tokens are chosen.
        positions: see `Intervention`.
        seeds: of each prompt's draws, which are the same under every condition.

    Returns:
        For each condition a continuation of every prompt.
    """
    cells = [(n, one) for n in range(len(prompts)) for one in chosen]
    vectors = [_vector(lab, directions, name, n) for n, (name, _) in cells]
    found = generate(
        lab.language_model,
        [prompts[n] for n, _ in cells],
        [Intervention(torch.stack(vectors), [layer], strength=[s for _, (_, s) in cells], positions=positions)],
        decoding=decoding,
        seeds=None if seeds is None else [seeds[n] for n, _ in cells],
        progress=lambda done, total: lab.progress(f"steering layer {layer}", done, total),
    )
    by_condition: dict[Condition, list[Continuation]] = {one: [] for one in chosen}
    for (_, one), continuation in zip(cells, found, strict=True):
        by_condition[one].append(continuation)
    return by_condition


def random_directions(like: Tensor, count: int, seed: int) -> Tensor:
    """Directions drawn evenly from all those as long as `like`, one for each prompt: float32 [count, width]."""
    drawn = torch.randn(count, len(like), generator=torch.Generator().manual_seed(seed))
    scaled: Tensor = drawn * (like.norm() / drawn.norm(dim=1, keepdim=True))
    return scaled


def clearest(rows: Sequence[Row], quantities: Sequence[str]) -> Peak:
    """The layer and strength where some leads are all most clearly above zero, corrected for having picked them."""
    placed = [{**row, "layer": f"{row['layer']}, strength {row['strength']:g}"} for row in rows]
    return peak(placed, quantities, list(dict.fromkeys(row["layer"] for row in placed)))


def headline(best: Peak) -> str:
    """What leads by how much, and where."""
    found = "; ".join(f"{r['quantity']} {r['value']:.3g} [{r['low']:.3g}, {r['high']:.3g}]" for r in best.rows)
    return f"{found} at layer {best.rows[0]['layer']}, n = {best.n:,}"


def examples(continued: Continued, of: str = "") -> tuple[str, ...]:
    """Notes that show the first prompts' continuations under each condition.

    Args:
        continued: what came of the conditions.
        of: what the prompts are, where there are several kinds: "es: ".
    """
    return tuple(
        f"{of}{name or 'unsteered'}{f', strength {strength:g}' if name else ''}: "
        + "; ".join(f"…{one.prompt[-24:]!r} -> {one.text!r}" for one in found[:EXAMPLES])
        for (name, strength), found in continued.items()
    )


def _vector(lab: Lab, directions: Mapping[str, Tensor], name: str, prompt: int) -> Tensor:
    if (name, 0.0) == UNSTEERED:
        return torch.zeros(lab.language_model.width)
    direction = directions[name]
    return direction[prompt] if direction.ndim == 2 else direction
