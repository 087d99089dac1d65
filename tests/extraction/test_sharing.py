"""Pieces of memory between a process that writes and one that reads."""

import os

import torch

from hubstore.media.shared_memory import SegmentWriter, SharedMemoryPool


def placed(memory, start, tensor):
    return memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)


def test_what_is_written_is_read_whatever_its_dtype_and_shape():
    shared, writer = SharedMemoryPool(), SegmentWriter(os.getpid())
    sent = [torch.randn(3, 5), torch.arange(7, dtype=torch.uint8), torch.randn(2, 3).bfloat16(), torch.randn(4, 4).t()]
    segment = shared.take()
    starts = writer.write(segment, [[tensor] for tensor in sent])
    memory = shared.received(segment)
    for start, tensor in zip(starts, sent, strict=True):
        assert torch.equal(placed(memory, start, tensor), tensor)
    shared.close()


def test_a_piece_is_used_again_when_nothing_lies_over_it_and_not_before():
    shared, writer = SharedMemoryPool(), SegmentWriter(os.getpid())
    segment = shared.take()
    writer.write(segment, [[torch.zeros(10)]])
    memory = shared.received(segment)
    view = placed(memory, 0, torch.zeros(10))
    del memory
    assert shared.take() != segment
    del view
    assert shared.take() == segment
    shared.close()


def test_a_piece_grows_for_items_that_are_larger():
    shared, writer = SharedMemoryPool(), SegmentWriter(os.getpid())
    segment = shared.take()
    writer.write(segment, [[torch.ones(10)]])
    shared.received(segment)
    assert shared.take() == segment
    large = torch.arange(100_000)
    (start,) = writer.write(segment, [[large]])
    assert torch.equal(placed(shared.received(segment), start, large), large)
    shared.close()


def test_what_was_received_can_be_read_after_the_end_and_files_are_closed():
    open_before = len(os.listdir("/proc/self/fd"))
    shared, writer = SharedMemoryPool(), SegmentWriter(os.getpid())
    segment = shared.take()
    sent = torch.arange(1000)
    writer.write(segment, [[sent]])
    received = placed(shared.received(segment), 0, sent)
    shared.close()
    assert torch.equal(received, sent)
    del received, writer, shared
    assert len(os.listdir("/proc/self/fd")) <= open_before


def test_nothing_written_is_nothing_received():
    shared, writer = SharedMemoryPool(), SegmentWriter(os.getpid())
    segment = shared.take()
    assert writer.write(segment, []) == []
    assert len(shared.received(segment)) == 0
    assert shared.take() == segment
    shared.close()
