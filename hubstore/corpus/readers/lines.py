"""The lines of files, compressed or not, split where line-aligned corpora are split."""

import bz2
import codecs
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, cast

from hubstore.corpus.files import File, refuse_pointer
from hubstore.errors import CorpusError

_OPENERS: Final[dict[str, Callable[..., Any]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
BLOCK: Final = 1 << 16


def read_lines(file: File) -> Iterator[str]:
    r"""Read the lines of a UTF-8 file, compressed or not, without their ends.

    Lines end with `\n`, and a `\r` before it is dropped; no other character ends one. (Python's
    `splitlines`, and text files opened with universal newlines, also split at a lone `\r`, and some
    at U+0085 or U+2028, which stand inside real sentences and would shift all that follow.)

    Raises:
        CorpusError: Naming the file and the line: it is not UTF-8, or its compressed data is damaged.
    """
    for number, line in enumerate(raw_lines(file), start=1):
        yield decoded(line, file, number).removesuffix("\n").removesuffix("\r")


def raw_lines(file: File) -> Iterator[bytes]:
    r"""The lines of a file with their `\n`, without a byte order mark.

    Raises:
        CorpusError: Naming the file and the line before: it, or its compressed data, cannot be read.
    """
    number = 0
    with _opened(file, lambda: f"line {number}") as opened:
        first = opened.readline().removeprefix(codecs.BOM_UTF8)
        if first:
            number = 1
            yield first
        for number, line in enumerate(opened, start=2):  # noqa: B007  # an error names it
            yield line


def raw_blocks(file: File) -> Iterator[bytes]:
    """The bytes of a file in blocks, without a byte order mark.

    Raises:
        CorpusError: Naming the file and the byte before: it, or its compressed data, cannot be read.
    """
    read = 0
    with _opened(file, lambda: f"byte {read}") as opened:
        while block := opened.read(BLOCK):
            yield block if read else block.removeprefix(codecs.BOM_UTF8)
            read += len(block)


@contextmanager
def _opened(file: File, place: Callable[[], str]) -> Iterator[BinaryIO]:
    refuse_pointer(file)
    try:
        with file.open("rb") as raw, _unpacked(raw, file.name) as opened:
            yield opened
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise CorpusError(f"{file}, after {place()}: cannot be read: {error}; check that the file is whole") from error


def decoded(line: bytes, file: File, number: int) -> str:
    """A line of UTF-8 as text; NotUtf8Error naming the file, the line and the byte where it is none."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(error, file, number) from None


class NotUtf8Error(CorpusError):
    """A line is not UTF-8; those after it can be read."""


def not_utf8(error: UnicodeDecodeError, file: File, number: int) -> NotUtf8Error:
    """The error of a line that is not UTF-8."""
    return NotUtf8Error(
        f"{file}, line {number}: byte {error.start + 1} of the line, 0x{error.object[error.start]:02x}, "
        "is not UTF-8; convert the file to UTF-8"
    )


def _unpacked(raw: BinaryIO, name: str) -> BinaryIO:
    opener = _OPENERS.get(os.path.splitext(name)[1].lower())
    return raw if opener is None else cast(BinaryIO, opener(raw, "rb"))
