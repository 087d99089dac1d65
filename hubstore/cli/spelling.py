"""Options as they are typed, in the place of Python's parameters in the messages of the library.

What a command calls a parameter is read from the command itself; PYTHON_NAMES has those that it has under another name.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hubstore.errors import HubstoreError, Parameter

PYTHON_NAMES = {
    "poolings": "pooling",
    "vectors": "vector",
    "memory_budget": "memory",
    "processes": "readers",
    "token": "token_file",
}
"""Names of the library, and of the commands' parameters that stand for them."""


def spelled(error: HubstoreError, command: Any) -> str:
    """The message of an error with a command's own options in the place of Python's parameters.

    Args:
        error: what was raised; only what it says to be a `Parameter` is replaced.
        command: the click command that raised it.

    Example:
        >>> spelled(CorpusError("leave such rows out with ", Parameter("on_error", "skip")), extract)
        "leave such rows out with --on-error skip"
    """
    flags = _flags(command)
    return "".join(_typed(part, flags) if isinstance(part, Parameter) else part for part in error.parts)


def _typed(parameter: Parameter, flags: Mapping[str, tuple[str, str]]) -> str:
    flag, negated = flags.get(parameter.name, (None, ""))
    if flag is None:
        return str(parameter)
    if parameter.value is False and negated:
        return negated
    plain = parameter.value is None or isinstance(parameter.value, bool) or parameter.value == "..."
    return flag if plain else f"{flag} {shlex.quote(str(parameter.value))}"


def _flags(command: Any) -> Mapping[str, tuple[str, str]]:
    """By Python's name an option as it is typed, and what it is typed as to be off; "" where it cannot be."""
    typed: dict[str, tuple[str, str]] = {}
    for parameter in command.params:
        if parameter.param_type_name == "option":
            long = [option for option in parameter.opts if option.startswith("--")]
            typed[parameter.name] = ((long or parameter.opts)[0], next(iter(parameter.secondary_opts), ""))
    named = {name: typed[parameter] for name, parameter in PYTHON_NAMES.items() if parameter in typed}
    return {**named, **typed}


def command_of(group: Any, arguments: Sequence[str]) -> Any:
    """The command that the arguments run, however deep it lies; the group itself where they run none."""
    for argument in arguments:
        if argument in getattr(group, "commands", {}):
            group = group.commands[argument]
    return group
