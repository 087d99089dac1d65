"""hubstore serve."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hubstore.cli import options
from hubstore.cli.command import Command
from hubstore.cli.output import LogHandler, err
from hubstore.errors import OptionError, QueryError

TOKEN = "HUBSTORE_TOKEN"
ORIGINALS = "--originals"


class ServeCommand(Command):
    """Says what to write in the place of --originals alone, which the release before took."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse the option without a folder, also where it has taken the store for one."""
        if ORIGINALS in args:
            value = args[args.index(ORIGINALS) + 1 :][:1]
            if not value or value[0].startswith("-"):
                raise _folder_missing()
        try:
            return super().parse_args(ctx, list(args))
        except typer.BadParameter as error:
            if ORIGINALS in args and error.param is not None and error.param.name == "stores":
                raise _folder_missing() from error
            raise


COMMAND = ServeCommand


def _folder_missing() -> OptionError:
    return OptionError(
        f"{ORIGINALS} has no folder: it gives only files that are below one; write {ORIGINALS} FOLDER, such as: "
        f"hubstore serve STORE {ORIGINALS} photographs"
    )


def serve(
    stores: Annotated[
        list[Any],
        typer.Argument(metavar="STORE...", parser=options.place, help="Folders or URLs of stores.", show_default=False),
    ],
    host: Annotated[str, typer.Option(help="Where to listen; another than loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    model: Annotated[
        str | None,
        typer.Option(help="The stores' model, to answer queries of texts, images and audio: folder or hub id."),
    ] = None,
    trust_remote_code: options.TrustOption = False,
    device: options.DeviceOption = "auto",
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the token that clients must show; or set {TOKEN}.")
    ] = None,
    experiments: Annotated[
        list[Path] | None, typer.Option("--experiments", help="A folder that `hubstore experiment --out` wrote.")
    ] = None,
    originals: Annotated[
        Path | None,
        typer.Option(
            ORIGINALS,
            metavar="FOLDER",
            help="Give items' own files too, not only previews: those below this folder, of 32 MiB at most.",
        ),
    ] = None,
    csv_safe: Annotated[
        bool,
        typer.Option(
            "--csv-safe/--no-csv-safe",
            help="Put an apostrophe before texts in CSV that a spreadsheet would take for a formula (= + - @).",
        ),
    ] = True,
    allow_stale: Annotated[bool, typer.Option("--allow-stale", help="Use indexes older than their store.")] = False,
    engine: options.EngineOption = options.Engine.local,
    address: options.AddressOption = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the dashboard in a browser.")] = False,
) -> None:
    """Serve stores to browsers and programs: a dashboard at /, an API at /api/v1, its description at /api/docs."""
    from hubstore.serve.server import serve as run

    logging.getLogger("hubstore").addHandler(LogHandler())

    def ready(url: str) -> None:
        err.print(f"serving {', '.join(store.name for store in stores)} on {url} (Ctrl-C stops)")
        if open_page:
            typer.launch(url)

    working = run(
        stores,
        host=host,
        port=port,
        token=_token(token_file),
        ready=ready,
        model=model,
        trust_remote_code=trust_remote_code,
        device=device,
        experiment_folders=experiments or (),
        originals=originals,
        csv_safe=csv_safe,
        allow_stale=allow_stale,
        engine=engine,
        address=address,
    )
    if working:  # Python would wait for its threads
        os._exit(0)


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN, "").strip() or None
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"the token file {file} cannot be read ({error})") from error
    if not token:
        raise QueryError(f"the token file {file} is empty; put a token in it: openssl rand -hex 32 > {file}")
    return token
