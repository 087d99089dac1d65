"""Opens a corpus by what its name looks like."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Final, Unpack, cast

from hubstore.corpus.columns import ColumnOptions
from hubstore.corpus.corpus import Corpus
from hubstore.corpus.dataset import is_saved_dataset, read_dataset
from hubstore.corpus.files import PathLike, files_of, paths_of, refuse_broken, walk, warn_of_others
from hubstore.corpus.folder import METADATA, read_media_folder
from hubstore.corpus.parallel import read_parallel
from hubstore.corpus.readers import KINDS, Dialect, kind_of
from hubstore.corpus.remote import is_file_name, tars_below, url_of
from hubstore.corpus.sample import read_sample
from hubstore.corpus.suffixes import format_suffix, is_tar, modality_of
from hubstore.corpus.tables import table_corpus
from hubstore.corpus.webdataset import read_webdataset
from hubstore.errors import CorpusError, Parameter
from hubstore.storage.location import Url

SAMPLE_PREFIX: Final = "sample:"
TEXT_SUFFIX: Final = ".txt"

_DATASET: Final = "dataset"
_MEDIA: Final = "media"
_TAR: Final = "tar"


def open_corpus(  # noqa: PLR0913
    path_or_id: PathLike | Url | Sequence[PathLike | Url],
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    metadata: PathLike | None = None,
    modality: str | None = None,
    concept_from: str | None = None,
    delimiter: str | None = None,
    quotes: bool | None = None,
    limit: int | None = None,
    on_error: str = "stop",
    name: str | None = None,
    **columns: Unpack[ColumnOptions],
) -> Corpus:
    """Open a corpus with the reader that fits: a file by its suffix, a folder by what most of its files are.

    Args:
        path_or_id: `x.jsonl`, `x.csv`, `x.tsv`, `x.tar` (each also with .gz, .bz2, .xz), `x.parquet`, `x.txt` (a text
            a line, of the language `language_tag`), a folder of
            images and audio, of tar archives or of a dataset, a dataset's id on the hub, or `sample:ntrex`. Files
            and folders of archives may be URLs: s3://, gs://, az:// or, of files, https://. Several tables, or several
            archives, are read one after the other.
        config: See `read_dataset`.
        split: See `read_dataset`.
        revision: See `read_dataset`.
        metadata: See `read_media_folder`.
        modality: See `read_media_folder`.
        concept_from: See `read_media_folder`.
        delimiter: See `read_csv`.
        quotes: See `read_csv`.
        limit: Read only the first rows; of a sample, the first lines.
        on_error: `"stop"` at a row that is not valid, or `"skip"` it and list it in `Corpus.skipped`.
        name: What to call the corpus.
        columns: Which columns to read; see `ColumnOptions`.

    Raises:
        CorpusError: Nothing is there, no reader fits, or an option does not fit the reader.

    Example:
        >>> corpus = hubstore.open_corpus("sample:ntrex", limit=2)
        >>> [item.id for item in corpus.items()][:3]
        ['en:1', 'ar:1', 'de:1']
    """
    datasets = _set_options(config=config, split=split, revision=revision)
    folders = _set_options(metadata=metadata, modality=modality, concept_from=concept_from)
    dialect = _set_options(delimiter=delimiter, quotes=quotes)
    common: dict[str, Any] = {"limit": limit, "on_error": on_error, "name": name, **columns}
    if not isinstance(path_or_id, str | os.PathLike | Url):
        several = tuple(path_or_id)
        if len(several) != 1:
            _refuse_options(f"{several[0]} and so on" if several else "nothing", "files", {**datasets, **folders})
            return _open_files(several, dialect, common)
        (path_or_id,) = several
    if isinstance(path_or_id, str) and path_or_id.startswith(SAMPLE_PREFIX):
        _refuse_options(path_or_id, "a sample", {**datasets, **folders, **dialect, **columns})
        return read_sample(path_or_id.removeprefix(SAMPLE_PREFIX), limit=limit)
    url = url_of(path_or_id)
    if url is not None:
        _refuse_options(str(url), "a file", {**datasets, **folders})
        return _open_url(url, dialect, common)
    assert not isinstance(path_or_id, Url)
    path = Path(path_or_id)
    if path.is_dir():
        return _open_folder(path, datasets, folders, dialect, common)
    if _looks_like_an_id(path_or_id):
        _refuse_options(str(path_or_id), "a dataset", folders)
        return read_dataset(path_or_id, **datasets, **dialect, **common)
    _refuse_options(str(path), "a file", {**datasets, **folders})
    return _open_files((path_or_id,), dialect, common)


def _open_folder(
    path: Path,
    datasets: Mapping[str, Any],
    folders: Mapping[str, Any],
    dialect: Mapping[str, Any],
    common: Mapping[str, Any],
) -> Corpus:
    kind = _kind(path, datasets, folders)
    if kind == _MEDIA:
        _refuse_options(str(path), "a folder of images or audio", datasets)
        return read_media_folder(path, **folders, **dialect, **common)
    if kind == _TAR:
        _refuse_options(str(path), "a folder of tar archives", {**datasets, **dialect})
        return read_webdataset(_archives(path), **common)
    _refuse_options(str(path), "a dataset", folders)
    return read_dataset(path, **datasets, **dialect, **common)


def _archives(folder: Path) -> list[str]:
    """The tar archives of a folder, in order; CorpusError where one is a link to nothing."""
    found, tables = [], []
    for entry in walk(folder):
        refuse_broken(entry, is_tar(entry.name))
        if is_tar(entry.name):
            found.append(entry.path)
        elif kind_of(entry.name):
            tables.append(os.path.relpath(entry.path, folder))
    warn_of_others(folder, "tar archives", tables)
    return found


def _open_url(url: Url, dialect: Mapping[str, Any], common: Mapping[str, Any]) -> Corpus:
    if not is_file_name(url):
        _refuse_options(str(url), "a folder of tar archives", dialect)
        return read_webdataset(tars_below(url), **common)
    return _open_files((url,), dialect, common)


def _open_files(files: Sequence[PathLike | Url], dialect: Mapping[str, Any], common: Mapping[str, Any]) -> Corpus:
    names = [PurePath(str(file)).name for file in files]
    if len(files) == 1 and not isinstance(files[0], Url) and format_suffix(names[0]) == TEXT_SUFFIX:
        return _open_lines(files[0], dialect, common)
    if names and all(map(is_tar, names)):
        _refuse_options(str(files[0]), "a tar archive", dialect)
        return read_webdataset(files, **common)
    for file, name in zip(files, names, strict=True):
        if kind_of(name) is None:
            raise _no_reader(file, name, several=len(files) > 1)
    columns = dict(common)
    limit, on_error, called = (columns.pop(key) for key in ("limit", "on_error", "name"))
    return table_corpus(
        paths_of(files), None, Dialect(**dialect), limit, on_error, called, cast(ColumnOptions, columns)
    )


def _open_lines(file: PathLike, dialect: Mapping[str, Any], common: Mapping[str, Any]) -> Corpus:
    """A file of lines, each of which is a text of one language."""
    options = dict(common)
    tag, limit, on_error, name = (options.pop(key, None) for key in ("language_tag", "limit", "on_error", "name"))
    _refuse_options(str(file), "a file of lines", {**dialect, **options})
    if tag is None:
        files_of(file)
        raise CorpusError(
            f"{file} is a corpus of lines, and they do not say in which language they are: name it with ",
            Parameter("language_tag", "en"),
            " (und where it is not known); of several line-aligned files, name each: read_parallel, or "
            "--parallel en=a.txt",
        )
    return read_parallel({tag: file}, limit=limit, on_error=on_error, name=name)


def _kind(folder: Path, datasets: Mapping[str, Any], folders: Mapping[str, Any]) -> str:
    """What most files of a folder are, unless the options say what it is."""
    if datasets or is_saved_dataset(folder):
        return _DATASET
    if folders:
        return _MEDIA
    kinds = Counter({_DATASET: 0})
    for entry in walk(folder):
        if modality_of(entry.name):
            kinds[_MEDIA] += 1
        elif is_tar(entry.name):
            kinds[_TAR] += 1
        elif kind_of(entry.name) and entry.name not in METADATA:
            kinds[_DATASET] += 1
    return kinds.most_common(1)[0][0]


def _set_options(**options: Any) -> dict[str, Any]:
    return {option: value for option, value in options.items() if value is not None}


def _looks_like_an_id(path_or_id: PathLike) -> bool:
    """Tell an id, `owner/name`, from the path of a file. (`read_dataset` also takes ids without an owner.)"""
    if not isinstance(path_or_id, str) or Path(path_or_id).exists():
        return False
    known = format_suffix(path_or_id) in {*KINDS, TEXT_SUFFIX} or is_tar(path_or_id)
    return not known and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path_or_id, re.ASCII) is not None


def _no_reader(file: PathLike | Url, name: str, *, several: bool) -> CorpusError:
    """What is wrong with a file that no reader takes, if it is there."""
    files_of(file)
    suffix = format_suffix(name)
    if suffix == TEXT_SUFFIX:
        remedy = "name its language, and the files aligned with it: read_parallel, or --parallel en=a.txt zh=b.txt"
    elif modality_of(name):
        remedy = "give its folder, or a table with its path in a column"
    elif several and is_tar(name):
        remedy = "give tables or tar archives, not both"
    else:
        remedy = f"give one that ends with {', '.join(KINDS)} or .tar, or call the reader of its format"
    return CorpusError(f"{file}: no reader is known for {suffix or 'a file without a suffix'}; {remedy}")


def _refuse_options(corpus: str, kind: str, options: Mapping[str, Any]) -> None:
    if options:
        first, *others = (Parameter(option, "...") for option in options)
        further = [part for option in others for part in (" or ", option)]
        raise CorpusError(f"{corpus} is {kind}, which has no ", first, *further, "; leave the option out")
