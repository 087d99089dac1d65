"""Images and audio, and what is said of them: those that ship, those made here, or the user's."""

from __future__ import annotations

import io
import itertools
import lzma
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hubstore.arrow import read_parquet
from hubstore.corpus import Item, Media
from hubstore.corpus.readers.lines import read_lines
from hubstore.errors import CorpusError, MissingDependencyError
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.materials import shipped_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

PHOTOGRAPHS, RECORDINGS, NOUNS, ANIMALS = "photographs.parquet", "sounds.parquet", "nouns.txt", "animals.tsv"
SHIPPED = {PHOTOGRAPHS: "coco/photographs.parquet", RECORDINGS: "esc10/sounds.parquet", NOUNS: "wordnet/nouns.txt.xz"}
NO_LANGUAGE = "zxx"

BASIC_COLORS = ("black", "white", "red", "green", "yellow", "blue", "brown", "orange", "pink", "purple", "gray")
"""The basic colors of English (Berlin and Kay, 1969)."""

COLORS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
SOLID_SIDE, HALVES_SIDE = 336, 256
"""Pixels across and down; a model's processor makes of them what it needs."""

ANIMAL_LABELS = {"dog bark": "dog", "rooster": "rooster"}
"""The classes of ESC-10 that are animals."""

IS_MAMMAL = {
    **dict.fromkeys(("dog", "cat", "cow", "pig", "sheep", "horse", "goat", "lion", "mouse", "wolf"), True),
    **dict.fromkeys(("rooster", "chicken", "bird", "duck", "frog", "fish", "snake", "bee", "owl", "eagle"), False),
}

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Photograph:
    """An image with its captions.

    Args:
        id: its own.
        image: the image.
        captions: one or more.
        masks: by category, the lengths of runs of its pixels along the rows, outside and inside in turn.
    """

    id: str
    image: Media
    captions: tuple[str, ...]
    masks: Mapping[str, Sequence[int]]

    @property
    def item(self) -> Item:
        """The image as an item, its own concept."""
        return Item(f"image:{self.id}", "", NO_LANGUAGE, self.id, "image", self.image)

    def mask(self, category: str, width: int, height: int) -> Bools:
        """Where a category is, bool [height, width]; CorpusError where the runs are of another size."""
        runs = self.masks[category]
        inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        if len(inside) != width * height:
            raise CorpusError(
                f"{self.image.name}: has {width} x {height} pixels, and its mask of {category!r} {len(inside):,}; "
                "give masks of the image's own size"
            )
        return inside.reshape(height, width)


@dataclass(frozen=True)
class Recording:
    """An audio clip and its label."""

    id: str
    audio: Media
    label: str

    @property
    def item(self) -> Item:
        """The clip as an item, whose concept is its label."""
        return Item(f"audio:{self.id}", "", NO_LANGUAGE, self.label, "audio", self.audio)


@dataclass(frozen=True)
class AnimalClip:
    """An audio clip of an animal.

    Args:
        media: the clip.
        animal: its English word.
        is_mammal: whether it is one.
        recording: clips of one recording share it.
    """

    media: Media
    animal: str
    is_mammal: bool
    recording: str


class Trial(NamedTuple):
    """An image of two colors, the half of it that is steered, and to what.

    Args:
        colors: the image's, from above.
        half: 0 for the upper, 1 for the lower.
        old: the color of that half, which is to go.
        retained: the color of the other half.
        new: the color that the half is to have.
        fourth: the color that has no part in it.
    """

    colors: tuple[str, str]
    half: int
    old: str
    retained: str
    new: str
    fourth: str


def photographs(context: ExperimentContext) -> list[Photograph]:
    """The user's photographs.parquet (id, image, captions, and perhaps masks), or the 51 of COCO that ship.

    Raises:
        CorpusError: a column is missing, or an image has no caption.
    """
    found = []
    for place, row in _rows(context, PHOTOGRAPHS, ("id", "image", "captions")):
        captions = tuple(caption for caption in row["captions"] or () if caption.strip())
        if not captions:
            raise CorpusError(f"{place}: has no caption; give one or more, or leave it out")
        masks = {mask["category"]: mask["runs"] for mask in row.get("masks") or ()}
        found.append(Photograph(str(row["id"]), _media(context, place, row["image"]), captions, masks))
    return found


def recordings(context: ExperimentContext) -> list[Recording]:
    """The user's sounds.parquet (id, audio, label), or the 80 clips of ESC-10 that ship.

    Raises:
        CorpusError: a column is missing, or a label.
    """
    found = []
    for place, row in _rows(context, RECORDINGS, ("id", "audio", "label")):
        label = " ".join((row["label"] or "").split())
        if not label:
            raise CorpusError(f"{place}: has no label; give one, or leave it out")
        found.append(Recording(str(row["id"]), _media(context, place, row["audio"]), label))
    return found


def nouns(context: ExperimentContext) -> frozenset[str]:
    """The user's nouns.txt, a word a line, or WordNet's."""
    path = context.file(NOUNS)
    lines = lzma.decompress(shipped_bytes(SHIPPED[NOUNS])).decode().split() if path is None else read_lines(path)
    return frozenset(line.strip().lower() for line in lines if line.strip())


def is_noun(word: str, known: frozenset[str]) -> bool:
    """Whether a word, or what it may be the plural of, is among known nouns."""
    singular = (word.removesuffix("s"), word.removesuffix("es"), f"{word.removesuffix('ies')}y")
    return word in known or (word.endswith("s") and any(one in known for one in singular))


def animal_clips(context: ExperimentContext) -> list[AnimalClip]:
    """The user's clips of animals, or those of ESC-10 that ship.

    `animals.tsv` has a line for each clip: its path from there, the animal's English word, and yes or no: whether it
    is a mammal.

    Raises:
        CorpusError: a line is none of these.
    """
    path = context.file(ANIMALS)
    if path is not None:
        return _users_clips(path)
    table = read_parquet(shipped_bytes(SHIPPED[RECORDINGS]), columns=["id", "audio", "label"])
    return [
        AnimalClip(Media(f"{row['id']}.ogg", row["audio"]), animal, IS_MAMMAL[animal], row["id"].split("-")[1])
        for row in table.to_pylist()
        if (animal := ANIMAL_LABELS.get(row["label"])) is not None
    ]


def trials() -> list[Trial]:
    """All 48: two colors in order, a half, and a color of neither."""
    return [
        Trial(colors, half, colors[half], colors[1 - half], *others)
        for colors in itertools.permutations(COLORS, 2)
        for half in (0, 1)
        for others in itertools.permutations([color for color in COLORS if color not in colors])
    ]


def solid_image(color: str) -> bytes:
    """An image of one named color, as PNG."""
    return _png(_pillow().new("RGB", (SOLID_SIDE, SOLID_SIDE), color))


def halves_image(colors: tuple[str, str]) -> bytes:
    """A PNG whose halves have these colors, from above."""
    pixels = np.empty((HALVES_SIDE, HALVES_SIDE, 3), np.uint8)
    pixels[: HALVES_SIDE // 2], pixels[HALVES_SIDE // 2 :] = (COLORS[color] for color in colors)
    return _png(_pillow().fromarray(pixels))


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("images are made with Pillow: pip install 'hubstore[media]'") from error
    return Image


def _png(image: Image) -> bytes:
    target = io.BytesIO()
    image.save(target, format="PNG")
    return target.getvalue()


def _users_clips(path: Path) -> list[AnimalClip]:
    found = []
    for number, line in enumerate(read_lines(path), 1):
        parts = line.split("\t")
        if len(parts) != 3 or parts[2] not in ("yes", "no"):
            raise CorpusError(
                f"{path}, line {number}: {line[:60]!r} is not a path, an animal, and yes or no, with tabs"
            )
        found.append(AnimalClip(Media(str(path.parent / parts[0])), parts[1], parts[2] == "yes", parts[0]))
    if len(found) < 2:
        raise CorpusError(f"{path} has {len(found)} clips; an experiment compares two or more")
    return found


def _rows(context: ExperimentContext, name: str, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table, each with where it is."""
    path = context.file(name)
    data = shipped_bytes(SHIPPED[name]) if path is None else path.read_bytes()
    try:
        table = read_parquet(data)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path}: is no Parquet file that can be read: {error}") from error
    missing = [column for column in needed if column not in table.column_names]
    if missing:
        raise CorpusError(f"{path}: has no column {missing[0]!r}; it needs {', '.join(needed)}")
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"{path or SHIPPED[name]}!row {number}", row


def _media(context: ExperimentContext, place: str, value: Any) -> Media:
    """Bytes, or a file's path from the table's folder."""
    if isinstance(value, bytes):
        return Media(place, value)
    if isinstance(value, str) and context.data is not None:
        return Media(str((context.data / value).resolve()))
    raise CorpusError(f"{place}: has neither bytes nor a path; give the encoded file, or where it is")
