"""Reader of line-aligned files: line 12 of every file says the same thing in another language."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from hubstore.corpus.corpus import Corpus, Refuse
from hubstore.corpus.files import PathLike, existing_file
from hubstore.corpus.item import Item
from hubstore.corpus.readers.lines import not_utf8, raw_lines
from hubstore.corpus.source import file_identities
from hubstore.corpus.validate import check_options, language_problem, text_problem
from hubstore.errors import CorpusError


def read_parallel(
    files: Mapping[str, PathLike],
    *,
    limit: int | None = None,
    on_error: str = "stop",
    name: str | None = None,
) -> Corpus:
    r"""Read line-aligned UTF-8 files, one for each language.

    A line is a concept, named by its number from 1; the item of line 12 in `en` has the id `en:12`. Only
    `\n` ends a line (a `\r` before it is dropped), so that no other separator shifts the alignment.

    Args:
        files: Language (a BCP 47 tag) to file, which may be compressed (.gz, .bz2, .xz).
        limit: Read only the first lines; those after it are not compared in number.
        on_error: `"stop"` at an empty line, or `"skip"` it and list it in `Corpus.skipped`; the line's
            other languages stay.
        name: What to call the corpus, instead of the names of the files.

    Raises:
        CorpusError: There is no file, or a language is not one. What is wrong inside the files, lines of
            unequal number too, is raised by `Corpus.batches`.

    Example:
        >>> read_parallel({"en": "news.en.txt", "zh-Hans": "news.zh.txt.gz"})
    """
    limit = check_options(limit, on_error)
    paths = _checked(files)

    def source() -> dict[str, Any]:
        return {
            "kind": "parallel",
            "files": dict(zip(paths, file_identities(paths.values()), strict=True)),
            "limit": limit,
            "on_error": on_error,
        }

    return aligned_corpus(name or " + ".join(path.name for path in paths.values()), source, paths, limit, on_error)


def aligned_corpus(
    name: str, source: Callable[[], Mapping[str, Any]], paths: Mapping[str, Path], limit: int | None, on_error: str
) -> Corpus:
    """Make a corpus of line-aligned files, by language."""

    def read(refuse: Refuse) -> Iterator[Item]:
        return _items(paths, limit, refuse)

    def seek(refuse: Refuse, start: int) -> Iterator[Item]:
        lines, rest = divmod(start, len(paths))
        refuse.count(lines)
        return islice(_items(paths, limit, refuse, lines), rest, None)

    skips = on_error == "skip"
    return Corpus(name, source, read, skips, None if skips else seek)


def _items(paths: Mapping[str, Path], limit: int | None, refuse: Refuse, start: int = 0) -> Iterator[Item]:
    """Read the files side by side: all languages of line 1, then those of line 2; `start` lines are passed over.

    Raises:
        CorpusError: The files have different numbers of lines; or, through `refuse`, a line is empty.
    """
    aligned = zip_longest(*(islice(raw_lines(path), start, None) for path in paths.values()))
    for number, lines in enumerate(aligned, start=start + 1):
        if limit is not None and number > limit:
            return
        if None in lines:
            raise CorpusError(_unequal(paths))
        refuse.count()
        for (tag, path), line in zip(paths.items(), lines, strict=True):
            try:
                text = line.decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                refuse(not_utf8(error, path, number))
                continue
            if problem := text_problem(text):
                refuse(CorpusError(f"{path.name} ({tag}), line {number}: {problem}"))
            else:
                yield Item(f"{tag}:{number}", text, tag, str(number))


def _checked(files: Mapping[str, PathLike]) -> dict[str, Path]:
    if not files:
        raise CorpusError("no file was given; give a language and a file, such as en=news.en.txt")
    for tag, path in files.items():
        if problem := language_problem(tag):
            raise CorpusError(f"the language of {path} {problem}")
    return {tag: existing_file(path) for tag, path in files.items()}


def _unequal(paths: Mapping[str, Path]) -> str:
    counts = (f"{path} ({tag}) has {sum(1 for _ in raw_lines(path))}" for tag, path in paths.items())
    return f"the files are not aligned, their numbers of lines differ: {', '.join(counts)}; align them line by line"
