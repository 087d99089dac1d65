"""One CPU and one thread, or a few, for everything, set before the libraries that read it are imported."""

from __future__ import annotations

import os

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


ALLOWED = sorted(os.sched_getaffinity(0))
"""The CPUs that this process had at first."""


def pin(threads: int = 1) -> int:
    """Give this process and its children as many CPUs as threads, the last that it may use; returns the last's number.

    hubstore's own threads then share that CPU with the model and with fsync's bookkeeping: what they do beside the
    model is paid for in full. Call before torch, numpy or tokenizers are imported; a suite that is run later in the
    same process with other threads tells the libraries so itself.
    """
    os.environ |= dict.fromkeys(THREADS, str(threads))
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    os.sched_setaffinity(0, ALLOWED[-threads:])
    return ALLOWED[-1]
