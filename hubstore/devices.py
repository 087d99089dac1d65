"""Which device a computation runs on, from what its caller says."""

from __future__ import annotations

import contextlib

import torch

from hubstore.errors import QueryError


def resolve_device(device: str) -> torch.device:
    """ "auto" is CUDA where PyTorch sees it, else the CPU; QueryError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise QueryError(f"{device!r} is no device; use auto, cpu, cuda or cuda:1") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise QueryError(f"device {device!r} was asked for, and PyTorch sees no CUDA device; use --device cpu")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise QueryError(f"there is no device {device!r}; PyTorch sees {torch.cuda.device_count()} CUDA devices")
    if resolved.type not in ("cpu", "cuda") and not _is_there(resolved):
        raise QueryError(f"PyTorch cannot compute on {device!r} here; use auto, cpu, cuda or cuda:1")
    return resolved


def _is_there(device: torch.device) -> bool:
    try:
        return torch.ones(1, device=device).tolist() == [1.0]
    except (RuntimeError, AssertionError, NotImplementedError):  # of no such device, or of one without data
        return False


def current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Within it `device`, where it is CUDA, is the current one: Triton launches there, wherever its tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
