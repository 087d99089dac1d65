"""What every command does: older spellings with a note, and help that loses no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from typer.core import TyperCommand

from hubstore.cli.output import note

RENAMED: Mapping[str, tuple[str, ...]] = {
    "--pool": ("--pooling",),
    "--normed": ("--variant", "normed"),
    "--tuned": ("--variant", "tuned"),
    "--centred": ("--centered",),
    "--effort": ("--search-effort",),
    "--also": ("--extra-model",),
}
"""Options of the release before, and what they are called now; the next release does not take them."""

COMMANDS: Mapping[str, str] = {"project": "projection"}
"""Commands of the release before, likewise."""


class Command(TyperCommand):
    """A command of hubstore."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Brackets in a help text are no markup.
        self.help = self.help and escape(self.help)
        for parameter in self.params:
            if getattr(parameter, "help", None):
                parameter.help = escape(parameter.help)  # type: ignore[attr-defined]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments, older spellings as those of now."""
        return super().parse_args(ctx, renamed_options(args, {name for one in self.params for name in one.opts}))


def renamed_options(arguments: Sequence[str], known: set[str]) -> list[str]:
    """Arguments with the options of now in the place of older ones, each of which is told once.

    Args:
        arguments: as they were typed.
        known: what the options of the command are called.
    """
    found: list[str] = []
    told: set[str] = set()
    for argument in arguments:
        name, equals, value = argument.partition("=")
        new = RENAMED.get(name, ())
        if not new or name in known or new[0] not in known:
            found.append(argument)
            continue
        if name not in told:
            note(f"{name} is deprecated; it is {' '.join(new)} now")
            told.add(name)
        found += [f"{new[0]}={value}"] if equals else new
    return found


def renamed_command(arguments: Sequence[str]) -> list[str]:
    """Arguments with the command of now in the place of an older one."""
    if not arguments or arguments[0] not in COMMANDS:
        return list(arguments)
    note(f"hubstore {arguments[0]} is deprecated; it is hubstore {COMMANDS[arguments[0]]} now")
    return [COMMANDS[arguments[0]], *arguments[1:]]
