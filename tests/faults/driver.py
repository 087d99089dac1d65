"""Runs the command line in children of one process that has imported everything, each with a fault of its own.

A line of stdin is a request: the arguments, and where which call fails. A line of stdout is what came of it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import hubstore.analysis
import hubstore.api
import hubstore.cli
import hubstore.index
from hubstore.extraction import settings
from tests.tiny_models import tiny_model

torch.set_num_threads(1)


def run(shim: ctypes.CDLL, request: dict[str, Any], output: Path) -> None:
    """In a child: one command, and its exit."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    settings.SHARD_ROWS, settings.CHUNK_ROWS = 8, 4
    sys.argv = ["hubstore", *request["arguments"]]
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    shim.fault_at(request["below"].encode(), request["call"], request["number"], request["kinds"], request["sticky"])
    code = 0
    try:
        hubstore.cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        calls = shim.fault_calls()
        shim.fault_at(b"", 0, 0, 0, 0)
        sys.stdout.flush()
        sys.stderr.flush()
        output.with_suffix(".calls").write_text(str(calls))
        os._exit(code)


def main() -> None:
    """Answer requests until there are no more."""
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    output = Path(tempfile.mkdtemp()) / "output"
    tiny_model("gpt2")  # which imports what a model needs
    print("ready", flush=True)
    for line in sys.stdin:
        output.with_suffix(".calls").unlink(missing_ok=True)
        child = os.fork()
        if not child:
            run(shim, json.loads(line), output)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        counted = output.with_suffix(".calls")
        calls = int(counted.read_text()) if counted.exists() else None
        print(json.dumps({"status": status, "said": output.read_text(errors="replace"), "calls": calls}), flush=True)


if __name__ == "__main__":
    main()
