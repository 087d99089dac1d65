"""Opens a corpus by what its name looks like."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Unpack

from hubstore.corpus.columns import ColumnOptions
from hubstore.corpus.corpus import Corpus
from hubstore.corpus.dataset import is_saved_dataset, read_dataset
from hubstore.corpus.files import PathLike, files_of, format_suffix, is_tar, modality_of, walk
from hubstore.corpus.folder import METADATA, read_media_folder
from hubstore.corpus.remote import is_file_name, tars_below, url_of
from hubstore.corpus.sample import read_sample
from hubstore.corpus.tables import TABLES
from hubstore.corpus.webdataset import read_webdataset
from hubstore.errors import CorpusError
from hubstore.location import Url

SAMPLE_PREFIX: Final = "sample:"

_DATASET: Final = "dataset"
_MEDIA: Final = "media"
_TAR: Final = "tar"


def open_corpus(
    path_or_id: PathLike,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    metadata: PathLike | None = None,
    modality: str | None = None,
    concept_from: str | None = None,
    limit: int | None = None,
    on_error: str = "stop",
    name: str | None = None,
    **columns: Unpack[ColumnOptions],
) -> Corpus:
    """Open a corpus with the reader that fits: a file by its suffix, a folder by what most of its files are.

    Args:
        path_or_id: `x.jsonl`, `x.csv`, `x.tsv`, `x.tar` (each also with .gz, .bz2, .xz), `x.parquet`, a folder of
            pictures and sounds, of tar archives or of a dataset, a dataset's id on the hub, or `sample:ntrex`. Files
            and folders of archives may be URLs: s3://, gs://, az:// or, of files, https://.
        config: See `read_dataset`.
        split: See `read_dataset`.
        revision: See `read_dataset`.
        metadata: See `read_media_folder`.
        modality: See `read_media_folder`.
        concept_from: See `read_media_folder`.
        limit: Read only the first rows; of a sample, the first lines.
        on_error: `"stop"` at a row that is not valid, or `"skip"` it and list it in `Corpus.skipped`.
        name: What to call the corpus.
        columns: Which columns to read; see `ColumnOptions`.

    Raises:
        CorpusError: Nothing is there, no reader fits, or an option does not fit the reader.
    """
    datasets = _given(config=config, split=split, revision=revision)
    folders = _given(metadata=metadata, modality=modality, concept_from=concept_from)
    common: dict[str, Any] = {"limit": limit, "on_error": on_error, "name": name, **columns}
    if isinstance(path_or_id, str) and path_or_id.startswith(SAMPLE_PREFIX):
        _refuse_options(path_or_id, "a sample", {**datasets, **folders, **columns})
        return read_sample(path_or_id.removeprefix(SAMPLE_PREFIX), limit=limit)
    url = url_of(path_or_id)
    if url is not None:
        _refuse_options(str(url), "a file", {**datasets, **folders})
        return _open_url(url, common)
    path = Path(path_or_id)
    kind = _kind(path, datasets, folders) if path.is_dir() else None
    if kind == _MEDIA:
        _refuse_options(str(path), "a folder of pictures or sounds", datasets)
        return read_media_folder(path, **folders, **common)
    if kind == _TAR:
        _refuse_options(str(path), "a folder of tar archives", datasets)
        return read_webdataset([entry.path for entry in walk(path) if is_tar(Path(entry.name))], **common)
    if kind == _DATASET or _looks_like_an_id(path_or_id):
        _refuse_options(str(path_or_id), "a dataset", folders)
        return read_dataset(path_or_id, **datasets, **common)
    _refuse_options(str(path), "a file", {**datasets, **folders})
    return _reader(path, path)(path, **common)


def _open_url(url: Url, common: Mapping[str, Any]) -> Corpus:
    if not is_file_name(url):
        return read_webdataset(tars_below(url), **common)
    return _reader(Path(url.name), url)(url, **common)


def _kind(folder: Path, datasets: Mapping[str, Any], folders: Mapping[str, Any]) -> str:
    """What most files of a folder are, unless the options say what it is."""
    if datasets or is_saved_dataset(folder):
        return _DATASET
    if folders:
        return _MEDIA
    kinds = Counter({_DATASET: 0})
    for entry in walk(folder):
        file = Path(entry.name)
        if modality_of(entry.name):
            kinds[_MEDIA] += 1
        elif is_tar(file):
            kinds[_TAR] += 1
        elif format_suffix(file) in TABLES and entry.name not in METADATA:
            kinds[_DATASET] += 1
    return kinds.most_common(1)[0][0]


def _given(**options: Any) -> dict[str, Any]:
    return {option: value for option, value in options.items() if value is not None}


def _looks_like_an_id(path_or_id: PathLike) -> bool:
    """Tell an id, `owner/name`, from the path of a file. (`read_dataset` also takes ids without an owner.)"""
    if not isinstance(path_or_id, str) or Path(path_or_id).exists():
        return False
    path = Path(path_or_id)
    known = format_suffix(path) in {*TABLES, ".txt"} or is_tar(path)
    return not known and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path_or_id, re.ASCII) is not None


def _reader(path: Path, given: PathLike | Url) -> Callable[..., Corpus]:
    suffix = format_suffix(path)
    if suffix in TABLES:
        return TABLES[suffix][0]
    if is_tar(path):
        return read_webdataset
    files_of(given)
    if suffix == ".txt":
        remedy = "name its language, and the files aligned with it: read_parallel, or --parallel en=a.txt zh=b.txt"
    elif modality_of(path.name):
        remedy = "give its folder, or a table with its path in a column"
    else:
        remedy = f"give one that ends with {', '.join(TABLES)} or .tar, or call the reader of its format"
    raise CorpusError(f"{given}: no reader is known for {suffix or 'a file without a suffix'}; {remedy}")


def _refuse_options(corpus: str, kind: str, options: Mapping[str, Any]) -> None:
    if options:
        raise CorpusError(f"{corpus} is {kind}, which has no {' or '.join(options)}; leave the option out")
