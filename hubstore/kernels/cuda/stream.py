"""Rows from anywhere to the GPU in blocks: from its own memory, or from the host's, copied while it computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hubstore.kernels.rows import check_widths, in_range, refuse_non_finite

MOST_ROWS = 1 << 30  # of a block: kernels number its rows with 31 bits
STAGED_BYTES = 32 << 20  # of host memory, pinned, that rows pass through; two of them


@dataclass(frozen=True)
class Block:
    """Some rows on the device, and where they are from.

    Args:
        rows: [n, width].
        runs: (offset in the block, number of that row) where a run of consecutive numbers begins; both ascend.
    """

    rows: Tensor
    runs: tuple[tuple[int, int], ...]

    def numbers(self, positions: Tensor) -> Tensor:
        """The numbers of the rows at `positions`, int64 of any shape; -1 stays."""
        if self.runs == ((0, 0),):
            return positions
        if len(self.runs) == 1:
            return torch.where(positions < 0, -1, positions + self.runs[0][1])
        offsets = torch.tensor([offset for offset, _ in self.runs], device=positions.device)
        shifts = torch.tensor([number - offset for offset, number in self.runs], device=positions.device)
        return torch.where(positions < 0, -1, positions + shifts[torch.bucketize(positions, offsets, right=True) - 1])

    def refuse_non_finite(self, norms: Tensor, first: int) -> None:
        """Raise NonFiniteError, naming the row by number, where a norm [n] of rows from `first` on is none."""
        bad = torch.nonzero(~torch.isfinite(norms))[:, 0]
        if len(bad):
            position = first + int(bad[0])
            offset, number = max(run for run in self.runs if run[0] <= position)
            refuse_non_finite(norms[bad[0] : bad[0] + 1], "rows", number + position - offset)


def blocks(queries: Tensor, rows: Tensor | Iterable[tuple[int, Tensor]], most_bytes: int) -> Iterator[Block]:
    """The rows in blocks, in their order, on the queries' device.

    A segment that is there is a block, of MOST_ROWS at most; others are gathered into blocks of at most `most_bytes`. A
    block's numbers ascend: where a segment of smaller numbers follows, a new one begins.
    """
    gathered: list[tuple[int, Tensor]] = []
    held = 0
    for start, segment in [(0, rows)] if isinstance(rows, Tensor) else rows:
        check_widths(queries, segment)
        most = max(1, most_bytes // (max(1, segment.shape[1]) * segment.element_size()))
        step = MOST_ROWS if segment.device == queries.device else most
        for first in range(0, len(segment), step):
            piece = in_range(segment[first : first + step])
            falls = bool(gathered) and start + first < gathered[-1][0] + len(gathered[-1][1])
            changes = bool(gathered) and (piece.dtype, piece.device) != (gathered[0][1].dtype, gathered[0][1].device)
            if held and (held + len(piece) > most or falls or changes):
                yield _block(gathered, queries.device)
                gathered, held = [], 0
            gathered.append((start + first, piece))
            held += len(piece)
    if held:
        yield _block(gathered, queries.device)


def _block(pieces: list[tuple[int, Tensor]], device: torch.device) -> Block:
    runs: list[tuple[int, int]] = []
    offset = 0
    for number, piece in pieces:
        if not runs or number != runs[-1][1] + offset - runs[-1][0]:
            runs.append((offset, number))
        offset += len(piece)
    tensors = [piece for _, piece in pieces]
    if tensors[0].device == device:
        return Block(tensors[0] if len(tensors) == 1 else torch.cat(tensors), tuple(runs))
    return Block(_uploaded(tensors, device), tuple(runs))


def _uploaded(pieces: list[Tensor], device: torch.device) -> Tensor:
    """[rows, width] on its way to `device`: what the current stream does next waits for it, the host does not."""
    width = pieces[0].shape[1]
    copies = torch.cuda.Stream(device)
    step = max(1, STAGED_BYTES // (width * pieces[0].element_size()))
    staged: list[tuple[Tensor, torch.cuda.Event | None]] = [
        (torch.empty(step, width, dtype=pieces[0].dtype, pin_memory=True), None) for _ in range(2)
    ]
    with torch.cuda.stream(copies):
        out = torch.empty(sum(map(len, pieces)), width, dtype=pieces[0].dtype, device=device)
        offset = 0
        for part in (piece[i : i + step] for piece in pieces for i in range(0, len(piece), step)):
            buffer, busy = staged.pop(0)
            if busy is not None:
                busy.synchronize()
            buffer[: len(part)].copy_(part)
            out[offset : offset + len(part)].copy_(buffer[: len(part)], non_blocking=True)
            staged.append((buffer, copies.record_event()))
            offset += len(part)
    current = torch.cuda.current_stream(device)
    current.wait_stream(copies)
    out.record_stream(current)
    return out
