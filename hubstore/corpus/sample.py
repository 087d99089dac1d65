"""The corpora that ship with hubstore, each in a folder of `samples/` with its license."""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hubstore.corpus.corpus import Corpus
from hubstore.corpus.parallel import aligned_corpus
from hubstore.corpus.validate import check_options
from hubstore.errors import CorpusError


def sample_names() -> tuple[str, ...]:
    """Return the names of the corpora that ship with hubstore."""
    return tuple(sorted(folder.name for folder in _samples().iterdir() if (folder / "en.txt").is_file()))


def read_sample(name: str, *, languages: Sequence[str] | None = None, limit: int | None = None) -> Corpus:
    """Read a corpus that ships with hubstore: `ntrex`, 300 news sentences in 14 languages of 11 scripts.

    Args:
        name: The sample; `sample_names` lists them.
        languages: The languages to read, in this order; all of them if not given, English first.
        limit: Read only the first lines.

    Raises:
        CorpusError: There is no such sample, or it lacks a language.

    Example:
        >>> read_sample("ntrex", languages=["en", "zh-Hans", "sw"], limit=100)
    """
    limit = check_options(limit, "stop")
    if name not in sample_names():
        raise CorpusError(f"there is no sample {name!r}; the samples are {', '.join(sample_names())}")
    by_language = {path.stem: path for path in _samples().joinpath(name).glob("*.txt")}
    tags = sorted(by_language, key=lambda tag: (tag != "en", tag)) if languages is None else list(languages)
    for tag in tags:
        if tag not in by_language:
            raise CorpusError(
                f"the sample {name!r} has no language {tag!r}; its languages are {', '.join(sorted(by_language))}"
            )
    if not tags:
        raise CorpusError(f"no language of the sample {name!r} was given; give one, or leave languages out for all")
    paths = {tag: by_language[tag] for tag in tags}

    def source() -> dict[str, Any]:
        digests = {tag: hashlib.sha256(path.read_bytes()).hexdigest() for tag, path in paths.items()}
        return {"kind": "sample", "sample": name, "sha256": digests, "limit": limit}

    return aligned_corpus(name, source, paths, limit, "stop")


def _samples() -> Path:
    return Path(str(files("hubstore.corpus") / "samples"))
