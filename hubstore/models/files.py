"""The files of a model's folder: what is refused before it is read, and what is wrong with one that cannot be."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hubstore.errors import ModelError

ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
TEXTS = (".json", ".txt", ".model", ".jinja")
"""Of configuration and tokenizer."""

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Of what makes a model's input of images or audio."""

POINTER = b"version https://git-lfs"
AGAIN = "fetch it again"


def require_readable(name: str, revision: str | None = None) -> None:
    """Refuse what transformers would read without a word, or as something else.

    Raises:
        ModelError: it is a file, an adapter, GGUF, or a file of its tokenizer is a Git LFS pointer.
    """
    path = Path(name)
    if path.is_file():
        if path.suffix == ".gguf":
            raise ModelError(_gguf(path, path.parent))
        raise ModelError(f"{name} is a file; a model is the folder that holds it, with config.json and a tokenizer")
    if not path.is_dir():
        if _hub_file(name, ADAPTER[0], revision=revision) is not None:
            raise ModelError(_adapter(name, ADAPTER[0]))
        return
    for file in ADAPTER:
        if (path / file).exists():
            raise ModelError(_adapter(name, file))
    quantized = sorted(path.glob("*.gguf"))
    if quantized and not any(one.suffix in WEIGHTS for one in path.iterdir()):
        raise ModelError(_gguf(quantized[0], path))
    for text in sorted(path.iterdir()):
        if text.suffix in TEXTS and text.is_file() and _begin(text).startswith(POINTER):
            raise ModelError(f"{name}: {_pointer(text)}")


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of a hub's model in this machine's cache, with all its weights; None where it is not whole there.

    No hub is asked.
    """
    from huggingface_hub import snapshot_download

    if ".." in f"{name} {revision}":  # names no place outside of the cache
        return None
    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        parts = [part for index in folder.glob("*.index.json") for part in _parts(index)]
        weights = any(one.suffix in WEIGHTS and one.exists() for one in folder.iterdir())
    except (OSError, ValueError):  # it is not there, or is no name of a hub's model
        return None
    return folder if weights and all((folder / part).exists() for part in parts) else None


def has_processor(name: str) -> bool:
    """Whether a model's folder, or a hub's model in this machine's cache, has what prepares images or audio."""
    folder = Path(name) if Path(name).is_dir() else cached_folder(name)
    return folder is not None and any((folder / file).is_file() for file in PROCESSORS)


def cached_commit(name: str) -> str | None:
    """The commit of a hub's model, by its name or its folder in this machine's cache; None for what is not in it."""
    folder = Path(name) if Path(name).is_dir() else cached_folder(name)
    return folder.name if folder is not None and folder.parent.name == "snapshots" else None


def _parts(index: Path) -> Collection[str]:
    """The files that the index of a checkpoint in parts names."""
    found = json.loads(index.read_bytes())
    weights = found.get("weight_map", {}) if isinstance(found, dict) else {}
    return {str(part) for part in weights.values()}


def problem_of_file(name: str) -> str:
    """What is wrong with a file of a model that could not be loaded; "" where all seem whole."""
    path = Path(name)
    if not path.is_dir():
        found = _hub_file(name, "config.json", local_files_only=True)
        if found is None:
            return ""
        path = Path(found).parent
    for file in sorted(path.iterdir()):
        if file.suffix in (*WEIGHTS, *TEXTS) and file.is_file():
            problem = _problem(file)
            if problem:
                return problem
    return ""


def _problem(file: Path) -> str:
    begin, size = _begin(file), file.stat().st_size
    if begin.startswith(POINTER):
        return _pointer(file)
    if not size:
        return f"{file.name} is empty; {AGAIN}" if file.suffix in (*WEIGHTS, ".json") else ""
    if file.suffix == ".safetensors":
        return _safetensors_problem(file, begin, size)
    if file.suffix == ".json":
        try:
            json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            return f"{file.name} is no JSON ({error}); {AGAIN}"
    if file.suffix in WEIGHTS and begin.startswith(b"PK") and not zipfile.is_zipfile(file):
        return f"{file.name} is cut off or damaged; {AGAIN}"
    return ""


def _safetensors_problem(file: Path, begin: bytes, size: int) -> str:
    """Eight bytes say how long the header is; the header says where each tensor ends."""
    header = struct.unpack("<Q", begin[:8])[0] if len(begin) >= 8 else size
    if header + 8 > size:
        return f"{file.name} is cut off or no safetensors file: it has {size:,} bytes; {AGAIN}"
    try:
        with file.open("rb") as stream:
            stream.seek(8)
            described = json.loads(stream.read(header))
        end = max((one["data_offsets"][1] for key, one in described.items() if key != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return f"{file.name} is no safetensors file: its header cannot be read; {AGAIN}"
    if header + 8 + end != size:
        return f"{file.name} has {size:,} bytes where its header says {header + 8 + end:,}; {AGAIN}"
    return ""


def _begin(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(len(POINTER))


def _pointer(file: Path) -> str:
    return f"{file.name} is a Git LFS pointer, not the file itself; run `git lfs pull` there, or {AGAIN}"


def _gguf(file: Path, folder: Path) -> str:
    return (
        f"{file} is GGUF, which hubstore does not read; use the checkpoint that it was made from, or unpack it: "
        f"AutoModelForCausalLM.from_pretrained({str(folder)!r}, gguf_file={file.name!r}).save_pretrained(NEW), and the "
        "same with AutoTokenizer"
    )


def _adapter(name: str, file: str) -> str:
    return (
        f"{name} holds an adapter ({file}), whose weights hubstore would not apply; merge it into its base model first "
        "(peft: model.merge_and_unload().save_pretrained(NEW)), or move the adapter's files away to read the base "
        "model alone"
    )


def _hub_file(name: str, file: str, **options: Any) -> str | None:
    """A file of a hub's model in the cache, fetched where it can be; None where there is none."""
    from transformers.utils import cached_file

    try:
        found: str | None = cached_file(
            name,
            file,
            **options,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):  # of no such model; whoever reads it next says so
        return None
    return found
