"""Extractions that end at a chosen moment: killed or failing at their n-th write, or n-th item read."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from hubstore.corpus import Corpus, Item
from hubstore.errors import CorpusUnreachableError, HubstoreError
from hubstore.extraction import Settings, append, extract, parts, settings
from tests.tiny_models import tiny_model

GENERATION = 7
SIZES = {"A": 17, "B": 10, "C": 3}
"""Items of three corpora: of three generations, of two, and of one."""

SETTINGS = Settings(poolings=("mean",), layers=("0",), batch_tokens=256)
WRITES = ((os, "write"), (os, "fsync"), (os, "link"), (shutil, "move"), (Path, "replace"), (Path, "unlink"))

torch.set_num_threads(1)
tiny_model("gpt2")  # made before this process forks, and for all that it forks


def corpus(name: str) -> Corpus:
    """One of the corpora; its name is in every id."""
    return Corpus.from_items(
        [Item(f"{name}{i}", f"Item {i} of {name}", ("en", "de")[i % 2], f"c{i}") for i in range(SIZES[name])], name
    )


def run(
    verb: str, name: str, path: Path, at: int | None, kill: bool, answer: Connection, part: str | None = None
) -> None:
    """Extract or append in a process of its own, and send None or the error that ended it.

    Args:
        verb: "extract" or "append".
        name: of the corpus.
        path: of the store.
        at: the write or read that ends it; None for none.
        kill: whether it is killed there, or reading fails from there on.
        answer: what to send by.
        part: to do, such as "1/4"; None for all.
    """
    parts.POLL_S = 0.05
    settings.SHARD_ROWS, settings.CHUNK_ROWS = 4, 2  # two shards to a generation
    moments = itertools.count(1)
    lock = threading.Lock()

    def moment() -> None:
        with lock:
            here = next(moments)
        if kill and here == at:
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*given: Any, **options: Any) -> Any:
            moment()
            return call(*given, **options)

        return counting

    for owner, call in WRITES:
        setattr(owner, call, counted(getattr(owner, call)))
    whole = corpus(name)
    reads = itertools.count(1)

    def read(refuse: Any) -> Any:
        for item in whole.read(refuse):
            moment()
            if not kill and next(reads) == at:
                raise CorpusUnreachableError("the disk is away")
            yield item

    try:
        given = replace(whole, read=read)
        if verb == "extract":
            extract(given, tiny_model("gpt2"), path, SETTINGS, generation_items=GENERATION, part=part)
        else:
            append(given, tiny_model("gpt2"), path, generation_items=GENERATION, part=part)
    except HubstoreError as error:
        answer.send(f"{type(error).__name__}: {error}")
    else:
        answer.send(None)
