"""The logit lens: a sweep over the vocabulary beside the bare product of states and unembedding."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from hubstore.bench.ceilings import fastest_dtype, multiplying
from hubstore.bench.figure import HUBSTORE, Report, figure, machine_of
from hubstore.bench.states import RESULT_BYTES, require_memory, unit_states
from hubstore.bench.timing import device_seconds, interleave
from hubstore.kernels import lens_sweep


@dataclass(frozen=True)
class LensSizes:
    """[states, width] through an unembedding [vocabulary, width]: a target's log-probability and rank, the top k."""

    states: int
    width: int
    vocabulary: int
    k: int
    dtype: str = "bfloat16"

    @classmethod
    def default(cls, device: torch.device) -> LensSizes:
        """What takes a device a few seconds."""
        return cls(8192, 4096, 128_256, 10) if device.type == "cuda" else cls(256, 384, 32_000, 10)


def measure_lens(sizes: LensSizes, device: torch.device, runs: int) -> Report:
    """States/s and TFLOP/s of a sweep, on made-up states and unembedding."""
    dtype = getattr(torch, sizes.dtype)
    elements = (sizes.states + sizes.vocabulary) * sizes.width
    require_memory(elements * dtype.itemsize + RESULT_BYTES * sizes.states * sizes.k, device)
    hidden = unit_states(sizes.states, sizes.width, dtype=dtype, device=device, seed=0) * sizes.width**0.5
    # Logits then spread by 3 around 0, as a model's do.
    unembedding = unit_states(sizes.vocabulary, sizes.width, dtype=dtype, device=device, seed=1) * 3
    generator = torch.Generator(device).manual_seed(2)
    targets = torch.randint(sizes.vocabulary, (sizes.states, 1), generator=generator, device=device)
    fastest = fastest_dtype(device)
    ceiling = f"bare product, {str(fastest).removeprefix('torch.')}"
    operations = 2 * sizes.states * sizes.width * sizes.vocabulary

    def sweep() -> object:
        return lens_sweep(hidden, unembedding, targets=targets, k=sizes.k)

    tasks = {
        ceiling: multiplying(sizes.states, sizes.vocabulary, sizes.width, dtype=fastest, device=device),
        HUBSTORE: lambda: operations / device_seconds(sweep, device) / 1e12,
    }
    samples = interleave(tasks, runs, disk=False)
    work = f"{sizes.states:,} states x {sizes.width}, vocabulary {sizes.vocabulary:,}, {sizes.dtype}, k {sizes.k}"
    figures = (
        figure(work, "TFLOP/s", samples, ceiling),
        figure(work, "states/s", samples, ceiling, scale=1e12 * sizes.states / operations),
    )
    return Report("lens", machine_of(device), asdict(sizes), figures)
