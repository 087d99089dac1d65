"""Options as they are typed, in the place of Python's in the messages of the library.

The library names an option `name=value`, or "name is value; ..." where it is a number. What a command calls it is read
from the command itself; PYTHON_NAMES has those that it has under another name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

PYTHON_NAMES = {
    "text": "text_column",
    "id": "id_column",
    "concept": "concept_column",
    "language": "language_column",
    "image": "image_column",
    "audio": "audio_column",
    "revision": "corpus_revision",
    "pooling": "pool",
    "poolings": "pool",
    "vectors": "vector",
    "query_languages": "query_language",
    "memory_budget": "memory",
    "processes": "readers",
    "token": "token_file",
}
"""Names of the library, and of the commands' parameters that stand for them."""

FLAGS = {"True", "False", "None", "..."}
_OUTSIDE = r"(?<![\w?&/.'\"=-])"
_VALUE = r"'[^']*'|\"[^\"]*\"|\.\.\.|[\w.-]*\w"


def spelled(message: str, command: Any) -> str:
    """The message with a command's own options in the place of Python's.

    Args:
        message: of an error.
        command: the click command that raised it.

    Example:
        >>> spelled("leave such rows out with on_error='skip'", extract)
        "leave such rows out with --on-error skip"
    """
    flags = _flags(command)
    if not flags:
        return message
    names = "|".join(sorted(map(re.escape, flags), key=len, reverse=True))

    def assigned(found: re.Match[str]) -> str:
        name, value = found[1], found[2] or ""
        plain = value.strip("'\"")
        flag, negated = flags[name]
        if value == "False" and negated:
            return negated
        return flag if plain in FLAGS or not plain else f"{flag} {shlex.quote(plain)}"

    message = re.sub(rf"{_OUTSIDE}({names})=({_VALUE})?", assigned, message)
    message = re.sub(rf"^({names})(?= is )", lambda found: flags[found[1]][0], message)
    underscored = [name for name in flags if "_" in name]
    if not underscored:
        return message
    return re.sub(rf"{_OUTSIDE}({'|'.join(underscored)})(?!\w)", lambda found: flags[found[1]][0], message)


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
