"""Sums of table entries that packed codes of 4 bits name, 32 rows at once, by the processor's byte shuffles.

A block has for each group of 4 elements 16 bytes: byte j the codes of rows p and 16 + p in its lower and upper half,
with p = 0, 8, 1, 9, ..., as FAISS packs them. A shuffle looks 16 such codes up in a table of 16 bytes; here 2 or 4
groups are looked up by one instruction, of AVX2 or AVX-512. numba has no name for it, so the loop is written in LLVM's
terms.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

BLOCK_ROWS = 32
"""Rows whose codes FAISS's fast scan packs together."""

STEP = 64
"""Bytes of codes and of tables that are looked up in one round; what a table lacks of a multiple is zero."""


AHEAD = 4096
"""Bytes that codes are asked of memory ahead."""


@cache
def vector_bytes() -> int:
    """Bytes of this processor's shuffles: 64 (AVX-512), 32 (AVX2), or 0 where it has neither."""
    if numba.config.CPU_NAME is not None or numba.config.CPU_FEATURES is not None:
        return 0  # compiled for another processor than this
    features = binding.get_host_cpu_features()
    return 64 if features.get("avx512bw") else 32 if features.get("avx2") else 0


@intrinsic  # type: ignore[untyped-decorator]
def block_sums(typing: Any, codes: Any, table: Any, length: Any, sums: Any) -> Any:
    """Write the sums of one block to `sums`, the address of 32 uint16, of which none may exceed 65,535.

    `codes` and `table` are addresses of `length` bytes, a multiple of `STEP`; of the codes that are beyond the block's
    last group the table has to say 0.
    """
    address = types.uintp
    return types.void(address, address, types.intp, address), _generate


def _generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    wide = vector_bytes()
    byte, word = ir.VectorType(ir.IntType(8), wide), ir.VectorType(ir.IntType(16), wide // 2)
    name = "llvm.x86.avx512.pshuf.b.512" if wide == 64 else "llvm.x86.avx2.pshuf.b"
    shuffle = cgutils.get_or_insert_function(builder.module, ir.FunctionType(byte, [byte, byte]), name)
    codes, table, length, sums = arguments
    low, shift, eight = (ir.Constant(word, [n] * (wide // 2)) for n in (0x0F0F, 4, 8))
    # All bytes added as words, and the upper ones alone: what these carry into the others is taken off at the end.
    totals = [cgutils.alloca_once_value(builder, ir.Constant(word, None)) for _ in range(4)]
    size = length.type
    with cgutils.for_range_slice(builder, ir.Constant(size, 0), length, ir.Constant(size, wide), size) as (at, _):
        packed = _load(builder, builder.add(codes, at), word)
        values = _load(builder, builder.add(table, at), byte)
        _prefetch(builder, builder.add(builder.add(codes, at), ir.Constant(size, AHEAD)))
        for half, nibbles in enumerate((packed, builder.lshr(packed, shift))):
            chosen = builder.bitcast(builder.and_(nibbles, low), byte)
            found = builder.bitcast(builder.call(shuffle, [values, chosen]), word)
            for total, part in zip(totals[2 * half :], (found, builder.lshr(found, eight)), strict=False):
                builder.store(builder.add(builder.load(total), part), total)
    for half in (0, 1):
        both, upper = (builder.load(total) for total in totals[2 * half : 2 * half + 2])
        lower = builder.sub(both, builder.shl(upper, eight))
        for part, found in enumerate((lower, upper)):
            place = builder.add(sums, ir.Constant(sums.type, 32 * half + 16 * part))
            summed = _sum_of_lanes(builder, found, wide // 16)
            builder.store(summed, builder.inttoptr(place, summed.type.as_pointer()), align=2)
    return context.get_dummy_value()


def _prefetch(builder: Any, address: Any) -> None:
    """Have a line of the cache read that is wanted soon: of itself the processor looks no further than a page."""
    pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
    call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    to_read, keep, data = (ir.Constant(number, n) for n in (0, 3, 1))
    builder.call(call, [builder.inttoptr(address, pointer), to_read, keep, data])


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def _sum_of_lanes(builder: Any, words: Any, lanes: int) -> Any:
    """8 words, each the sum of those at its place in every 16 bytes."""
    none = ir.Constant(words.type, ir.Undefined)
    total = None
    for lane in range(lanes):
        mask = ir.Constant(ir.VectorType(ir.IntType(32), 8), list(range(8 * lane, 8 * lane + 8)))
        part = builder.shuffle_vector(words, none, mask)
        total = part if total is None else builder.add(total, part)
    return total
