"""Signatures of functions that take the fields of options classes as keyword arguments.

Editors read types, which `hubstore.named` has; `help`, notebooks and `inspect.signature` read what `takes` sets from
the classes themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

F = TypeVar("F", bound=Callable[..., Any])


def takes(*kinds: type[DataclassInstance], without: tuple[str, ...] = ()) -> Callable[[F], F]:
    """A function whose `**named` are fields of options classes shows them in its signature and explains them.

    Args:
        kinds: the classes.
        without: fields that the function does not take.
    """

    def with_options(function: F) -> F:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        names = {one.name for one in own} | set(without)
        added = [field for kind in kinds for field in fields(kind) if field.name not in names]
        parameters = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=field.type,
            )
            for field in added
        ]
        function.__signature__ = signature.replace(parameters=[*own, *parameters])  # type: ignore[attr-defined]
        helped = [f"    {field.name}: {field.metadata['help']}" for field in added if "help" in field.metadata]
        if helped and function.__doc__:
            function.__doc__ = inspect.cleandoc(function.__doc__) + "\n\nOptions:\n" + "\n".join(helped) + "\n"
        return function

    return with_options
