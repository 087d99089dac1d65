"""What a model goes on with when a direction is added to its states, over strengths, and where that is clearest.

A direction that does nothing but disturb the model also changes what it says. So each experiment on steering has a
control: another direction of the same length, at the same place, with the same strengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hubstore.experiments.claims import reading
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.result import Result, Row, make_table
from hubstore.experiments.significance import BestLayer, Floats, Ints, best_layer, mean_rows
from hubstore.models import Model
from hubstore.plots.experiment import Plot
from hubstore.steer import Continuation, Decoding, Intervention, generate, perplexity
from hubstore.steer.intervention import Positions

PAPER_DEPTH = 32
"""Blocks of the paper's models."""

COLUMNS = {"strength": pa.float64()}
"""Further column of these experiments' tables."""

EXAMPLES = 2
ACROSS = ("strength", "strength")
"""Column and label of a plot over strengths."""

RANDOM = "random directions"
PERPLEXITY = "log-perplexity"

Condition = tuple[str, float]
"""The name of a direction, and a strength."""

UNSTEERED: Condition = ("", 0.0)
"""The condition without a direction, which is the same for all of them."""

Continued = Mapping[Condition, Sequence[Continuation]]


def as_deep_as(layer: int, model: Model) -> int:
    """The layer that is as deep in a model as `layer` is in the paper's 32 blocks."""
    return min(max(round(layer / PAPER_DEPTH * model.depth), 1), model.depth)


def condition(name: str, strength: float) -> Condition:
    """A direction with a strength, of which 0 is unsteered."""
    return (name, strength) if strength else UNSTEERED


def conditions(names: Iterable[str], strengths: Sequence[float]) -> list[Condition]:
    """Every named direction with every strength."""
    return [(name, strength) for name in names for strength in strengths]


def continue_prompts(
    context: ExperimentContext,
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
        context: whose model it is.
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
    model = context.language_model
    cells = [(n, one) for n in range(len(prompts)) for one in chosen]
    each = {name: vector.expand(len(prompts), -1) for name, vector in directions.items()}
    vectors = [torch.zeros(model.width) if one == UNSTEERED else each[one[0]][n] for n, one in cells]
    found = generate(
        model,
        [prompts[n] for n, _ in cells],
        [Intervention(torch.stack(vectors), [layer], strength=[s for _, (_, s) in cells], positions=positions)],
        decoding=decoding,
        seeds=None if seeds is None else [seeds[n] for n, _ in cells],
        progress=lambda done, total: context.progress(f"steering layer {layer}", done, total),
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


def shares(holds: Iterable[bool]) -> Floats:
    """float64 [n], 1 where something holds."""
    return np.array(list(holds), np.float64)


def strength_rows(
    context: ExperimentContext,
    layer: str,
    strengths: Iterable[float],
    values: Callable[[float], Mapping[str, Floats]],
    groups: Ints | None = None,
) -> list[Row]:
    """Rows of means at each strength; see `mean_rows`."""
    return [
        {**row, "strength": strength}
        for strength in strengths
        for row in mean_rows(layer, values(strength), context.resampling, groups)
    ]


def fluency_rows(
    context: ExperimentContext,
    layer: str,
    continued: Continued,
    names: Iterable[str],
    strengths: Iterable[float],
    groups: Ints | None = None,
) -> list[Row]:
    """How improbable the unsteered model finds what was written, by direction and strength; empty texts are left out.

    A success in text that no model would write says that the model is broken, not that it is steered.
    """
    rows: list[Row] = []
    for strength in strengths:
        for name in names:
            found = continued[condition(name, strength)]
            values = perplexity(context.language_model, [one.prompt for one in found], [one.text for one in found])
            rows += known_rows(context, layer, f"{PERPLEXITY}, {name}", np.log(values), strength, groups)
    return rows


def known_rows(
    context: ExperimentContext, layer: str, quantity: str, values: Floats, strength: float, groups: Ints | None = None
) -> list[Row]:
    """The row of a mean at a strength over the values that are numbers; none where no value is."""
    known = np.isfinite(values)
    if not known.any():
        return []
    found = mean_rows(layer, {quantity: values[known]}, context.resampling, None if groups is None else groups[known])
    return [{**row, "strength": strength} for row in found]


def as_long_as(directions: Tensor, others: Tensor) -> Tensor:
    """Directions [..., width] of the lengths of others, so that a dose of either is the same."""
    scaled: Tensor = directions * (others.norm(dim=-1, keepdim=True) / directions.norm(dim=-1, keepdim=True))
    return scaled


def clearest(rows: Sequence[Row], quantities: Sequence[str]) -> BestLayer:
    """The layer and strength where some leads are all most clearly above zero, corrected for having picked them."""
    placed = [{**row, "layer": f"{row['layer']}, strength {row['strength']:g}"} for row in rows]
    return best_layer(placed, quantities, list(dict.fromkeys(row["layer"] for row in placed)))


def steering_result(
    rows: Sequence[Row],
    headlines: Sequence[str],
    plots: Sequence[Plot],
    notes: Sequence[str],
    columns: Mapping[str, pa.DataType] = COLUMNS,
    *,
    by_layer: bool = False,
) -> Result:
    """The result of a claim that is shown where all headlines are above zero at one layer and strength.

    Args:
        rows: each with its strength.
        headlines: quantities.
        plots: of the table.
        notes: of the result; one that repeats another is left out.
        columns: further ones of the table.
        by_layer: whether the table's quantities, as those of the plots, have their layer in their names.
    """
    best = clearest(rows, headlines)
    named = [{**row, "quantity": at_layer(row["quantity"], row["layer"])} for row in rows] if by_layer else rows
    table = make_table(named, columns)
    return Result.of([reading("", best)], best.n, table, plots, tuple(dict.fromkeys(notes)))


def at_layer(quantity: str, layer: str) -> str:
    """The name of a quantity at a layer."""
    return f"{quantity}, layer {layer}"


def examples(continued: Continued, names: Sequence[str], of: str = "") -> tuple[str, ...]:
    """Notes that show the first prompts' continuations, unsteered and under the named directions.

    Args:
        continued: what came of the conditions.
        names: of directions.
        of: what the prompts are, where there are several kinds: "es: ".
    """
    return tuple(
        f"{of}{name or 'unsteered'}{f', strength {strength:g}' if name else ''}: "
        + "; ".join(f"…{one.prompt[-24:]!r} -> {one.text!r}" for one in found[:EXAMPLES])
        for (name, strength), found in continued.items()
        if name in ("", *names)
    )
