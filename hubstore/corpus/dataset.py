"""Reader of Hugging Face datasets: saved on disk, a folder of data files, or by id, streamed."""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from hubstore.corpus.columns import ColumnOptions, Columns
from hubstore.corpus.corpus import Corpus, Refuse
from hubstore.corpus.files import PathLike
from hubstore.corpus.item import Item
from hubstore.corpus.readers import Dialect
from hubstore.corpus.rows import Row, items_of
from hubstore.corpus.source import file_identities
from hubstore.corpus.splits import choose_config, choose_split, configurations, table_files
from hubstore.corpus.streams import MEDIA_ROWS, ROWS, arrow_tables, first_line, quietly, scratch_cache
from hubstore.corpus.tables import table_corpus
from hubstore.corpus.validate import check_options
from hubstore.errors import CorpusError

_SAVED = ("state.json", "dataset_dict.json")  # what `save_to_disk` leaves in a folder


def read_dataset(
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
            on the hub, which is streamed, never downloaded as a whole. (Of Parquet files the library may read
            ahead, at most one file.)
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
    check_options(limit, on_error)
    folder = Path(os.path.abspath(path_or_id))
    if folder.is_dir() and not is_saved_dataset(folder) and (tables := table_files(folder)):
        if revision is not None:
            raise CorpusError(f"{folder}: a folder has no revision; leave it out")
        tables, split = _of_folder(folder, tables, config, split)
        dialect = Dialect(delimiter, quotes)
        return table_corpus(tables, None, dialect, limit, on_error, name, columns, folder=folder, split=split)
    if delimiter is not None or quotes is not None:
        raise CorpusError(f"{path_or_id}: is no folder of delimited values; leave delimiter and quotes out")
    chosen = Columns(**columns)
    if is_saved_dataset(folder):
        if config is not None or revision is not None:
            raise CorpusError(f"{folder}: a dataset saved to disk has no config and no revision; leave them out")
        where, split, open_stream = _saved(folder, split)
    else:
        where, split, open_stream = _built(str(path_or_id), config, split, revision)
    called = folder.name if folder.is_dir() else str(path_or_id)

    def read(refuse: Refuse) -> Iterator[Item]:
        rows = _rows(open_stream, chosen, called, folder if folder.is_dir() else None)
        return items_of(rows, chosen, refuse, limit)

    def source() -> dict[str, Any]:
        return {
            "kind": "dataset",
            **where(),
            "split": split,
            "columns": chosen.source(),
            "limit": limit,
            "on_error": on_error,
        }

    return Corpus(name or called, source, read, skip_errors=on_error == "skip")


def _of_folder(folder: Path, files: list[Path], config: str | None, split: str | None) -> tuple[list[Path], str]:
    """The tables of a configuration and split, and the split."""
    if names := configurations(folder):
        config = choose_config(folder, names, config)
        data = _builder(str(folder), config, None)[0].config.data_files or {}
        split = _one_split(str(folder), split, list(data))
        return [Path(file) for file in data[split]], split
    if config is not None:
        raise CorpusError(f"{folder}: has no configuration {config!r}, as its README.md names none; leave config out")
    return choose_split(folder, files, split)


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


def _rows(open_stream: OpenStream, columns: Columns, called: str, folder: Path | None) -> Iterator[Row]:
    stream = _undecoded(open_stream())
    if stream.column_names is not None:  # not known for some streams before they are read
        stream = stream.select_columns(columns.needed(stream.column_names))
    number = 0
    try:
        for table in arrow_tables(stream, MEDIA_ROWS if columns.media else ROWS):
            for values in table.to_pylist():
                number += 1
                yield Row(called, "row", number, values, folder)
    except Exception as error:
        raise CorpusError(
            f"{called}, after row {number}: cannot be read: {first_line(error)}; "
            "check that its files are whole, or the connection"
        ) from error


def _undecoded(stream: Any) -> Any:
    """Pictures and sounds as they are stored: they are decoded where the model's processor needs them."""
    from datasets import Audio, Image

    for name, feature in (stream.features or {}).items():
        if isinstance(feature, Audio | Image):
            stream = stream.cast_column(name, type(feature)(decode=False))
    return stream


def _folder_identity(folder: Path) -> dict[str, Any]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {"files": file_identities(files, folder)}
