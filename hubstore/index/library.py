"""The one place where FAISS is imported, and where its indexes move to a GPU and back."""

from __future__ import annotations

import importlib
import threading
from typing import Any

import torch

from hubstore.errors import MissingDependencyError


def faiss() -> Any:
    """The FAISS module; MissingDependencyError, naming the extra to install, where there is none."""
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise MissingDependencyError(
            'FAISS is not installed: `pip install "hubstore[cpu]"`, or `pip install "hubstore[gpu]"` on a CUDA '
            "machine. Without it, exact search works: --kind exact"
        ) from error


def has_gpu(device: torch.device) -> bool:
    """Whether `device` is CUDA and this FAISS can use it (faiss-cpu cannot, whatever PyTorch sees)."""
    return device.type == "cuda" and faiss().get_num_gpus() > 0


class Gpu:
    """FAISS's scratch memory on one GPU; it must outlive every index that was moved there.

    Two searches at once would write over one another in it: `lock` is held during each.
    """

    def __init__(self, device: torch.device) -> None:
        self._number = device.index or 0
        self.lock = threading.Lock()
        self._resources = faiss().StandardGpuResources()

    def move(self, index: Any) -> Any:
        """A copy of a CPU index on the GPU."""
        return faiss().index_cpu_to_gpu(self._resources, self._number, index)

    def fetch(self, index: Any) -> Any:
        """A copy of a GPU index on the CPU."""
        return faiss().index_gpu_to_cpu(index)
