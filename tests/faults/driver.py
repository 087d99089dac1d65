"""Runs the command line in children of one process that has imported everything, each with a fault of its own.

A line of stdin is a request: the arguments, where which call fails, and what the environment and the patience with
servers are. A line of stdout is what came of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

import hubstore.analysis
import hubstore.api
import hubstore.cli
import hubstore.index
from hubstore.extraction import settings
from hubstore.storage import cloud, objects
from tests.tiny_models import tiny_model

torch.set_num_threads(1)


def run(shim: ctypes.CDLL, request: dict[str, Any], output: Path) -> None:
    """In a child: one command, and its exit."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    settings.SHARD_ROWS, settings.CHUNK_ROWS = 8, 4
    os.environ.update(request.get("environment", {}))
    if "patience" in request:
        cloud.PATIENCE = objects.FIRST_PATIENCE = timedelta(seconds=request["patience"])
    sys.argv = ["hubstore", *request["arguments"]]
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    fault = request.get("fault", {"below": "", "call": 0, "number": 0, "kinds": 0, "sticky": 0})
    shim.fault_at(fault["below"].encode(), fault["call"], fault["number"], fault["kinds"], fault["sticky"])
    code, before = 0, set(sys.modules)
    try:
        hubstore.cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        calls = shim.fault_calls()
        shim.fault_at(b"", 0, 0, 0, 0)
        sys.stdout.flush()
        sys.stderr.flush()
        loaded = sorted(name for name in sys.modules if name not in before)
        output.with_suffix(".json").write_text(json.dumps({"calls": calls, "loaded": loaded}))
        os._exit(code)


def main() -> None:
    """Answer requests until there are no more."""
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    output = Path(tempfile.mkdtemp()) / "output"
    tiny_model("gpt2")  # which imports what a model needs
    print("ready", flush=True)
    for line in sys.stdin:
        output.with_suffix(".json").unlink(missing_ok=True)
        child = os.fork()
        if not child:
            run(shim, json.loads(line), output)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = output.with_suffix(".json")
        ended = json.loads(left.read_text()) if left.exists() else {"calls": None, "loaded": []}
        for name in ended["loaded"]:  # so that the next child has them
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        gc.freeze()
        print(
            json.dumps({"status": status, "said": output.read_text(errors="replace"), "calls": ended["calls"]}),
            flush=True,
        )


if __name__ == "__main__":
    main()
