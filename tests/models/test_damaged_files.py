"""What is wrong with a file of a model's folder is said in a line, however it was damaged."""

from __future__ import annotations

import struct

import pytest

from hubstore.models.files import problem_of_file

DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("config.json", DEEP, "config.json is no JSON"),
        ("config.json", b"{", "config.json is no JSON"),
        ("model.safetensors", struct.pack("<Q", len(DEEP)) + DEEP, "its header cannot be read; fetch it again"),
        ("model.safetensors", struct.pack("<Q", 100), "is cut off or no safetensors file"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, name, data, problem):
    (tmp_path / name).write_bytes(data)
    assert problem in problem_of_file(str(tmp_path))
