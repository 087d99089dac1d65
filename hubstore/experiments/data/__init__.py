"""The data that experiments ship with, each in a folder with its licence and origin."""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Program:
    """A program of MBPP.

    Args:
        task: its number there, from 1.
        code: Python, with line feeds.
        tests: assertions, each a line or more of Python.
    """

    task: int
    code: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Meaning:
    """A sentence of COGS and what it means.

    Args:
        sentence: English.
        form: its logical form.
    """

    sentence: str
    form: str


def shipped_bytes(name: str) -> bytes:
    """The bytes of a file that ships, such as "mbpp/mbpp.jsonl.xz"."""
    return (files("hubstore.experiments.data") / name).read_bytes()


def programs() -> list[Program]:
    """The 974 programs of MBPP (Austin et al., 2021), in its order."""
    lines = lzma.decompress(shipped_bytes("mbpp/mbpp.jsonl.xz")).decode().splitlines()
    return [Program(row["task_id"], row["code"], tuple(row["tests"])) for row in map(json.loads, lines)]


def meanings() -> list[Meaning]:
    """The 24,012 training sentences of COGS (Kim and Linzen, 2020), in its order; its single words are left out."""
    lines = lzma.decompress(shipped_bytes("cogs/cogs.tsv.xz")).decode().splitlines()
    return [Meaning(*line.split("\t")) for line in lines]
