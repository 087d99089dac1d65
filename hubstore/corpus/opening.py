"""Opens a corpus by what its name looks like."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Unpack

from hubstore.corpus.columns import ColumnOptions
from hubstore.corpus.corpus import Corpus
from hubstore.corpus.dataset import read_dataset
from hubstore.corpus.files import PathLike, existing_file, format_suffix
from hubstore.corpus.sample import read_sample
from hubstore.corpus.tables import read_csv, read_jsonl, read_parquet
from hubstore.errors import CorpusError

SAMPLE_PREFIX: Final = "sample:"

_READERS: Final[dict[str, Callable[..., Corpus]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".tab": read_csv,
    ".parquet": read_parquet,
    ".pq": read_parquet,
}


def open_corpus(
    path_or_id: PathLike,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    on_error: str = "stop",
    name: str | None = None,
    **columns: Unpack[ColumnOptions],
) -> Corpus:
    """Open a corpus with the reader that fits: a file by its suffix, a folder or an id as a dataset.

    Args:
        path_or_id: `x.jsonl`, `x.csv`, `x.tsv` (each also with .gz, .bz2, .xz), `x.parquet`, a folder of a
            dataset, a dataset's id on the hub, or `sample:ntrex`.
        config: See `read_dataset`.
        split: See `read_dataset`.
        revision: See `read_dataset`.
        limit: Read only the first rows; of a sample, the first lines.
        on_error: `"stop"` at a row that is not valid, or `"skip"` it and list it in `Corpus.skipped`.
        name: What to call the corpus.
        columns: Which columns to read; see `ColumnOptions`.

    Raises:
        CorpusError: Nothing is there, no reader fits, or an option does not fit the reader.
    """
    given = {"config": config, "split": split, "revision": revision}
    dataset: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
    table: dict[str, Any] = {"limit": limit, "on_error": on_error, "name": name, **columns}
    if isinstance(path_or_id, str) and path_or_id.startswith(SAMPLE_PREFIX):
        _refuse_options(path_or_id, "a sample", {**dataset, **columns})
        return read_sample(path_or_id.removeprefix(SAMPLE_PREFIX), limit=limit)
    path = Path(path_or_id)
    if path.is_dir() or _looks_like_an_id(path_or_id):
        return read_dataset(path_or_id, **dataset, **table)
    _refuse_options(str(path), "a file", dataset)
    return _reader(path)(path, **table)


def _looks_like_an_id(path_or_id: PathLike) -> bool:
    """Tell an id, `owner/name`, from the path of a file. (`read_dataset` also takes ids without an owner.)"""
    if not isinstance(path_or_id, str) or Path(path_or_id).exists():
        return False
    known = format_suffix(Path(path_or_id)) in {*_READERS, ".txt"}
    return not known and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path_or_id, re.ASCII) is not None


def _reader(path: Path) -> Callable[..., Corpus]:
    suffix = format_suffix(path)
    if suffix in _READERS:
        return _READERS[suffix]
    existing_file(path)
    if suffix == ".txt":
        remedy = "name its language, and the files aligned with it: read_parallel, or --parallel en=a.txt zh=b.txt"
    else:
        remedy = f"give one that ends with {', '.join(_READERS)}, or call the reader of its format"
    raise CorpusError(f"{path}: no reader is known for {suffix or 'a file without a suffix'}; {remedy}")


def _refuse_options(corpus: str, kind: str, options: Mapping[str, Any]) -> None:
    if options:
        raise CorpusError(f"{corpus} is {kind}, which has no {' or '.join(options)}; leave the option out")
