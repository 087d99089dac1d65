"""The recordings that the bridge is trained on and tested with: synthesized and human speech, and recordings of things.

`build` gets the packages, speaks the names of the concepts that the image bridge knows, and keeps all in one file.
Trained are English speech of two synthesizers and of people, and recordings of things. Never trained are voices of a
third synthesizer, a fifth of the concepts (those that the image bridge holds out too, and every text that names one),
a fifth of what people say, a fifth of the recordings of things, and speech in other languages than English.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bridge import image_data
from bridge.image_data import DataError

RATE = 16_000
SEED = 0
LONGEST = 5.1  # seconds of a recording that is kept
PEOPLE_HELD_OUT = 0.2  # of what people say in English
PROMPT_WORDS = 3  # at least: what is heard of fewer is less sure
PROMPTS_KEPT = 0.5  # of those in other languages
EFFECTS_HELD_OUT = 5  # the fold of ESC-10
WORDS, SENTENCES = 6000, 2500  # that are spoken beside names
SPEECH_QUALITY, EFFECT_QUALITY = 0.98, 0.95  # Opus's compression, 1 for the smallest
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
TIMBRES = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "klatt", "klatt2", "klatt3"),
    *("Andy", "Annie", "linda", "steph", "Denis", "Lee", "Alex", "Alicia", "Andrea", "belinda", "grandma", "travis"),
)
FESTIVAL = ("kal_diphone", "ked_diphone")
UNSEEN = ("slt", "rms", "awb")  # Flite's, of other speakers than Festival's
PROGRAMS = {
    "espeak-ng": "espeak-ng",
    "festival": "festival festvox-kallpc16k festvox-kdlpc16k",
    "flite": "flite",
}
SPOKEN = ("en", "es", "fr", "ru")  # languages of Tux Paint's descriptions; all but English to test with
PROMPTS = ("en", "es", "fr", "it", "ru")  # and of Asterisk's

# ESC-10's classes: what each is called in English, most usual first, and in other languages.
EFFECTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "effects.json").read_text())


@dataclass(frozen=True)
class Recording:
    """What one recording is.

    Args:
        kind: "name", "words" (of any text), "prompt", "description" or "effect".
        texts: what it says, or what it may be called, in English.
        voice: who speaks or what makes the sound.
        trained: whether it may be trained on.
        concept: the concept it names, among `Recordings.concepts`; None for another text.
        language: that is spoken; "zxx" for none.
        spoken: what is said, where that is another language than English and known.
        key: what an utterance in several languages has in common.
    """

    kind: str
    texts: tuple[str, ...]
    voice: str
    trained: bool
    concept: int | None = None
    language: str = "en"
    spoken: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Recordings:
    """The data file, read.

    Attributes:
        concepts: emoji with English `names`, `translations` and `held_out`.
        recordings: of each recording.
        encoded: each recording as Ogg Opus at `RATE`, mono.
        digest: SHA-256 of the file.
    """

    concepts: list[dict[str, Any]]
    recordings: list[Recording]
    encoded: list[bytes]
    digest: str


def load(path: Path) -> Recordings:
    """Reads what `build` wrote."""
    with np.load(path, allow_pickle=False) as file:
        described = json.loads(file["described"].tobytes())
        blob, ends = file["blob"].tobytes(), file["ends"].tolist()
    return Recordings(
        concepts=described["concepts"],
        recordings=[Recording(**entry | {"texts": tuple(entry["texts"])}) for entry in described["sounds"]],
        encoded=[blob[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)],
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def save(path: Path, concepts: Sequence[Mapping[str, Any]], recorded: Sequence[tuple[Recording, bytes]]) -> None:
    """Writes the data file."""
    described = {"concepts": concepts, "sounds": [asdict(recording) for recording, _ in recorded]}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        described=np.frombuffer(json.dumps(described, ensure_ascii=False).encode(), np.uint8),
        blob=np.frombuffer(b"".join(encoded for _, encoded in recorded), np.uint8),
        ends=np.cumsum([len(encoded) for _, encoded in recorded]),
    )


def decode(encoded: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Samples of a recording at `RATE`: float32 [samples]."""
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(encoded), dtype="float32")
    if rate != RATE:
        raise DataError(f"a recording has {rate} samples a second, not {RATE}")
    kept: np.ndarray[Any, np.dtype[np.float32]] = samples
    return kept


def encode(source: Path | bytes, quality: float, longest: float = LONGEST) -> bytes | None:
    """An audio file as Ogg Opus at `RATE`, mono, silence around it cut; None if empty or longer than `longest`."""
    import soundfile
    import soxr

    samples, rate = soundfile.read(io.BytesIO(source) if isinstance(source, bytes) else source, dtype="float32")
    samples = samples.mean(1) if samples.ndim > 1 else samples
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max(initial=1e-6))
    if not len(loud):
        return None
    samples = samples[max(0, loud[0] - rate // 20) : loud[-1] + rate // 20]
    if not 0.15 < len(samples) / rate <= longest:
        return None
    samples = soxr.resample(samples, rate, RATE)
    samples *= 0.7 / max(1e-3, np.abs(samples).max())
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, RATE, format="OGG", subtype="OPUS", compression_level=quality)
    return encoded.getvalue()


# --- making it ------------------------------------------------------------------------------------------------------


def build(
    out: Path,
    images: Path,
    stamps: Path,
    effects: Path,
    sentences: Path,
    whisper: Path,
    work: Path,
    voices: int,
    threads: int,
    limit: int | None = None,
) -> None:
    """Writes the data file.

    Args:
        out: the file, `.npz`.
        images: the image bridge's data file, whose emoji and what is held out of them are taken.
        stamps: the archive with `stamps.json`, the table of Tux Paint's stamps; the recordings come from Debian.
        effects: the archive of ESC-10.
        sentences: the archive of COGS.
        whisper: Whisper's folder, which writes down Asterisk's English prompts: they come without their texts.
        work: where packages are kept; one that is there is not got again.
        voices: of a synthesizer, for each name of a trained concept.
        threads: that speak and encode.
        limit: texts to speak, for a trial.

    Raises:
        DataError: a package or a synthesizer cannot be had.
    """
    for program, packages in PROGRAMS.items():
        if shutil.which(program) is None:
            raise DataError(f"{program} is missing: apt-get install {packages}")
    concepts = _concepts(images)
    held = {tuple(image_data._tokens(c["names"][0])) for c in concepts if c["held_out"]}
    table = [s for s in image_data._json_in(stamps, "stamps.json") if _is_thing(s)]
    draw = random.Random(SEED)
    wanted = [*_names(concepts, held, voices, draw), *_words(concepts, table, sentences, held, draw)]
    recorded: list[tuple[Recording, bytes]] = []
    with ThreadPoolExecutor(threads) as pool, tempfile.TemporaryDirectory() as spoken:
        for part in (
            _speak(wanted[:limit], Path(spoken), pool),
            _recorded(_prompts(_debian("asterisk-core-sounds-{}-wav", PROMPTS, work), work, whisper), held, pool),
            _recorded(_descriptions(table, work), held, pool),
            _recorded(_effects(table, effects, work), held, pool, EFFECT_QUALITY),
        ):
            made = list(part)
            recorded += made
            kinds = sorted({recording.kind for recording, _ in made})
            size = sum(len(encoded) for _, encoded in made) / 1e6
            print(f"{', '.join(kinds)}: {len(made)} recordings, {size:.1f} MB", flush=True)
    save(out, concepts, recorded)


def _concepts(images: Path) -> list[dict[str, Any]]:
    """The emoji, without those held out that a recording of ESC-10 is called by."""
    emoji = [c for c in image_data.load(images).concepts if c["kind"] == "emoji" and c["translations"]]
    captions = [caption for effect in EFFECTS.values() for caption in effect["en"]]

    def names_effect(concept: Mapping[str, Any]) -> bool:
        name = {tuple(image_data._tokens(concept["names"][0]))}
        return any(image_data._names_one(caption, name) for caption in captions)

    return [concept for concept in emoji if not (concept["held_out"] and names_effect(concept))]


def _is_thing(stamp: Mapping[str, Any]) -> bool:
    return not stamp["id"].startswith(image_data.NOT_THINGS) and bool(stamp["names"].get("en"))


def _names(
    concepts: Sequence[Mapping[str, Any]], held: set[tuple[str, ...]], voices: int, draw: random.Random
) -> Iterator[Recording]:
    """Every concept's name in an unseen voice; those that name nothing held out in `voices` trained voices too."""
    for i, concept in enumerate(concepts):
        recording = Recording("name", tuple(concept["names"][:1]), UNSEEN[i % len(UNSEEN)], trained=False, concept=i)
        yield recording
        if not image_data._names_one(concept["names"][0], held):
            for _ in range(voices):
                yield replace(recording, voice=_voice(draw), trained=True)


def _words(
    concepts: Sequence[Mapping[str, Any]],
    table: Sequence[Mapping[str, Any]],
    sentences: Path,
    held: set[tuple[str, ...]],
    draw: random.Random,
) -> Iterator[Recording]:
    """Other English to train on, that names nothing held out: more names, keywords, stamps, words, sentences."""
    from wordfreq import top_n_list

    trained = [c for c in concepts if not c["held_out"]]
    more = [text for c in trained for text in (*c["names"][1:], *c["keywords"])]
    described = [s["names"]["en"] for s in table]
    words = [w for w in top_n_list("en", WORDS) if w.isalpha() and len(w) > 2]
    said = draw.sample(list(_sentences(sentences)), SENTENCES)
    first = {c["names"][0] for c in concepts}
    for text in dict.fromkeys([*more, *described, *words, *said]):
        if text not in first and len(text) <= 60 and not image_data._names_one(text, held):
            yield Recording("words", (text.strip(" ."),), _voice(draw), trained=True)


def _sentences(archive: Path) -> Iterator[str]:
    with tarfile.open(archive) as tar:
        file = tar.extractfile(next(m for m in tar.getnames() if m.endswith("train.tsv")))
        for line in file or ():
            text = line.decode().partition("\t")[0].removesuffix(" .")
            if 2 < len(text.split()) <= 9:
                yield text


def _voice(draw: random.Random) -> str:
    """A trained voice: Festival's, or eSpeak's with an accent, a timbre, a speed and a pitch."""
    if draw.random() < 0.25:
        return f"festival {draw.choice(FESTIVAL)}"
    accent, timbre = draw.choice(ACCENTS), draw.choice(TIMBRES)
    return f"espeak {accent}+{timbre} {draw.randint(120, 200)} {draw.randint(25, 75)}"


def _speak(wanted: Sequence[Recording], folder: Path, pool: ThreadPoolExecutor) -> Iterator[tuple[Recording, bytes]]:
    """The recordings that the synthesizers make."""
    paths = [folder / f"{i}.wav" for i in range(len(wanted))]
    festival = [i for i, recording in enumerate(wanted) if recording.voice.startswith("festival")]
    jobs = [pool.submit(_festival, [(wanted[i], paths[i]) for i in festival[k::8]]) for k in range(8)]
    jobs += [pool.submit(_program, wanted[i], paths[i]) for i in set(range(len(wanted))) - set(festival)]
    for job in jobs:
        job.result()
    for recording, encoded in zip(wanted, pool.map(lambda p: _encoded(p, SPEECH_QUALITY), paths), strict=True):
        if encoded is not None:
            yield recording, encoded


def _program(recording: Recording, path: Path) -> None:
    (text,) = recording.texts
    if recording.voice in UNSEEN:
        command = ["flite", "-voice", recording.voice, "-t", text, "-o", str(path)]
    else:
        _, voice, speed, pitch = recording.voice.split()
        command = ["espeak-ng", "-v", voice, "-s", speed, "-p", pitch, "-w", str(path), text]
    subprocess.run(command, check=False, capture_output=True)


def _festival(wanted: Sequence[tuple[Recording, Path]]) -> None:
    lines = []
    for recording, path in wanted:
        text = recording.texts[0].replace("\\", " ").replace('"', " ")
        lines.append(f"(voice_{recording.voice.split()[1]})")
        lines.append(f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{path}" (quote riff))')
    with tempfile.NamedTemporaryFile("w", suffix=".scm") as script:
        script.write("\n".join(lines))
        script.flush()
        subprocess.run(["festival", "-b", script.name], check=False, capture_output=True)


def _encoded(source: Path | bytes, quality: float) -> bytes | None:
    import soundfile

    try:
        return encode(source, quality)
    except (soundfile.LibsndfileError, FileNotFoundError):
        return None


def _recorded(
    wanted: Iterator[tuple[Recording, Path | bytes]],
    held: set[tuple[str, ...]],
    pool: ThreadPoolExecutor,
    quality: float = SPEECH_QUALITY,
) -> Iterator[tuple[Recording, bytes]]:
    """The recordings encoded; what names something held out is not trained on."""
    recordings = [
        (replace(s, trained=s.trained and not any(image_data._names_one(t, held) for t in s.texts)), source)
        for s, source in wanted
    ]
    encoded = pool.map(lambda item: _encoded(item[1], quality), recordings)
    return ((recording, made) for (recording, _), made in zip(recordings, encoded, strict=True) if made is not None)


def _debian(name: str, languages: Sequence[str], work: Path) -> dict[str, Path]:
    """The unpacked packages of each language."""
    folders = {}
    work.mkdir(parents=True, exist_ok=True)
    for language in languages:
        package = name.format(language)
        folders[language] = work / package
        if not folders[language].exists():
            for command in (["apt-get", "download", package], ["sh", "-c", f"dpkg-deb -x {package}_*.deb {package}"]):
                run = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
                if run.returncode:
                    raise DataError(f"{' '.join(command)}: {run.stderr.strip()}; Debian's package index must have it")
    return folders


def _prompts(folders: Mapping[str, Path], work: Path, whisper: Path) -> Iterator[tuple[Recording, Path | bytes]]:
    """Asterisk's prompts; the same file name is the same prompt in every language."""
    files = {
        language: {str(p.relative_to(root)): p for p in sorted(root.rglob("*.wav"))}
        for language, folder in folders.items()
        for root in [next(p for p in folder.rglob("sounds/*") if p.is_dir())]
    }
    texts = _written(files["en"], work / "prompts.json", whisper)
    draw = random.Random(SEED)
    for key, text in texts.items():
        trained = draw.random() >= PEOPLE_HELD_OUT
        if len(text.split()) < PROMPT_WORDS or not text.isascii():
            continue
        for language in folders:
            if key in files[language] and (language == "en" or draw.random() < PROMPTS_KEPT):
                yield (
                    Recording(
                        "prompt",
                        (text.strip(" ."),),
                        f"asterisk {language}",
                        trained and language == "en",
                        language=language,
                        key=key,
                    ),
                    files[language][key],
                )


def _written(files: Mapping[str, Path], kept: Path, whisper: Path) -> dict[str, str]:
    """What Whisper hears in each file, by key; kept, since it takes minutes."""
    import soundfile
    import soxr
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    if kept.exists():
        texts: dict[str, str] = json.loads(kept.read_text())
        return texts
    processor, model = AutoProcessor.from_pretrained(whisper), AutoModelForSpeechSeq2Seq.from_pretrained(whisper).eval()
    texts = {}
    for key, path in files.items():
        samples, rate = soundfile.read(path, dtype="float32")
        if 0.4 <= len(samples) / rate <= LONGEST:
            inputs = processor(soxr.resample(samples, rate, RATE), sampling_rate=RATE, return_tensors="pt")
            ids = model.generate(**inputs, language="en", max_new_tokens=60)
            texts[key] = processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
    kept.write_text(json.dumps(texts))
    return texts


def _stamp_folder(work: Path) -> Path:
    package = image_data.STAMPS
    return next(_debian(package, [""], work)[""].rglob("stamps"))


def _descriptions(table: Sequence[Mapping[str, Any]], work: Path) -> Iterator[tuple[Recording, Path | bytes]]:
    """What people say of Tux Paint's stamps."""
    root, draw = _stamp_folder(work), random.Random(SEED)
    for stamp in table:
        names = stamp["names"]
        trained = draw.random() >= PEOPLE_HELD_OUT
        path = root / stamp["id"]
        for language in SPOKEN:
            file = path.with_name(f"{path.name}_desc{'' if language == 'en' else f'_{language}'}.ogg")
            if file.exists() and language in names:
                yield (
                    Recording(
                        "description",
                        (names["en"].strip(" ."),),
                        f"tuxpaint {language}",
                        trained and language == "en",
                        language=language,
                        spoken=names[language].strip(" ."),
                        key=stamp["id"],
                    ),
                    file,
                )


def _effects(table: Sequence[Mapping[str, Any]], archive: Path, work: Path) -> Iterator[tuple[Recording, Path | bytes]]:
    """ESC-10's recordings, and the recordings of stamps, which are all trained on."""
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            path = Path(member.name)
            if path.suffix == ".ogg" and (file := tar.extractfile(member)):
                name = path.parent.name.partition(" - ")[2]
                fold = int(path.name.partition("-")[0])
                captions = tuple(EFFECTS[name]["en"])
                yield (
                    Recording("effect", captions, "esc10", fold != EFFECTS_HELD_OUT, language="zxx", key=name),
                    file.read(),
                )
    root = _stamp_folder(work)
    for stamp in table:
        thing = stamp["names"]["en"].partition(".")[0].strip()
        for effect in stamp["sfx"]:
            texts = (thing, f"The sound of {thing[0].lower()}{thing[1:]}")
            yield Recording("effect", texts, "tuxpaint", True, language="zxx"), (root / stamp["id"]).parent / effect
