"""Triton's interpreter without what takes it most of its time."""

from __future__ import annotations

import functools
import inspect
from typing import Any


@functools.cache
def hasten() -> None:
    """Have it keep what it otherwise works out anew at every step; what it computes stays as it is.

    For every call of a function by a kernel it looks through all that the language has, and replaces it again; for
    every value it makes a table of the types of numpy.
    """
    from triton import language
    from triton.language import core
    from triton.runtime import interpreter

    if not {"_patch_builtin", "_patch_lang", "_LangPatchScope", "_get_np_dtype"} <= vars(interpreter).keys():
        return  # another version's

    @functools.cache
    def builtins(place: Any) -> list[str]:
        return [name for name, member in inspect.getmembers(place) if core.is_builtin(member)]

    def patch(place: Any, builder: Any, scope: Any) -> None:
        for name in builtins(place):
            if core.is_builtin(member := getattr(place, name)):
                interpreter._patch_attr(place, name, member, builder, scope)

    patch_language, replaced = interpreter._patch_lang, set()

    @functools.cache
    def languages(function: Any) -> frozenset[str]:
        """The modules of the language that a function sees, by their names."""
        here = (value for value in function.__globals__.values() if value is language or value is core)
        return frozenset(value.__name__ for value in here)

    def patch_once(function: Any) -> Any:
        outermost, seen = not replaced, languages(function)
        if seen in replaced:
            return interpreter._LangPatchScope()
        replaced.add(seen)
        scope = patch_language(function)
        if outermost:
            restore = scope.restore
            scope.restore = lambda: (replaced.clear(), restore())
        return scope

    dtype_of, known = interpreter._get_np_dtype, {}

    def dtype(kind: Any) -> Any:
        scalar = kind.element_ty if isinstance(kind, core.block_type) else kind
        name = "" if isinstance(scalar, core.pointer_type) else scalar.name
        if name not in known:
            known[name] = dtype_of(kind)
        return known[name]

    interpreter._patch_builtin = patch
    interpreter._patch_lang = patch_once
    interpreter._get_np_dtype = dtype
