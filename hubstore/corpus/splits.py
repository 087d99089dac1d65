"""Which tables of a folder are read: those of a configuration, of a split, or all."""

import re
from pathlib import Path, PurePath
from typing import Any, Final

from hubstore.corpus.files import refuse_broken, shown_names, walk, warn_of_others
from hubstore.corpus.readers import kind_of
from hubstore.corpus.suffixes import format_suffix, is_tar, modality_of
from hubstore.errors import CorpusError, Parameter

_ABOUT: Final = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Tables by their suffix, which describe a dataset."""

_DOCUMENT: Final = re.compile(
    r"^(readme|licen[cs]e|copying|notice|change(log|s)|citation|authors|contributing|requirements|makefile)\b"
    r"|\.(md|rst|html|pdf|bib|cff|ya?ml|toml|cfg|ini|py|sh|ipynb|log|sha\d+|md5)$"
)
"""Names of what goes along with data and is none, in lower case."""

_DATA: Final = frozenset(
    f".{name}"
    for name in (
        *("arrow", "feather", "orc", "avro", "xlsx", "xls", "ods", "xml", "npy", "npz", "h5", "hdf5", "pkl", "pickle"),
        *("pt", "sqlite", "sqlite3", "db", "tfrecord", "msgpack", "lance", "zip", "7z", "rar", "zst", "lz4", "br"),
    )
)
"""Suffixes of data that no reader takes."""

_SPLITS: Final = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Split by word, as `datasets` has them."""

_NUMBERED: Final = re.compile(r"(.+)-\d{5}-of-\d{5}\b")
_NO_WORD: Final = re.compile(r"[-._ 0-9]+")
_DEFAULT: Final = "train"


def tables_and_others(folder: Path) -> tuple[list[Path], list[Path]]:
    """Find the tables in a folder and its folders, in order, and what is none and describes none.

    Raises:
        CorpusError: A table, or what has no suffix and may be a folder of some, is a link to nothing.
    """
    tables, others = [], []
    for entry in walk(folder):
        is_table = kind_of(entry.name) is not None and entry.name not in _ABOUT
        refuse_broken(entry, is_table or format_suffix(entry.name) in _DATA)
        if is_table:
            tables.append(Path(entry.path))
        elif entry.name not in _ABOUT and not _DOCUMENT.search(entry.name.lower()):
            others.append(Path(entry.path))
    return tables, others


def check_others(folder: Path, others: list[Path], split: str | None, *, with_media: bool) -> None:
    """Say what of a folder is not read, though it is no document.

    Args:
        folder: the folder.
        others: what is neither a table nor a document.
        split: which is read; what is of another does not matter. None for all.
        with_media: whether the tables name images or audio.

    Raises:
        CorpusError: Some of it is data of a format that no reader takes.
    """
    names = [path.relative_to(folder) for path in others if not (with_media and modality_of(path.name))]
    names = [name for name in names if split is None or split_of(name) in (None, split)]
    data = [name for name in names if format_suffix(name.name) in _DATA or is_tar(name.name)]
    if data:
        raise CorpusError(
            f"{folder}: holds {shown_names(data)} beside its tables, which no reader of tables takes; convert it, "
            "move it elsewhere, or name the files to read"
        )
    warn_of_others(folder, "tables", names)


def configurations(folder: Path) -> list[str]:
    """The configurations that the folder's README.md names, as those of datasets do."""
    from huggingface_hub import metadata_load

    readme = folder / "README.md"
    try:
        card: Any = metadata_load(readme) if readme.is_file() else None
    except Exception as error:  # not UTF-8, or no YAML
        raise CorpusError(f"{readme}: its metadata cannot be read: {str(error).splitlines()[0]}; mend it") from error
    found = card.get("configs") if isinstance(card, dict) else None
    return [str(one.get("config_name", "default")) for one in found or () if isinstance(one, dict)]


def choose_split(folder: Path, files: list[Path], split: str | None) -> tuple[list[Path], str]:
    """Choose the tables of one split; a folder whose tables name none has all in `train`.

    Raises:
        CorpusError: There are several splits and none is chosen, or there is no such split.
    """
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_of(file.relative_to(folder)), []).append(file)
    if by_split.keys() == {None}:
        by_split = {_DEFAULT: files}
    names = [name for name in by_split if name is not None]
    if split is None and len(by_split) == 1:
        return by_split[names[0]], names[0]
    if split in names:
        return by_split[split], split
    problem = "has several splits" if split is None else f"has no split {split!r}"
    unnamed = by_split.get(None)
    further = f"; {unnamed[0].relative_to(folder)} is in none of them: to read all tables, name them" if unnamed else ""
    raise CorpusError(f"{folder}: {problem}; choose one of {', '.join(names)}{further}")


def split_of(path: PurePath) -> str | None:
    """Tell the split by a word in the name of a file, or in those of its folders; None where there is none."""
    for part in reversed(path.parts):
        words = _NO_WORD.split(part.lower())
        if found := next((_SPLITS[word] for word in words if word in _SPLITS), None):
            return found
    numbered = _NUMBERED.match(path.name)
    return numbered[1] if numbered and path.parent.name == "data" else None


def choose_config(folder: Path, names: list[str], config: str | None) -> str:
    """Choose one of a folder's configurations.

    Raises:
        CorpusError: There are several and none is chosen, or there is no such configuration.
    """
    if config is None and len(names) == 1:
        return names[0]
    if config in names:
        return str(config)
    problem = "has several configurations" if config is None else f"has no configuration {config!r}"
    raise CorpusError(f"{folder}: {problem}; choose one of {', '.join(names)} with ", Parameter("config", "..."))
