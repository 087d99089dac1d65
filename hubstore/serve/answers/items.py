"""Items: found by text, language and concept, one by one, and their previews, files and states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.arrow import rows_as_lists
from hubstore.corpus import Media
from hubstore.errors import CorpusError
from hubstore.index import Allowed
from hubstore.media.decode import media_bytes, open_image, open_sound
from hubstore.media.previews import mime_of
from hubstore.serve.answers.about import file_names
from hubstore.serve.failures import NotThereError, TooLargeError
from hubstore.serve.limits import MIB
from hubstore.serve.snapshot import Snapshot
from hubstore.store.partition import Positions

COLUMNS = ("id", "concept", "language", "modality", "text", "media", "tokens", "truncated")
EQUIVALENTS = 200
RATE = 16_000


@dataclass(frozen=True)
class Wanted:
    """Which items; None and "" are no restriction.

    Args:
        q: a part of the text or the id, in any case.
        languages, modalities, concepts, partitions: any of them.
    """

    q: str = ""
    languages: tuple[str, ...] | None = None
    modalities: tuple[str, ...] | None = None
    concepts: tuple[str, ...] | None = None
    partitions: tuple[str, ...] | None = None

    def positions(self, snapshot: Snapshot) -> Positions:
        """int64, ascending; NotThereError for a partition that is not there."""
        named = None if self.partitions is None else [snapshot.partition(name).name for name in self.partitions]
        kept = [
            part
            for part in snapshot.partitions.values()
            if (named is None or part.name in named)
            and (self.languages is None or part.language in self.languages)
            and (self.modalities is None or part.modality in self.modalities)
        ]
        found = Allowed.from_ranges([bounds for part in kept for bounds in part.ranges]).positions()
        if self.concepts is not None:
            chosen = pc.is_in(snapshot.items["concept"], value_set=pa.array(self.concepts, pa.string()))
            found = found[_bools(chosen)[found]]
        if self.q:
            found = found[self._named(snapshot)[found]]
        return found

    def _named(self, snapshot: Snapshot) -> npt.NDArray[np.bool_]:
        texts, ids = (pc.match_substring(snapshot.items[name], self.q, ignore_case=True) for name in ("text", "id"))
        return _bools(texts) | _bools(ids)


def page(snapshot: Snapshot, wanted: Wanted, offset: int, limit: int) -> tuple[pa.Table, dict[str, Any]]:
    """Items `offset` to `offset + limit` of those wanted, and how many there are."""
    found = snapshot.kept(wanted, lambda: wanted.positions(snapshot).astype(np.uint32))
    shown = found[offset : offset + limit].astype(np.int64)
    return table_of(snapshot, shown), {"total": len(found), "offset": offset, "limit": limit}


def table_of(snapshot: Snapshot, positions: Positions) -> pa.Table:
    """The items at `positions`, with their previews' being and their positions."""
    table = snapshot.items.select(list(COLUMNS)).take(pa.array(positions))
    table = table.set_column(COLUMNS.index("media"), "media", file_names(table["media"]))
    table = table.append_column("preview", pa.array(previews(snapshot, positions)))
    return table.append_column("position", pa.array(positions))


def previews(snapshot: Snapshot, positions: Positions) -> npt.NDArray[np.bool_]:
    """bool [positions]: whether there is a preview."""
    if not snapshot.keeps_previews:
        return np.zeros(len(positions), np.bool_)
    return snapshot.has_preview[positions]


def one(snapshot: Snapshot, name: str) -> dict[str, Any]:
    """An item, and the others of its concept; NotThereError where there is none."""
    positions = snapshot.positions([name])
    found: dict[str, Any] = table_of(snapshot, positions).to_pylist()[0]
    return {**found, "equivalents": _equivalents(snapshot, found["concept"], int(positions[0]))}


def require_preview(snapshot: Snapshot, name: str) -> None:
    """NotThereError where an item has no thumbnail or clip, which is not read for that."""
    if not previews(snapshot, snapshot.positions([name]))[0]:
        raise NotThereError(f"{snapshot.name} keeps no preview of item {name!r}")


def preview(snapshot: Snapshot, name: str) -> tuple[bytes, str]:
    """An item's thumbnail or clip, and what kind of file it is; NotThereError where there is none."""
    require_preview(snapshot, name)
    data = snapshot.preview(name)
    assert data is not None, name
    return data, mime_of(data)


def require_original(snapshot: Snapshot, name: str) -> tuple[str, str]:
    """Where the file of an image or audio is, and which it is; NotThereError for a text."""
    row = snapshot.items.slice(int(snapshot.positions([name])[0]), 1).to_pylist()[0]
    if row["media"] is None or row["modality"] not in ("image", "audio"):
        raise NotThereError(f"there is no file of item {name!r} that can be given")
    return row["media"], row["modality"]


def original(snapshot: Snapshot, name: str, most: int) -> tuple[bytes, str]:
    """The file of a picture or a sound, and its kind; NotThereError where there is none that can be decoded."""
    path, modality = require_original(snapshot, name)
    try:
        data = media_bytes(Media(path))
        if len(data) > most:
            raise CorpusError("it is too large")
        if modality == "image":
            open_image(Media("the file", data))
        else:
            open_sound(Media("the file", data), RATE)
    except CorpusError:
        raise NotThereError(f"there is no file of item {name!r} that can be given") from None
    return data, mime_of(data)


def hidden(snapshot: Snapshot, ids: Sequence[str], layers: Sequence[str], pooling: str, most: int) -> pa.Table:
    """Stored states as float32: id, layer and vector; under "tokens", token too.

    Raises:
        NotThereError: an id is not there.
        TooLargeError: the vectors have more than `most` bytes.
    """
    positions = snapshot.positions(ids)
    require_rows(snapshot.rows_of(positions, pooling) * len(layers), snapshot.width * 4, most)
    rows, names = positions, list(ids)
    tokens: list[int] | None = None
    if pooling == "tokens":
        ranges = snapshot.token_ranges()[positions]
        rows = np.concatenate([np.arange(start, stop) for start, stop in ranges])
        names = [name for name, (start, stop) in zip(ids, ranges.tolist(), strict=True) for _ in range(start, stop)]
        tokens = [token for start, stop in ranges.tolist() for token in range(stop - start)]
    parts = [snapshot.hidden(layer, pooling).take(rows).float().numpy() for layer in layers]
    columns = {
        "id": pa.array(names * len(layers), pa.string()),
        "layer": pa.array([layer for layer in layers for _ in rows], pa.string()),
        "vector": rows_as_lists(np.concatenate(parts)),
    }
    if tokens is not None:
        columns["token"] = pa.array(tokens * len(layers), pa.int32())
    return pa.table(columns)


def require_rows(rows: int, row_bytes: int, most: int) -> None:
    """TooLargeError, before anything is read, for an answer of so many rows of so many bytes at least."""
    if rows * row_bytes > most:
        raise TooLargeError(
            f"the answer would have {rows} rows, {rows * row_bytes / MIB:.0f} MiB, and this server sends "
            f"{most / MIB:.0f} at most; ask for fewer items or layers"
        )


def _equivalents(snapshot: Snapshot, concept: str | None, position: int) -> list[str]:
    if concept is None:
        return []
    mask = pc.equal(snapshot.items["concept"], concept)
    others = np.flatnonzero(_bools(mask))
    others = others[others != position][:EQUIVALENTS]
    ids: list[str] = snapshot.items["id"].take(pa.array(others)).to_pylist()
    return ids


def _bools(mask: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(mask, False).to_numpy(), np.bool_)
