"""Lengths at which a model reads a sequence in another way, as its configuration names them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LENGTH_NAMES = re.compile(
    r"(^|_)(sliding_windows?|attention_window|attn_window|local_attention|window|chunk|block|local_radius|lookback"
    r"|original_max_position_embeddings|original_max_seq_len|original_max_length)(_size|_length|_len)?$"
)
"""Keys of a configuration whose values are such lengths, whatever family they are of."""


@dataclass(frozen=True)
class Borders:
    """Where a model changes.

    Args:
        lengths: ascending: items of at most so many tokens are read in one way, longer ones in another.
        varies_beyond: items of more tokens are read in a way that depends on the very length of their batch;
            None where there are none.
    """

    lengths: tuple[int, ...] = ()
    varies_beyond: int | None = None


def length_borders(config: Any) -> Borders:
    """The borders that a configuration of transformers names, at any depth: windows, chunks, blocks, rope.

    A key that changes nothing costs little: items of both sides go in batches of their own.
    """
    values = list(_values(config.to_dict() if hasattr(config, "to_dict") else dict(config)))
    named = {length for key, value in values if LENGTH_NAMES.search(key) for length in _lengths(value)}
    varies: list[int] = []
    if any(key in ("rope_type", "type") and "dynamic" in str(value) for key, value in values):
        varies += [length for key, value in values if key == "max_position_embeddings" for length in _lengths(value)]
    blocks = dict(values)
    if blocks.get("attention_type") == "block_sparse":  # BigBird attends in full up to here
        varies.append((5 + 2 * int(blocks.get("num_random_blocks", 0))) * int(blocks.get("block_size", 1)))
    return Borders(tuple(sorted(named | set(varies))), min(varies, default=None))


def _values(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _values({str(inner): of_inner for inner, of_inner in value.items()})
        yield str(key), value


def _lengths(value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        value = list(value.values())
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, int) and not isinstance(one, bool) and one > 1:
            yield one
