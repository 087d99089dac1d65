"""One CPU and one thread for everything, set before the libraries that read it are imported."""

from __future__ import annotations

import os

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


def pin() -> int:
    """Give this process and its children one CPU, the last that it may use; returns its number.

    hubstore's own threads then share that CPU with the model and with fsync's bookkeeping: what they do beside the
    model is paid for in full. Call before torch, numpy or tokenizers are imported.
    """
    os.environ |= dict.fromkeys(THREADS, "1")
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    cpu = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    return cpu
