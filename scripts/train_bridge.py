#!/usr/bin/env python3
"""Trains small bridges from pictures and from sounds into a frozen Gemma-3-270M, in English only.

    scripts/train_bridge.py data --out build/bridge/pictures.npz --names cldr_emoji_names.tar.xz
    scripts/train_bridge.py pictures --data build/bridge/pictures.npz --gemma GEMMA --out build/bridge
    scripts/train_bridge.py assemble build/bridge/pictures.safetensors --gemma GEMMA --out FOLDER

    scripts/train_bridge.py sound-data --out build/bridge/sounds.npz --pictures build/bridge/pictures.npz \\
        --stamps tuxpaint_stamps.tar.xz --effects esc10.tar --sentences cogs.tar.xz --whisper WHISPER
    scripts/train_bridge.py sounds --data build/bridge/sounds.npz --whisper WHISPER --gemma GEMMA --out build/bridge
    scripts/train_bridge.py assemble-sounds build/bridge/sounds.safetensors --whisper WHISPER --gemma GEMMA --out FOLDER

GEMMA and WHISPER are the folders that scripts/fetch_models.py gemma-3-270m whisper-base prints. Training takes some
minutes on a GPU. The `assemble` commands join what was trained with what was not to a plain model's folder.
"""

from __future__ import annotations

import argparse
import importlib
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
    _sound_data(commands.add_parser("sound-data", help="get, speak and encode the sounds to train on"))
    _sound_encoder(commands.add_parser("sound-encoder", help="leave of Whisper's folder what training needs"))
    _sounds(commands.add_parser("sounds", help="train and evaluate the sound bridge"))
    _assemble_sounds(commands.add_parser("assemble-sounds", help="join a trained projector with Whisper and Gemma"))
    given = vars(parser.parse_args(arguments))
    given.pop("run")(given)
    return 0


def _data(parser: argparse.ArgumentParser) -> None:
    def run(given: dict[str, object]) -> None:
        from bridge.picture_data import DataError, build

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


def _training(parser: argparse.ArgumentParser, module: str, made_by: str, numbers: Sequence[str]) -> None:
    """What training and evaluating either bridge takes; `module` has Settings, train and evaluate."""

    def run(given: dict[str, object]) -> None:
        bridge = importlib.import_module(module)
        parts = given.pop("evaluate")
        settings = bridge.Settings(**{name: value for name, value in given.items() if value is not None})
        if parts is None:
            bridge.train(settings)
        else:
            bridge.evaluate(settings, parts)

    parser.set_defaults(run=run)
    parser.add_argument("--data", type=Path, required=True, help=f"what `{made_by}` made")
    parser.add_argument("--gemma", type=Path, required=True, help="Gemma's folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts and what they know")
    parser.add_argument("--evaluate", type=Path, metavar="PARTS", help="evaluate these parts, without training")
    parser.add_argument("--seconds-bridge", type=float, help="for training with the language model")
    parser.add_argument("--seconds-evaluation", type=float, help="that training leaves of --seconds")
    parser.add_argument("--seconds", type=float, help="for everything; evaluation stops there")
    parser.add_argument("--max-steps", type=int, help="of each stage")
    parser.add_argument("--limit", type=int, help="concepts, and sounds of a kind, to evaluate with")
    for name in ("batch", "seed", *numbers):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--languages", nargs="*", help="to evaluate in, beside English")
    parser.add_argument("--no-compile", dest="compile", action="store_false")


def _pictures(parser: argparse.ArgumentParser) -> None:
    _training(parser, "bridge.pictures", "data", ("width", "layers", "patch", "variants"))
    parser.add_argument("--seconds-tower", type=float, help="for the tower alone")
    parser.add_argument(
        "--soft-weight", type=float, help="of what the language model expects after names; 0: names alone"
    )


def _assemble(parser: argparse.ArgumentParser) -> None:
    def run(given: dict[str, object]) -> None:
        from bridge.parts import assemble_pictures

        assemble_pictures(**given)  # type: ignore[arg-type]

    parser.set_defaults(run=run)
    parser.add_argument("parts", type=Path, help="the trained parts")
    parser.add_argument("--gemma", type=Path, required=True, help="Gemma's folder")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")


def _sound_data(parser: argparse.ArgumentParser) -> None:
    def run(given: dict[str, object]) -> None:
        from bridge.sound_data import DataError, build

        try:
            build(**given)  # type: ignore[arg-type]
        except DataError as error:
            sys.exit(f"train_bridge: {error}")

    parser.set_defaults(run=run)
    parser.add_argument("--out", type=Path, required=True, help="the data file, .npz")
    parser.add_argument("--pictures", type=Path, required=True, help="what `data` made: the concepts are its emoji")
    parser.add_argument("--stamps", type=Path, required=True, help="Tux Paint's stamps: archive with stamps.json")
    parser.add_argument("--effects", type=Path, required=True, help="ESC-10: archive of recordings")
    parser.add_argument("--sentences", type=Path, required=True, help="COGS: archive with train.tsv")
    parser.add_argument("--whisper", type=Path, required=True, help="Whisper's folder")
    parser.add_argument("--work", type=Path, default=Path("build/bridge/packages"), help="where packages are kept")
    parser.add_argument("--voices", type=int, default=3, help="for each name of a trained concept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="texts to speak")


def _sound_encoder(parser: argparse.ArgumentParser) -> None:
    def run(given: dict[str, object]) -> None:
        from bridge.sound_parts import save_encoder

        save_encoder(**given)  # type: ignore[arg-type]

    parser.set_defaults(run=run)
    parser.add_argument("whisper", type=Path, help="Whisper's folder")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make, which `sounds` takes too")


def _sounds(parser: argparse.ArgumentParser) -> None:
    _training(parser, "bridge.sounds", "sound-data", ("copies", "workers"))
    parser.add_argument("--whisper", type=Path, required=True, help="Whisper's folder, or what `sound-encoder` made")


def _assemble_sounds(parser: argparse.ArgumentParser) -> None:
    def run(given: dict[str, object]) -> None:
        from bridge.sound_parts import assemble_sounds

        assemble_sounds(**given)  # type: ignore[arg-type]

    parser.set_defaults(run=run)
    parser.add_argument("parts", type=Path, help="the trained projector")
    parser.add_argument("--whisper", type=Path, required=True, help="Whisper's folder")
    parser.add_argument("--gemma", type=Path, required=True, help="Gemma's folder")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")


if __name__ == "__main__":
    sys.exit(main())
