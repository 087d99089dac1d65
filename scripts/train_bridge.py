#!/usr/bin/env python3
"""Trains small bridges from pictures into a frozen Gemma-3-270M, in English only, and joins them to plain models.

    scripts/train_bridge.py data --out build/bridge/pictures.npz --names cldr_emoji_names.tar.xz
    scripts/train_bridge.py pictures --data build/bridge/pictures.npz --gemma GEMMA --out build/bridge
    scripts/train_bridge.py assemble build/bridge/pictures.safetensors --gemma GEMMA --out FOLDER

GEMMA is the folder that scripts/fetch_models.py gemma-3-270m prints. Training takes some minutes on a GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "train_bridge.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _data(commands.add_parser("data", help="get and draw the pictures to train on"))
    _pictures(commands.add_parser("pictures", help="train and evaluate the picture bridge"))
    _assemble(commands.add_parser("assemble", help="join trained parts with Gemma to a model's folder"))
    given = vars(parser.parse_args(arguments))
    given.pop("run")(given)
    return 0


def _data(parser: argparse.ArgumentParser) -> None:
    def run(given: dict[str, object]) -> None:
        from bridge_picture_data import DataError, build

        try:
            build(**given)  # type: ignore[arg-type]
        except DataError as error:
            sys.exit(f"train_bridge: {error}")

    parser.set_defaults(run=run)
    parser.add_argument("--out", type=Path, required=True, help="the data file, .npz")
    parser.add_argument("--names", type=Path, required=True, help="CLDR's emoji names: archive with names.json")
    parser.add_argument("--stamps", type=Path, help="Tux Paint's stamps: archive with stamps.json")
    parser.add_argument("--photographs", type=Path, help="COCO photographs: archive with annotations.json")
    parser.add_argument("--work", type=Path, default=Path("build/bridge/packages"), help="where packages are kept")
    parser.add_argument("--threads", type=int, default=2)


def _pictures(parser: argparse.ArgumentParser) -> None:
    def run(given: dict[str, object]) -> None:
        from bridge_pictures import Settings, evaluate, train

        parts = given.pop("evaluate")
        settings = Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        if parts is None:
            train(settings)
        else:
            evaluate(settings, parts)  # type: ignore[arg-type]

    parser.set_defaults(run=run)
    parser.add_argument("--data", type=Path, required=True, help="what `data` made")
    parser.add_argument("--gemma", type=Path, required=True, help="Gemma's folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts and what they know")
    parser.add_argument("--evaluate", type=Path, metavar="PARTS", help="evaluate these parts, without training")
    parser.add_argument("--seconds-tower", type=float, help="for the tower alone")
    parser.add_argument("--seconds-bridge", type=float, help="for tower and projector with the language model")
    parser.add_argument("--seconds-evaluation", type=float, help="that training leaves of --seconds")
    parser.add_argument("--seconds", type=float, help="for everything; evaluation stops there")
    parser.add_argument("--max-steps", type=int, help="of each stage")
    parser.add_argument("--limit", type=int, help="concepts to evaluate with")
    for name in ("batch", "width", "layers", "patch", "variants", "seed"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument(
        "--soft-weight", type=float, help="of what the language model expects after names; 0: names alone"
    )
    parser.add_argument("--languages", nargs="*", help="to evaluate in, beside English")
    parser.add_argument("--no-compile", dest="compile", action="store_false")


def _assemble(parser: argparse.ArgumentParser) -> None:
    def run(given: dict[str, object]) -> None:
        from bridge_parts import assemble_pictures

        assemble_pictures(**given)  # type: ignore[arg-type]

    parser.set_defaults(run=run)
    parser.add_argument("parts", type=Path, help="the trained parts")
    parser.add_argument("--gemma", type=Path, required=True, help="Gemma's folder")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")


if __name__ == "__main__":
    sys.exit(main())
