#!/usr/bin/env python3
"""Makes the data that the experiments on images and audio ship with, from where it was published.

    scripts/experiment_data.py photographs COCO OUT     COCO 2017: its annotations/ and val2017/
    scripts/experiment_data.py recordings ESC10 OUT     the folder of ESC-10
    scripts/experiment_data.py concepts DRAWINGS CLDR SOUNDING OUT
                                                        what `train_bridge.py data` made, CLDR's names of emoji,
                                                        and names.tsv with those of the recordings of ESC-10
    scripts/experiment_data.py nouns WORDNET OUT        the folder of WordNet 3.0's dictionary

The first also makes `photographs.parquet` of any images that are annotated as COCO's are, for `--data`.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

MOST_PIXELS = 336  # of a photograph's longer side
QUALITY = 80
SEED = 0

PHOTOGRAPHS = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        ("captions", pa.list_(pa.string())),
        (
            "masks",
            pa.list_(
                pa.struct([("category", pa.string()), ("runs", pa.list_(pa.int32()))]),
            ),
        ),
        ("licence", pa.string()),
        ("source", pa.string()),
    ]
)

AUDIO_FOLD = "5"

DRAWINGS = 200
STYLE = "twemoji"
LANGUAGES = (
    *("en", "ar", "de", "es", "fr", "hi", "id", "it", "ja", "ko"),
    *("nl", "pl", "pt", "ru", "sv", "sw", "th", "tr", "vi", "zh"),
)
NO_THINGS = re.compile(
    r"face|button|sign|person|man|woman|flag|hand|symbol|clock|arrow|square|circle|heart|people|boy|girl|medal|"
    r"cat with|keycap|number|mark|input|moon|monkey|diamond|skin|hair|thirty|room|control|customs|luggage|thumbs|"
    r"fist|hundred|wavy|^[A-Z]|^[^ ]+ [^ ]+ [^ ]+"
)


def photographs(coco: Path, out: Path) -> None:
    """Photographs shrunk, their captions, and the masks of the categories in each as runs of pixels."""
    described = _described(coco)
    (images,) = (folder for folder in (coco / "val2017", coco / "images") if folder.is_dir())
    categories = {one["id"]: one["name"] for one in described["categories"]}
    licences = {one["id"]: one["url"] for one in described["licenses"]}
    captions, instances = defaultdict(list), defaultdict(list)
    for caption in sorted(described["captions"], key=lambda one: one["id"]):
        captions[caption["image_id"]].append(" ".join(caption["caption"].split()))
    for instance in described["instances"]:
        instances[instance["image_id"]].append(instance)
    rows = []
    for photograph in sorted(described["images"], key=lambda one: one["id"]):
        with Image.open(images / photograph["file_name"], formats=["JPEG", "PNG"]) as opened:
            image = opened.convert("RGB")
        image.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.Resampling.LANCZOS)
        encoded = io.BytesIO()
        image.save(encoded, "JPEG", quality=QUALITY, optimize=True)
        rows.append(
            {
                "id": str(photograph["id"]),
                "image": encoded.getvalue(),
                "captions": captions[photograph["id"]],
                "masks": [
                    {"category": categories[category], "runs": _runs(np.asarray(mask.resize(image.size)))}
                    for category, mask in sorted(_masks(photograph, instances[photograph["id"]]).items())
                ],
                "licence": licences[photograph["license"]],
                "source": photograph["flickr_url"],
            }
        )
    pq.write_table(pa.Table.from_pylist(rows, PHOTOGRAPHS), out, compression="zstd", compression_level=19)


def _described(coco: Path) -> dict[str, Any]:
    """Images, categories, licenses, captions and instances, as one file has them or COCO's two."""
    together = coco / "annotations.json"
    if together.is_file():
        return dict(json.loads(together.read_text()))
    captions, instances = (
        json.loads((coco / "annotations" / f"{kind}_val2017.json").read_text()) for kind in ("captions", "instances")
    )
    return {**instances, "captions": captions["annotations"], "instances": instances["annotations"]}


def _masks(photograph: Mapping[str, Any], instances: Sequence[Mapping[str, Any]]) -> dict[int, Image.Image]:
    """Where each category is, of the photograph's size; crowds, whose outlines are rough, count too."""
    size = photograph["width"], photograph["height"]
    masks: dict[int, Image.Image] = {}
    for instance in instances:
        mask = masks.setdefault(instance["category_id"], Image.new("1", size))
        outline = instance["segmentation"]
        if isinstance(outline, dict):  # COCO's runs go down the columns
            values = np.arange(len(outline["counts"])) % 2
            columns = np.repeat(values, outline["counts"]).reshape(size).astype(bool)
            mask.paste(1, mask=Image.fromarray(columns.T))
        else:
            for polygon in outline:
                ImageDraw.Draw(mask).polygon(polygon, fill=1)
    return masks


def _runs(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> list[int]:
    """Lengths of the runs of pixels along the rows, in turn outside and inside; the first may be 0."""
    flat = mask.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    return np.diff([0, *edges, len(flat)]).tolist()


def recordings(folder: Path, out: Path) -> None:
    """The clips of one fold, as they are, with their class."""
    listed = dict(re.findall(r"\*\*\[(\d\S+\.ogg)\].*?: +(clip derived.*)", (folder / "README.md").read_text()))
    rows = []
    for path in sorted(folder.glob(f"*/{AUDIO_FOLD}-*.ogg")):
        label = path.parent.name.split(" - ")[1].lower()
        credit = re.sub(r"\[([^\]]*)\]\(([^)]*)\)", r"\1 <\2>", listed[path.name]).replace("*", "")
        rows.append({"id": path.stem, "audio": path.read_bytes(), "label": label, "credit": credit})
    pq.write_table(pa.Table.from_pylist(rows), out, compression="zstd", compression_level=19)


def concepts(drawings: Path, cldr: Path, sounding: Path, out: Path) -> None:
    """Drawings of one vendor, with names in LANGUAGES: CLDR's, or those of the recordings of ESC-10."""
    from bridge.image_data import load

    data = load(drawings)
    drawn = {
        data.concepts[number]["id"].removeprefix("emoji/"): (data.concepts[number], encoded)
        for number, style, encoded in zip(data.concept, data.style, data.encoded, strict=True)
        if style == STYLE
    }
    given = json.loads(cldr.read_text())
    names: dict[str, dict[str, str]] = defaultdict(dict)
    for language in LANGUAGES:
        for emoji, name in given[language].items():
            code = "-".join(f"{ord(one):x}" for one in emoji if one != "\ufe0f")
            names[code][language] = unicodedata.normalize("NFC", name)
    lines = [line.split("\t") for line in sounding.read_text(encoding="utf-8").splitlines()]
    heard = {code: (label, dict(zip(lines[0][2:], own, strict=True))) for label, code, *own in lines[1:]}
    fitting = [code for code, (concept, _) in drawn.items() if _fits(code, concept, names.get(code, {}), heard)]
    chosen = np.random.default_rng(SEED).choice(fitting, DRAWINGS - len(heard), replace=False)
    rows = []
    for code in [*heard, *sorted(chosen.tolist())]:
        label, own = heard.get(code, (None, None))
        rows.append(
            {
                "concept": code if label is None else label,
                "emoji": chr(int(code, 16)),
                "image": drawn[code][1],
                "names": names[code] if own is None else own,
            }
        )
    schema = pa.schema(
        [
            ("concept", pa.string()),
            ("emoji", pa.string()),
            ("image", pa.binary()),
            ("names", pa.struct([(language, pa.string()) for language in LANGUAGES])),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), out, compression="zstd", compression_level=19)


def _fits(code: str, concept: Mapping[str, Any], names: Mapping[str, str], heard: Mapping[str, Any]) -> bool:
    """A thing that is seen, with a short name in every language."""
    return (
        "-" not in code
        and code not in heard
        and not concept["held_out"]
        and len(names) == len(LANGUAGES)
        and not NO_THINGS.search(names["en"])
    )


WELL_COUNTED = 10  # times in WordNet's texts, from where on a word in -ing is a noun
NO_NOUNS = {  # what WordNet knows as nouns, and captions use as something else
    *(
        "while",
        "can",
        "will",
        "has",
        "are",
        "its",
        "being",
        "closeup",
        "setting",
        "playing",
        "two",
        "one",
        "four",
        "six",
    ),
    *("nine", "ten", "like", "back", "top", "front", "side", "lot", "number", "type", "piece", "couple", "kind", "way"),
}


def nouns(wordnet: Path, out: Path) -> None:
    """Words that are nouns more often than anything else in WordNet's texts, or, counted in none, nouns only."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for line in (wordnet / "cntlist.rev").read_text().splitlines():
        key, _, count = line.split()
        lemma, _, kind = key.partition("%")
        counts[lemma][kind[0]] += int(count)
    lemmas = {
        kind: {
            line.split()[0] for line in (wordnet / f"index.{kind}").read_text().splitlines() if not line.startswith(" ")
        }
        for kind in ("noun", "verb", "adj", "adv")
    }
    proper = {word.lower() for line in (wordnet / "data.noun").read_text().splitlines() for word in _capitals(line)}
    kept = []
    for word in sorted(lemmas["noun"] - NO_NOUNS):
        if not re.fullmatch("[a-z]{3,}", word):
            continue
        counted = counts.get(word, Counter())
        noun, other = counted["1"], sum(counted.values()) - counted["1"]
        alone = not any(word in lemmas[kind] for kind in ("adj", "adv"))
        if _inflected(word, lemmas["verb"]) and noun < WELL_COUNTED:
            continue
        if noun > other or (not counted and alone and len(word) > 4 and word not in proper):
            kept.append(word)
    plurals = dict(line.split()[:2] for line in (wordnet / "noun.exc").read_text().splitlines())
    known = set(kept)
    kept += [plural for plural, word in plurals.items() if word in known and re.fullmatch("[a-z]{3,}", plural)]
    out.write_bytes(lzma.compress(("\n".join(sorted(set(kept))) + "\n").encode(), preset=9))


def _inflected(word: str, verbs: set[str]) -> bool:
    """Whether it may be a verb's form in -ing."""
    stem = word.removesuffix("ing")
    return stem != word and bool({stem, f"{stem}e", stem[:-1]} & verbs)


def _capitals(line: str) -> list[str]:
    return re.findall(r"\b[A-Z]\w*\b", line.partition(" | ")[0])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for make, places, older in (
        (photographs, ["coco"], []),
        (recordings, ["folder"], ["sounds"]),  # deprecated name
        (concepts, ["drawings", "cldr", "sounding"], []),
        (nouns, ["wordnet"], []),
    ):
        command = commands.add_parser(make.__name__, aliases=older)
        for place in (*places, "out"):
            command.add_argument(place, type=Path)
        command.set_defaults(make=make)
    options = vars(parser.parse_args(arguments))
    options.pop("make")(**options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
