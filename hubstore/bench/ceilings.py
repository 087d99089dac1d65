"""What a device can do at best: copying, reading and multiplying, each a task to run beside hubstore's own work."""

from __future__ import annotations

import torch
from torch import Tensor

from hubstore.bench.timing import Task, device_seconds


def copying(device: torch.device, size: int = 1 << 30) -> Task:
    """GB/s of a copy of `size` bytes on the device, read and written bytes both counted."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return lambda: 2 * size / device_seconds(lambda: target.copy_(source), device) / 1e9


def reading(tensor: Tensor) -> Task:
    """Seconds to read every byte of a contiguous tensor once: the sum of its bytes as float32 words."""
    data = tensor.reshape(-1).view(torch.uint8)
    words = data[: len(data) // 4 * 4].view(torch.float32)
    return lambda: device_seconds(words.sum, tensor.device)


def multiplying(m: int, n: int, width: int, *, dtype: torch.dtype, device: torch.device) -> Task:
    """TFLOP/s of one product [m, width] x [width, n], its output in `dtype` too."""
    a = torch.randn(m, width, device=device).to(dtype)
    b = torch.randn(n, width, device=device).to(dtype)
    out = torch.empty(m, n, dtype=dtype, device=device)
    return lambda: 2 * m * n * width / device_seconds(lambda: torch.matmul(a, b.T, out=out), device) / 1e12


def fastest_dtype(device: torch.device, size: int = 1024) -> torch.dtype:
    """The dtype of a device's fastest products; bfloat16 is none where a CPU has no instructions for it."""
    candidates = (torch.float16, torch.bfloat16) if device.type == "cuda" else (torch.float32, torch.bfloat16)
    tasks = {dtype: multiplying(size, size, size, dtype=dtype, device=device) for dtype in candidates}
    return max(tasks, key=lambda dtype: max(tasks[dtype]() for _ in range(3)))


def to_host(device: torch.device, size: int = 1 << 28) -> Task:
    """GB/s of a copy of `size` bytes from a GPU to page-locked memory of its host."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    return lambda: size / device_seconds(lambda: target.copy_(source, non_blocking=True), device) / 1e9
