"""Objects that go to another process through memory that both map."""

import os
from collections import deque

import numpy as np
import pyarrow as pa

from hubstore.reading.shared_memory import Segment


def test_what_is_written_is_read_with_its_arrays_and_buffers_in_place():
    segment = Segment.make()
    arrays = [np.arange(7, dtype=np.uint8), np.ones((3, 5), np.float32), np.arange(6).reshape(2, 3).T]
    sizes = segment.write(("name", arrays, pa.py_buffer(b"bytes")))
    other = Segment(os.dup(segment.descriptor))  # as another process has it
    name, found, buffer = other.read(sizes)
    assert name == "name"
    assert buffer.to_pybytes() == b"bytes"
    for one, sent in zip(found, arrays, strict=True):
        assert np.array_equal(one, sent)
        assert not one.flags.owndata
    other.close()
    segment.close()


def test_a_segment_is_free_when_nothing_lies_over_it_and_not_before():
    segment, free = Segment.make(), deque()
    found = segment.read(segment.write([np.zeros(10), np.ones(10)]), free)
    part = found[1][2:5]
    del found
    assert not free
    assert part.tolist() == [1, 1, 1]
    del part
    assert list(free) == [segment]
    assert segment.read(segment.write("no array"), free) == "no array"
    assert list(free) == [segment, segment]
    segment.close()


def test_a_segment_grows_for_what_is_larger():
    segment = Segment.make()
    segment.read(segment.write(np.ones(10)))
    large = np.arange(100_000)
    assert np.array_equal(segment.read(segment.write(large)), large)
    segment.close()


def test_what_was_read_stays_after_the_end_and_files_are_closed():
    before = len(os.listdir("/proc/self/fd"))
    segment = Segment.make()
    found = segment.read(segment.write(np.arange(1000)))
    segment.close()
    assert found.sum() == 499_500
    del found, segment
    assert len(os.listdir("/proc/self/fd")) <= before
