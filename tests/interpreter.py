"""Triton's interpreter without what takes it most of its time."""

from __future__ import annotations

import functools
import inspect
from typing import Any


@functools.cache
def hasten() -> None:
    """Have it keep which functions of the language it replaces.

    It looks through all that the language has whenever one kernel's function calls another, which takes longer than the
    function. What it replaces, and with what, stays as it is.
    """
    from triton.language import core
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_patch_builtin"):
        return  # another version's

    @functools.cache
    def builtins(place: Any) -> list[str]:
        return [name for name, member in inspect.getmembers(place) if core.is_builtin(member)]

    def patch(place: Any, builder: Any, scope: Any) -> None:
        for name in builtins(place):
            if core.is_builtin(member := getattr(place, name)):
                interpreter._patch_attr(place, name, member, builder, scope)

    interpreter._patch_builtin = patch
