"""Reader of Hugging Face datasets: saved on disk, a folder of data files, or by id, streamed."""

import os
import posixpath
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, Unpack, cast

from hubstore.corpus.columns import ColumnOptions, Columns
from hubstore.corpus.corpus import Corpus, Refuse
from hubstore.corpus.files import File, PathLike
from hubstore.corpus.item import Item
from hubstore.corpus.readers import DIALECT_OUT, Dialect, kind_of
from hubstore.corpus.row import Row
from hubstore.corpus.rows import items_of, kept_columns
from hubstore.corpus.source import file_identities
from hubstore.corpus.splits import check_others, choose_config, choose_split, configurations, tables_and_others
from hubstore.corpus.streams import (
    MEDIA_ROWS,
    TABLE_ROWS,
    arrow_tables,
    first_line,
    quietly,
    scratch_cache,
    types_of,
    with_exact_times,
)
from hubstore.corpus.tables import table_corpus
from hubstore.corpus.validate import check_options
from hubstore.errors import CorpusError, Parameter

_SAVED = ("state.json", "dataset_dict.json")  # what `save_to_disk` leaves in a folder


def read_dataset(  # noqa: PLR0913
    path_or_id: PathLike,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    delimiter: str | None = None,
    quotes: bool | None = None,
    limit: int | None = None,
    on_error: str = "stop",
    name: str | None = None,
    **columns: Unpack[ColumnOptions],
) -> Corpus:
    """Read a dataset of the `datasets` library, or a folder of tables, each of which is read as it is by itself.

    Args:
        path_or_id: A folder (of `save_to_disk`, or of tables in any of the formats), else the id of a dataset
            on the hub, which is streamed, never downloaded as a whole.
        config: Which configuration, for a dataset that has several.
        split: Which split; may be left out where there is one. Of a folder of tables, those in whose names or
            folders it stands, as `test` does in `data/test-00000.parquet`.
        revision: A branch, tag or commit of a dataset on the hub. The commit it means now is recorded.
        delimiter: Of a folder's tables of delimited values; see `read_csv`.
        quotes: Likewise.
        limit: Read only the first rows.
        on_error: `"stop"` at a row that is not valid, or `"skip"` it and list it in `Corpus.skipped`.
        name: What to call the corpus, instead of the dataset's id or folder.
        columns: Which columns to read; see `ColumnOptions`.

    Raises:
        CorpusError: The dataset, configuration or split is not there, or the options contradict each other.
            What is wrong in a row is raised by `Corpus.batches`, with the row (the first is 1) and column.

    Example:
        >>> read_dataset(
        ...     "Helsinki-NLP/opus-100",
        ...     config="en-fr",
        ...     split="test",
        ...     text={"en": "translation.en", "fr": "translation.fr"},
        ... )
    """
    limit = check_options(limit, on_error)
    folder = Path(os.path.abspath(path_or_id))
    tables, others = tables_and_others(folder) if folder.is_dir() and not is_saved_dataset(folder) else ([], [])
    if tables:
        if revision is not None:
            raise CorpusError(f"{folder}: a folder has no revision; leave ", Parameter("revision", "..."), " out")
        found = _of_folder(folder, tables, config, split)
        if not configurations(folder):  # which say what is data
            check_others(folder, others, split, with_media=bool(columns.get("image") or columns.get("audio")))
    elif not folder.is_dir():
        found = _of_hub(str(path_or_id), config, split, revision)
    else:
        found = None
    if found is not None:
        dialect = Dialect(delimiter or found.delimiter, quotes)
        called = name or (folder.name if folder.is_dir() else str(path_or_id))
        corpus = table_corpus(found.files, None, dialect, limit, on_error, called, columns, found.identity)
        return corpus if folder.is_dir() else _connected(corpus)
    if delimiter is not None or quotes is not None:
        raise CorpusError(f"{path_or_id}: is no folder of delimited values; leave ", *DIALECT_OUT)
    chosen = Columns(**columns)
    if is_saved_dataset(folder):
        if config is not None or revision is not None:
            raise CorpusError(f"{folder}: a dataset saved to disk has no config and no revision; leave them out")
        where, split, open_stream = _saved(folder, split)
    else:
        where, split, open_stream = _built(str(path_or_id), config, split, revision)
    called = folder.name if folder.is_dir() else str(path_or_id)

    def rows() -> Generator[Row]:
        return _rows(open_stream, chosen, called, folder if folder.is_dir() else None)

    kept = kept_columns(chosen, lambda refuse: rows())

    def read(refuse: Refuse) -> Iterator[Item]:
        return items_of(rows(), chosen, refuse, limit, kept=kept())

    def source() -> dict[str, Any]:
        return {
            "kind": "dataset",
            **where(),
            "split": split,
            "columns": chosen.source(),
            "limit": limit,
            "on_error": on_error,
        }

    return Corpus(name or called, source, read, skip_errors=on_error == "skip", kept=kept)


@dataclass(frozen=True)
class _Tables:
    """Tables that are a dataset: what they are, and what is between fields where the dataset says so."""

    files: Sequence[File]
    identity: Callable[[], Mapping[str, Any]]
    delimiter: str | None = None


@dataclass(frozen=True)
class _HubFile:
    """A file of a dataset on a hub, read from there as it is needed."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return posixpath.basename(self.url)

    def open(self, _: Literal["rb"] = "rb", /) -> BinaryIO:
        from datasets.utils.file_utils import xopen

        with quietly():
            return cast(BinaryIO, xopen(self.url, "rb"))


def _of_hub(name: str, config: str | None, split: str | None, revision: str | None) -> _Tables | None:
    """The tables of a dataset on a hub; None for one that only `datasets` can read."""
    builder, streams = _builder(name, config, revision)
    split = _one_split(name, split, list(streams))
    found = _plain_tables(builder, split)
    if found is None:
        return None
    where = {"id": name, "revision": builder.hash, "config": builder.config.name, "split": split}
    return _Tables([_HubFile(file) for file in found[0]], lambda: where, found[1])


def _connected(corpus: Corpus) -> Corpus:
    """The same, with one error for whatever a lost connection raises."""

    def refusing(read: Callable[..., Iterator[Item]]) -> Callable[..., Iterator[Item]]:
        def items(*where: Any) -> Iterator[Item]:
            try:
                yield from read(*where)
            except CorpusError:
                raise
            except Exception as error:
                raise CorpusError(
                    f"{corpus.name}: cannot be read from its hub: {first_line(error)}; check the connection"
                ) from error

        return items

    return replace(corpus, read=refusing(corpus.read), seek=corpus.seek and refusing(corpus.seek))


def _plain_tables(builder: Any, split: str) -> tuple[list[str], str | None] | None:
    """The files of a split and their delimiter; None where they are no tables, or to be read with other options."""
    config = builder.config
    files = [str(file) for file in (config.data_files or {}).get(split, ())]
    without_effect = {"name", "version", "data_dir", "data_files", "description", "features", "sep", "delimiter"}
    others = [field for field in fields(config) if field.name not in without_effect]
    if not files or any(getattr(config, field.name) != field.default for field in others):
        return None
    if not all(map(kind_of, files)):
        return None
    return files, getattr(config, "delimiter", None) or _other(getattr(config, "sep", ","), ",")


def _other(value: str, usual: str) -> str | None:
    return None if value == usual else value


def _of_folder(folder: Path, files: list[Path], config: str | None, split: str | None) -> _Tables | None:
    """The tables of a configuration and split of a folder; None where only `datasets` can read them."""
    if names := configurations(folder):
        config = choose_config(folder, names, config)
        builder, streams = _builder(str(folder), config, None)
        split = _one_split(str(folder), split, list(streams))
        found = _plain_tables(builder, split)
        chosen = [Path(file) for file in found[0]] if found else []
        return found and _in_folder(folder, chosen, split, found[1])
    if config is not None:
        raise CorpusError(
            f"{folder}: has no configuration {config!r}, as its README.md names none; leave ",
            Parameter("config", "..."),
            " out",
        )
    return _in_folder(folder, *choose_split(folder, files, split))


def _in_folder(folder: Path, files: Sequence[Path], split: str, delimiter: str | None = None) -> _Tables:
    return _Tables(files, lambda: {"files": file_identities(files, folder), "split": split}, delimiter)


def is_saved_dataset(folder: Path) -> bool:
    """Tell whether `save_to_disk` wrote the folder."""
    return any((folder / file).is_file() for file in _SAVED)


OpenStream = Callable[[], Any]
Where = Callable[[], dict[str, Any]]


def _saved(folder: Path, split: str | None) -> tuple[Where, str | None, OpenStream]:
    def load() -> Any:
        from datasets import load_from_disk

        return _opening(str(folder), lambda: load_from_disk(str(folder), keep_in_memory=False))

    dataset = load()
    if not isinstance(dataset, Mapping):
        if split is not None:
            raise CorpusError(f"{folder}: has no splits; leave out the split {split!r}")
        return partial(_folder_identity, folder), None, load
    chosen = _one_split(str(folder), split, list(dataset))
    return partial(_folder_identity, folder), chosen, lambda: load()[chosen]


def _built(
    path_or_id: str, config: str | None, split: str | None, revision: str | None
) -> tuple[Where, str, OpenStream]:
    folder = Path(path_or_id)
    builder, streams = _builder(path_or_id, config, revision)
    chosen = _one_split(path_or_id, split, list(streams))

    def where() -> dict[str, Any]:
        found = _folder_identity(folder) if folder.is_dir() else {"id": path_or_id, "revision": builder.hash}
        return found | {"config": builder.config.name}

    return where, chosen, lambda: streams[chosen]


def _builder(path_or_id: str, config: str | None, revision: str | None) -> tuple[Any, Any]:
    """What `datasets` makes of a folder or an id, and its streams by split."""
    with scratch_cache() as cache:

        def build() -> tuple[Any, Any]:
            from datasets import load_dataset_builder

            options = {"cache_dir": cache} if Path(path_or_id).is_dir() else {}
            builder = load_dataset_builder(path_or_id, name=config, revision=revision, **options)
            return builder, builder.as_streaming_dataset()

        found: tuple[Any, Any] = _opening(path_or_id, build)
        return found


def _opening(path_or_id: str, load: Callable[[], Any]) -> Any:
    try:
        with quietly():
            return load()
    except Exception as error:
        raise CorpusError(
            f"{path_or_id}: cannot be opened as a dataset: {first_line(error)}; "
            "check the path or id, the config, and for a dataset on the hub the connection"
        ) from error


def _one_split(path_or_id: str, split: str | None, splits: list[str]) -> str:
    if split is None and len(splits) == 1:
        return str(splits[0])
    if split in splits:
        return str(split)
    problem = "has several splits" if split is None else f"has no split {split!r}"
    raise CorpusError(f"{path_or_id}: {problem}; choose one of {', '.join(map(str, splits))}")


def _rows(open_stream: OpenStream, columns: Columns, called: str, folder: Path | None) -> Generator[Row]:
    stream = _undecoded(open_stream())
    if stream.column_names is not None:  # not known for some streams before they are read
        stream = stream.select_columns(columns.needed(stream.column_names))
    number = 0
    try:
        for table in arrow_tables(stream, MEDIA_ROWS if columns.media else TABLE_ROWS):
            types = types_of(table.schema)
            for values in with_exact_times(table, columns, called).to_pylist():
                number += 1
                yield Row(called, "row", number, values, folder, types)
    except CorpusError:
        raise
    except Exception as error:
        raise CorpusError(
            f"{called}, after row {number}: cannot be read: {first_line(error)}; "
            "check that its files are whole, or the connection"
        ) from error


def _undecoded(stream: Any) -> Any:
    """Images and audio as they are stored: they are decoded where the model's processor needs them."""
    from datasets import Audio, Image

    for name, feature in (stream.features or {}).items():
        if isinstance(feature, Audio | Image):
            stream = stream.cast_column(name, type(feature)(decode=False))
    return stream


def _folder_identity(folder: Path) -> dict[str, Any]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {"files": file_identities(files, folder)}
