"""hubstore mcp."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from hubstore.cli import options
from hubstore.cli.output import LogHandler


def mcp(
    stores: Annotated[
        list[Any],
        typer.Argument(metavar="STORE...", parser=options.place, help="Folders or URLs of stores.", show_default=False),
    ],
    model: Annotated[str | None, typer.Option(help="The stores' model, to search for texts: folder or hub id.")] = None,
    trust_remote_code: options.TrustOption = False,
    device: options.DeviceOption = "auto",
    experiments: Annotated[
        list[Path] | None, typer.Option("--experiments", help="A folder that `hubstore experiment --out` wrote.")
    ] = None,
) -> None:
    """Let an agent read stores: the Model Context Protocol over standard input and output; nothing is written."""
    from hubstore.serve.agents import serve_agents

    logging.getLogger("hubstore").addHandler(LogHandler())
    serve_agents(
        stores,
        model=model,
        trust_remote_code=trust_remote_code,
        device=device,
        experiment_folders=experiments or (),
    )
