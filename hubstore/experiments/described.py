"""Pictures and sounds, and what is said of them: those that ship, or the user's."""

from __future__ import annotations

import lzma
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hubstore.arrow import read_parquet
from hubstore.corpus import Media
from hubstore.corpus.readers.lines import read_lines
from hubstore.errors import CorpusError
from hubstore.experiments.data import shipped_bytes
from hubstore.experiments.lab import Lab

PHOTOGRAPHS, SOUNDS, NOUNS = "photographs.parquet", "sounds.parquet", "nouns.txt"
SHIPPED = {PHOTOGRAPHS: "coco/photographs.parquet", SOUNDS: "esc10/sounds.parquet", NOUNS: "wordnet/nouns.txt.xz"}

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Photograph:
    """A picture with its captions.

    Args:
        id: its own.
        image: the picture.
        captions: one or more.
        masks: by category, the lengths of runs of its pixels along the rows, outside and inside in turn.
    """

    id: str
    image: Media
    captions: tuple[str, ...]
    masks: Mapping[str, Sequence[int]]

    def mask(self, category: str, width: int, height: int) -> Bools:
        """Where a category is, bool [height, width]; CorpusError where the runs are of another size."""
        runs = self.masks[category]
        inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        if len(inside) != width * height:
            raise CorpusError(
                f"{self.image.name}: has {width} x {height} pixels, and its mask of {category!r} {len(inside):,}; "
                "give masks of the picture's own size"
            )
        return inside.reshape(height, width)


@dataclass(frozen=True)
class Sound:
    """A sound and its label."""

    id: str
    audio: Media
    label: str


def photographs(lab: Lab) -> list[Photograph]:
    """The user's photographs.parquet (id, image, captions, and perhaps masks), or the 51 of COCO that ship.

    Raises:
        CorpusError: a column is missing, or a picture has no caption.
    """
    found = []
    for number, row in _rows(lab, PHOTOGRAPHS, ("id", "image", "captions")):
        captions = tuple(caption for caption in row["captions"] or () if caption.strip())
        if not captions:
            raise CorpusError(f"{_place(lab, PHOTOGRAPHS, number)}: has no caption; give one or more, or leave it out")
        masks = {mask["category"]: mask["runs"] for mask in row.get("masks") or ()}
        media = _media(lab, PHOTOGRAPHS, number, row["image"])
        found.append(Photograph(str(row["id"]), media, captions, masks))
    return found


def sounds(lab: Lab) -> list[Sound]:
    """The user's sounds.parquet (id, audio, label), or the 80 clips of ESC-10 that ship.

    Raises:
        CorpusError: a column is missing, or a label.
    """
    found = []
    for number, row in _rows(lab, SOUNDS, ("id", "audio", "label")):
        label = " ".join((row["label"] or "").split())
        if not label:
            raise CorpusError(f"{_place(lab, SOUNDS, number)}: has no label; give one, or leave it out")
        found.append(Sound(str(row["id"]), _media(lab, SOUNDS, number, row["audio"]), label))
    return found


def nouns(lab: Lab) -> frozenset[str]:
    """The user's nouns.txt, a word a line, or WordNet's."""
    given = lab.file(NOUNS)
    lines = lzma.decompress(shipped_bytes(SHIPPED[NOUNS])).decode().split() if given is None else read_lines(given)
    return frozenset(line.strip().lower() for line in lines if line.strip())


def is_noun(word: str, known: frozenset[str]) -> bool:
    """Whether a word, or what it may be the plural of, is among known nouns."""
    singular = (word.removesuffix("s"), word.removesuffix("es"), f"{word.removesuffix('ies')}y")
    return word in known or (word.endswith("s") and any(one in known for one in singular))


def _rows(lab: Lab, name: str, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table by number, from 1."""
    given = lab.file(name)
    data = shipped_bytes(SHIPPED[name]) if given is None else given.read_bytes()
    try:
        table = read_parquet(data)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{given}: is no Parquet file that can be read: {error}") from error
    missing = [column for column in needed if column not in table.column_names]
    if missing:
        raise CorpusError(f"{given}: has no column {missing[0]!r}; it needs {', '.join(needed)}")
    return enumerate(table.to_pylist(), 1)


def _media(lab: Lab, name: str, number: int, value: Any) -> Media:
    """Bytes, or a file's path from the table's folder."""
    if isinstance(value, bytes):
        return Media(_place(lab, name, number), value)
    if isinstance(value, str) and lab.data is not None:
        return Media(str((lab.data / value).resolve()))
    raise CorpusError(
        f"{_place(lab, name, number)}: has neither bytes nor a path; give the encoded file, or where it is"
    )


def _place(lab: Lab, name: str, number: int) -> str:
    return f"{lab.file(name) or SHIPPED[name]}!row {number}"
