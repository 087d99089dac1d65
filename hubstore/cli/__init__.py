"""The command line: one thin module for each command. It parses, calls the library and prints."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from hubstore.cli.command import COMMANDS as RENAMED_COMMANDS
from hubstore.cli.command import Command, renamed_command
from hubstore.cli.output import err, labeled, note
from hubstore.cli.spelling import command_of, spelled
from hubstore.cli.stopping import EXIT_STATUS
from hubstore.errors import HubstoreError, HubstoreWarning, OptionError, StoppedError
from hubstore.system import remedy
from hubstore.version import __version__

RESUMABLE = ("extract", "append")
DEBUG = "HUBSTORE_DEBUG"
"""Where this is set in the environment, errors show where in the code they were raised."""

_ARGUMENTS = "hubstore.arguments"


class _Commands(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse what is no text, which Python passes on as half of a character."""
        for number, argument in enumerate(args, 1):
            try:
                argument.encode()
            except UnicodeEncodeError:
                shown = repr(os.fsencode(argument))[1:]
                raise OptionError(
                    f"argument {number}, {shown}, is no UTF-8; write it in UTF-8, and rename a file that is called so"
                ) from None
        args = renamed_command(args)
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command. Typer would end it without a word on Ctrl-C, and with status 1 on a closed pipe."""
        try:
            return super().invoke(ctx)
        except HubstoreError as error:
            error.args = (spelled(error, command_of(self, ctx.meta[_ARGUMENTS])),)
            raise
        except KeyboardInterrupt:
            kept = "; what was committed is kept, and the same command goes on from there"
            print(f"stopped{kept if ctx.invoked_subcommand in RESUMABLE else ''}", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"hubstore {__version__}")
        raise typer.Exit


COMMANDS = (
    "plan",
    "extract",
    "append",
    "index",
    "query",
    "analyze",
    "compare",
    "hub-score",
    "projection",
    "lens",
    "trends",
    "steer",
    "experiment",
    "report",
    "serve",
    "mcp",
    "info",
    "items",
    "show",
    "verify",
    "export",
    "bench",
)
"""Each is a module of this package, in the order of the help."""


def application(names: Sequence[str] = COMMANDS) -> typer.Typer:
    """The command line with these commands; one that is not run need not be imported."""
    made = typer.Typer(
        name="hubstore",
        cls=_Commands,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Keep every layer of a model over a corpus, and ask where equivalent inputs meet.\n\n"
        "A first round: [bold]hubstore extract[/] a corpus into a store, [bold]index[/] it, [bold]query[/] an item's "
        "neighbors, [bold]analyze[/] whether translations lie near one another, and write the [bold]report[/].",
    )
    made.callback()(_options)
    for name in names:
        function = name.replace("-", "_")
        module = import_module(f"hubstore.cli.{function}")
        if name == "bench":
            made.add_typer(module.bench, name=name)
        else:
            made.command(name, cls=getattr(module, "COMMAND", Command))(getattr(module, function))
    return made


def __getattr__(name: str) -> Any:
    """`app`, the whole command line, made when it is first used."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = application()
    return globals()[name]


def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Options of hubstore itself."""


def main() -> None:
    """Run a command; whatever it raises is one line on stderr and exit status 1, or 75 where it was asked to end."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.showwarning = functools.partial(_show, warnings.showwarning)
    first = [RENAMED_COMMANDS.get(name, name) for name in sys.argv[1:2]]
    try:
        application(first if first and first[0] in COMMANDS else COMMANDS)()
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        stopped = isinstance(error, StoppedError)
        err.print(labeled("stopped" if stopped else "error", _line(error), "bold red"), soft_wrap=True)
        sys.exit(EXIT_STATUS if stopped else 1)


def _line(error: Exception) -> str:
    """What went wrong, in one line that any terminal can show."""
    text = " ".join(str(error).split()).encode(errors="backslashreplace").decode()
    if isinstance(error, HubstoreError):
        return text
    if isinstance(error, OSError) and error.errno and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; {remedy(error)} and run the same command again"
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{said.rstrip('.')}; nobody expected this one: with {DEBUG}=1 before the command it shows where it happened"


def _show(otherwise: Callable[..., None], message: Warning | str, category: type[Warning], *place: Any) -> None:
    """A warning of hubstore's is a note of one line; others are shown as Python does."""
    if issubclass(category, HubstoreWarning):
        note(str(message))
    else:
        otherwise(message, category, *place)
