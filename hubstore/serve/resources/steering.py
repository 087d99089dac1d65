"""What a model says after a prompt, as it is and steered along a direction; nothing of it is kept in the store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field, FiniteFloat
from starlette.responses import Response

from hubstore.errors import QueryError
from hubstore.serve.context import TABLE, Context, Name, Params, Words
from hubstore.serve.http_errors import NeedsModelError, TooLargeError
from hubstore.serve.resources.lens import typed_tokens

if TYPE_CHECKING:
    import pyarrow as pa

    from hubstore.models import Model
    from hubstore.serve.limits import Limits
    from hubstore.serve.snapshot import Snapshot
    from hubstore.steer import Direction

router = APIRouter(prefix="/api/v1/stores/{store}/steer", tags=["steering"])

Side = Annotated[tuple[Words, ...], Field(min_length=1, max_length=64)]


class SteerQuery(Params):
    """What to go on from and how to steer it: the direction is from texts to texts, or from a partition to another."""

    prompts: tuple[Words, ...] = Field(min_length=1, max_length=16)
    from_texts: Side | None = Field(None, description="Steer away from the mean state of their last tokens.")
    to_texts: Side | None = Field(None, description="... toward that of these.")
    from_partition: Name | None = Field(None, description="Steer away from the mean of this partition's stored states.")
    to_partition: Name | None = Field(None, description="... toward that of this one.")
    layer: int = Field(ge=0, le=10_000, description="0 is the embedding output, i the output of block i.")
    strengths: tuple[FiniteFloat, ...] = Field(
        (0.0, 1.0), min_length=1, max_length=16, description="Multiples of the direction; 0 is the model as it is."
    )
    kind: Literal["add", "replace", "project"] = "add"
    every_step: bool = Field(False, description="Steer every token after the prompt too.")
    max_new_tokens: int = Field(32, ge=1, le=1024)
    temperature: float = Field(0.0, ge=0, le=100, description="0 takes the most probable token.")
    seed: int = Field(0, ge=0, le=2**32 - 1)


@router.post("", responses=TABLE)
async def steer(context: Context, query: SteerQuery) -> Response:
    """Continuations of every prompt under every strength; `about.scale` says how long the direction and a state are.

    Needs the server's model, and that it says words.
    """
    snapshot, service = context.snapshot, context.service
    if not service.encoders.available:
        raise NeedsModelError("steering needs the store's model; start the server with --model")
    _check_sides(query)

    def answer() -> Any:
        between = _between_partitions(snapshot, query)  # of all their rows, while others may use the model
        with service.encoders.generator(snapshot) as model:
            _check_size(model, query, service.limits)
            return _steered(model, query, between)

    return await context.computed("steer", tuple(query.options().items()), answer)


def _check_sides(query: SteerQuery) -> None:
    sides = {
        "texts": (query.from_texts, query.to_texts),
        "partition": (query.from_partition, query.to_partition),
    }
    given = [name for name, both in sides.items() if any(side is not None for side in both)]
    if len(given) != 1:
        raise QueryError("give one direction: from_texts and to_texts, or from_partition and to_partition")
    if None in sides[given[0]]:
        raise QueryError(f"a direction has two sides; give both from_{given[0]} and to_{given[0]}")


def _check_size(model: Model, query: SteerQuery, limits: Limits) -> None:
    """TooLargeError for more tokens to read or to say than the server takes on."""
    limits.check_typed(typed_tokens(model, [*query.prompts, *(query.from_texts or ()), *(query.to_texts or ())]))
    said = len(query.prompts) * len(query.strengths) * query.max_new_tokens
    if said > limits.new_tokens:
        raise TooLargeError(
            f"{len(query.prompts)} prompts, {len(query.strengths)} strengths and {query.max_new_tokens} tokens are "
            f"{said:,} new tokens, and this server's model says {limits.new_tokens:,} at once; ask for fewer"
        )


def _between_partitions(snapshot: Snapshot, query: SteerQuery) -> Direction | None:
    from hubstore.steer import difference_of_partitions

    if query.to_partition is None or query.from_partition is None:
        return None
    return difference_of_partitions(snapshot, query.to_partition, query.from_partition, query.layer)


def _steered(model: Model, query: SteerQuery, between: Direction | None) -> pa.Table:
    from hubstore import steer as library

    direction = between
    if direction is None:
        assert query.to_texts is not None
        assert query.from_texts is not None
        direction = library.difference_of_texts(model, query.to_texts, query.from_texts, query.layer)
    # The mean length of what is steered: the states of the prompts' last tokens.
    length = float(library.last_states(model, query.prompts, [query.layer]).norm(dim=-1).mean())
    found = library.sweep(
        model,
        direction,
        query.prompts,
        query.strengths,
        [query.layer],
        kind=query.kind,
        when="every step" if query.every_step else "prompt",
        seeds=[query.seed],
        decoding=library.Decoding(query.max_new_tokens, query.temperature),
    )
    metadata = {key: value for key, value in (found.schema.metadata or {}).items() if key != b"hubstore"}
    provenance = json.loads(found.schema.metadata[b"hubstore"])
    provenance["scale"] = {"direction": direction.norm, "state": length}
    return found.replace_schema_metadata({**metadata, b"hubstore": json.dumps(provenance).encode()})
