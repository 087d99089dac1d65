#!/usr/bin/env python3
"""Trains small bridges from images and from audio into a frozen Gemma-3-270M, in English only.

    scripts/train_bridge.py data --out build/bridge/pictures.npz --names cldr_emoji_names.tar.xz
    scripts/train_bridge.py images --data build/bridge/pictures.npz --gemma GEMMA --out build/bridge
    scripts/train_bridge.py assemble build/bridge/pictures.safetensors --gemma GEMMA --out FOLDER

    scripts/train_bridge.py audio-data --out build/bridge/sounds.npz --images build/bridge/pictures.npz \\
        --stamps tuxpaint_stamps.tar.xz --effects esc10.tar --sentences cogs.tar.xz --whisper WHISPER
    scripts/train_bridge.py audio --data build/bridge/sounds.npz --whisper WHISPER --gemma GEMMA --out build/bridge
    scripts/train_bridge.py assemble-audio build/bridge/sounds.safetensors --whisper WHISPER --gemma GEMMA --out DIR

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

    def add(name: str, older: str, what: str) -> argparse.ArgumentParser:
        """A command, which its older name calls too: deprecated."""
        return commands.add_parser(name, aliases=[older], help=what)

    _data(commands.add_parser("data", help="get and draw the images to train on"))
    _images(add("images", "pictures", "train and evaluate the image bridge"))
    _assemble(commands.add_parser("assemble", help="join trained parts with Gemma to a model's folder"))
    _audio_data(add("audio-data", "sound-data", "get, speak and encode the recordings to train on"))
    _audio_encoder(add("audio-encoder", "sound-encoder", "leave of Whisper's folder what training needs"))
    _audio(add("audio", "sounds", "train and evaluate the audio bridge"))
    _assemble_audio(add("assemble-audio", "assemble-sounds", "join a trained projector with Whisper and Gemma"))
    given = vars(parser.parse_args(arguments))
    given.pop("run")(given)
    return 0


def _data(parser: argparse.ArgumentParser) -> None:
    def run(given: dict[str, object]) -> None:
        from bridge.image_data import DataError, build

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
    parser.add_argument("--limit", type=int, help="concepts, and recordings of a kind, to evaluate with")
    for name in ("batch", "seed", *numbers):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--languages", nargs="*", help="to evaluate in, beside English")
    parser.add_argument("--no-compile", dest="compile", action="store_false")


def _images(parser: argparse.ArgumentParser) -> None:
    _training(parser, "bridge.images", "data", ("width", "layers", "patch", "variants"))
    parser.add_argument("--seconds-tower", type=float, help="for the tower alone")
    parser.add_argument(
        "--soft-weight", type=float, help="of what the language model expects after names; 0: names alone"
    )


def _assemble(parser: argparse.ArgumentParser) -> None:
    def run(given: dict[str, object]) -> None:
        from bridge.parts import assemble_images

        assemble_images(**given)  # type: ignore[arg-type]

    parser.set_defaults(run=run)
    parser.add_argument("parts", type=Path, help="the trained parts")
    parser.add_argument("--gemma", type=Path, required=True, help="Gemma's folder")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")


def _audio_data(parser: argparse.ArgumentParser) -> None:
    def run(given: dict[str, object]) -> None:
        from bridge.audio_data import DataError, build

        try:
            build(**given)  # type: ignore[arg-type]
        except DataError as error:
            sys.exit(f"train_bridge: {error}")

    parser.set_defaults(run=run)
    parser.add_argument("--out", type=Path, required=True, help="the data file, .npz")
    parser.add_argument(
        "--images", "--pictures", type=Path, required=True, help="what `data` made: the concepts are its emoji"
    )
    parser.add_argument("--stamps", type=Path, required=True, help="Tux Paint's stamps: archive with stamps.json")
    parser.add_argument("--effects", type=Path, required=True, help="ESC-10: archive of recordings")
    parser.add_argument("--sentences", type=Path, required=True, help="COGS: archive with train.tsv")
    parser.add_argument("--whisper", type=Path, required=True, help="Whisper's folder")
    parser.add_argument("--work", type=Path, default=Path("build/bridge/packages"), help="where packages are kept")
    parser.add_argument("--voices", type=int, default=3, help="for each name of a trained concept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="texts to speak")


def _audio_encoder(parser: argparse.ArgumentParser) -> None:
    def run(given: dict[str, object]) -> None:
        from bridge.audio_parts import save_encoder

        save_encoder(**given)  # type: ignore[arg-type]

    parser.set_defaults(run=run)
    parser.add_argument("whisper", type=Path, help="Whisper's folder")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make, which `audio` takes too")


def _audio(parser: argparse.ArgumentParser) -> None:
    _training(parser, "bridge.audio", "audio-data", ("copies", "workers"))
    parser.add_argument("--whisper", type=Path, required=True, help="Whisper's folder, or what `audio-encoder` made")


def _assemble_audio(parser: argparse.ArgumentParser) -> None:
    def run(given: dict[str, object]) -> None:
        from bridge.audio_parts import assemble_audio

        assemble_audio(**given)  # type: ignore[arg-type]

    parser.set_defaults(run=run)
    parser.add_argument("parts", type=Path, help="the trained projector")
    parser.add_argument("--whisper", type=Path, required=True, help="Whisper's folder")
    parser.add_argument("--gemma", type=Path, required=True, help="Gemma's folder")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")


if __name__ == "__main__":
    sys.exit(main())
