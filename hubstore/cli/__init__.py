"""The command line: one thin module for each command. It parses, calls the library and prints."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from hubstore.cli import (
    analyze,
    append,
    bench,
    experiment,
    export,
    extract,
    index,
    info,
    lens,
    plan,
    project,
    query,
    report,
    serve,
    steer,
    trends,
    verify,
)
from hubstore.errors import HubstoreError
from hubstore.version import __version__

RESUMABLE = ("extract", "append")


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Run a command. Typer would end it without a word on Ctrl-C, and with status 1 on a closed pipe."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            kept = "; what was committed is kept, and the same command goes on from there"
            print(f"stopped{kept if ctx.invoked_subcommand in RESUMABLE else ''}", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


app = typer.Typer(
    name="hubstore",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Keep every layer of a model over a corpus, and ask where equivalent inputs meet.\n\n"
    "A first round: [bold]hubstore extract[/] a corpus into a store, [bold]index[/] it, [bold]query[/] an item's "
    "neighbours, [bold]analyze[/] whether translations lie near one another, and write the [bold]report[/].",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hubstore {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Options of hubstore itself."""


COMMANDS = (
    plan,
    extract,
    append,
    index,
    query,
    analyze,
    project,
    lens,
    trends,
    steer,
    experiment,
    report,
    serve,
    info,
    verify,
    export,
)

for command in COMMANDS:
    name = command.__name__.rsplit(".", 1)[-1]
    app.command(name)(getattr(command, name))
app.add_typer(bench.bench, name="bench")


def main() -> None:
    """Run a command; what hubstore raises on purpose is one line on stderr and exit status 1."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        app()
    except HubstoreError as error:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {_escaped(error)}", soft_wrap=True)
        sys.exit(1)


def _escaped(error: HubstoreError) -> str:
    from rich.markup import escape

    return escape(" ".join(str(error).split()))
