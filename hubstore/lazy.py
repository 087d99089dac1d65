"""Names of a package that are imported when they are first used, so that what needs little starts fast."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any

NONE: Mapping[str, str] = MappingProxyType({})


def lazy_names(
    package: str,
    homes: Mapping[str, Sequence[str]],
    renamed: Mapping[str, str] = NONE,
    modules: Sequence[str] = (),
) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: its name.
        homes: by module, ".reader", the names that are imported from there.
        renamed: names of the release before, deprecated, and what they are called now.
        modules: packages within it that are its names too.
    """

    def find(name: str) -> Any:
        if name in renamed:
            new = renamed[name]
            warnings.warn(f"{name} is deprecated; it is called {new} now", DeprecationWarning, stacklevel=2)
            return getattr(sys.modules[package], new)
        if name in modules:
            return import_module(f".{name}", package)
        for home, names in homes.items():
            if name in names:
                return getattr(import_module(home, package), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
