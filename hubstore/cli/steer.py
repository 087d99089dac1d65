"""hubstore steer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubstore.cli import options
from hubstore.cli.output import out, print_json, table
from hubstore.cli.progress import counting
from hubstore.errors import SteeringError
from hubstore.storage.location import Location

if TYPE_CHECKING:
    from hubstore.models import Model
    from hubstore.steer import Direction, MediaPrompt

Texts = list[str] | None
Files = list[Path] | None


def steer(
    model: Annotated[str, typer.Option("--model", "-m", help="A causal model's folder or hub id.")],
    prompts: Annotated[Texts, typer.Option("--prompt", help="A text to go on from; several if repeated.")] = None,
    prompts_file: Annotated[Path | None, typer.Option("--prompts", help="A file with a prompt a line.")] = None,
    images: Annotated[
        Files, typer.Option("--image", help="An image to go on from, with --text after it; several if repeated.")
    ] = None,
    audio: Annotated[Files, typer.Option("--audio", help="An audio clip, likewise.")] = None,
    text: Annotated[str, typer.Option(help="What is asked of every --image and --audio.")] = "",
    media_template: Annotated[
        str | None,
        typer.Option(
            help="The prompt around an image or audio clip: {media} stands for it, {text} for --text; as in "
            "'USER: {media} {text} ASSISTANT:'. By default {media}, a line feed and {text}."
        ),
    ] = None,
    from_texts: Annotated[Texts, typer.Option("--from-text", help="Steer away from this text's state.")] = None,
    to_texts: Annotated[Texts, typer.Option("--to-text", help="... toward this one's; the mean where several.")] = None,
    from_token: Annotated[str | None, typer.Option(help="Steer away from this token's unembedding.")] = None,
    to_token: Annotated[str | None, typer.Option(help="... toward this one's.")] = None,
    store: Annotated[
        Any,
        typer.Option(parser=options.place, metavar="STORE", help="A store of this model, for the means of partitions."),
    ] = None,
    from_partition: Annotated[str | None, typer.Option(help="Steer away from this partition's mean.")] = None,
    to_partition: Annotated[str | None, typer.Option(help="... toward this one's.")] = None,
    pooling: options.PoolingOption = None,
    direction: Annotated[Path | None, typer.Option(help="A direction that --save-direction wrote.")] = None,
    direction_layer: Annotated[
        int | None, typer.Option(help="Where texts' or partitions' states are taken; the first --layer by default.")
    ] = None,
    save_direction: Annotated[Path | None, typer.Option(help="Keep the direction, as safetensors.")] = None,
    layers: Annotated[str, typer.Option("--layer", help="Layers to steer at: 9 or 9,10; 0 is the embedding.")] = "",
    strengths: Annotated[str, typer.Option("--strength", help="Multiples of the direction; 0 is no steering.")] = "0,1",
    kind: Annotated[str, typer.Option(help="add, replace, or project (strength 1 takes the direction out).")] = "add",
    positions: Annotated[
        str,
        typer.Option(
            help="Tokens of the prompt: all, last, media (those of the image or audio clip), or places such as 3,4 or "
            "0:5, special tokens counted."
        ),
    ] = "all",
    every_step: Annotated[bool, typer.Option("--every-step", help="Steer every token after the prompt too.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to go on for.")] = 32,
    temperature: Annotated[float, typer.Option(help="0 takes the most probable token; else tokens are drawn.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Draw among so many most probable tokens only.")] = None,
    top_p: Annotated[float, typer.Option(help="Draw among the most probable tokens of this probability only.")] = 1.0,
    seeds: Annotated[str, typer.Option(help="Seeds of the draws: a continuation for each.")] = "0",
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens in a batch; what suits the device.")] = None,
    model_dtype: Annotated[str, typer.Option(help="What the model computes in.")] = "auto",
    device: options.DeviceOption = "auto",
    trust_remote_code: options.TrustOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Change a model's hidden states along a direction while it goes on from a prompt.

    A prompt is a text, or an image or audio clip with a text. The direction is the difference of two texts, tokens or
    partitions of a store, or one that was kept.
    """
    from hubstore import steer as library
    from hubstore.analysis import metadata
    from hubstore.models import load_model

    sources = {
        "texts": (from_texts, to_texts),
        "tokens": (from_token, to_token),
        "partitions": (from_partition, to_partition),
        "direction": (direction, direction),
    }
    source = _only_source(sources)
    texts = _prompts(prompts, prompts_file)
    files = {"image": images or [], "audio": audio or []}
    _check_given(texts, files, text, media_template)
    at_layers: list[int] = _numbers("--layer", layers, int)
    sweep_options: dict[str, Any] = {
        "strengths": _numbers("--strength", strengths, float),
        "seeds": _numbers("--seeds", seeds, int),
        "positions": _positions(positions),
        "decoding": library.Decoding(max_new_tokens, temperature, top_k, top_p),
    }
    loaded = load_model(model, dtype=model_dtype, device=device, head=True, trust_remote_code=trust_remote_code)
    media = _media_prompts(loaded, files, text, media_template)
    at = at_layers[0] if direction_layer is None else direction_layer
    found = _direction(loaded, source, sources[source], at, store, pooling)
    if save_direction is not None:
        found.save(save_direction)
    with counting("steering") as advanced:
        result = library.sweep(
            loaded,
            found,
            [*texts, *media],
            layers=at_layers,
            kind=kind,  # type: ignore[arg-type]  # the library names those there are
            when="every step" if every_step else "prompt",
            **sweep_options,
            batch_tokens=batch_tokens,
            progress=advanced,
        )
    if as_json:
        print_json({"made_from": metadata(result), "rows": result.to_pylist()})
        return
    _show(result.to_pylist())


def _only_source(sources: Mapping[str, tuple[Any, Any]]) -> str:
    named = [name for name, sides in sources.items() if any(side is not None for side in sides)]
    if len(named) != 1:
        raise SteeringError(
            f"give one direction, not {len(named)}: --from-text and --to-text, --from-token and --to-token, "
            "--from-partition and --to-partition with --store, or --direction"
        )
    if None in sources[named[0]]:
        what = named[0].removesuffix("s")
        raise SteeringError(f"a direction has two sides; give both --from-{what} and --to-{what}")
    return named[0]


def _direction(
    model: Model, source: str, sides: tuple[Any, Any], layer: int, store: Location | None, pool: str | None
) -> Direction:
    from hubstore import steer as library
    from hubstore.opened import Store

    away, to = sides
    if source == "texts":
        return library.difference_of_texts(model, to, away, layer)
    if source == "tokens":
        return library.difference_of_tokens(model, to, away)
    if source == "direction":
        return library.load_direction(to)
    if store is None:
        raise SteeringError("--from-partition and --to-partition are partitions of a store; say which with --store")
    return library.difference_of_partitions(Store(store), to, away, layer, pool)


def _prompts(prompts: Sequence[str] | None, path: Path | None) -> list[str]:
    found = list(prompts or ())
    if path is not None:
        try:
            found += [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise SteeringError(f"--prompts {path} cannot be read as UTF-8 text: {error}") from error
    return found


def _check_given(
    texts: Sequence[str], files: Mapping[str, Sequence[Path]], text: str, media_template: str | None
) -> None:
    has_media = any(files.values())
    if not texts and not has_media:
        raise SteeringError(
            "there is no prompt; give --prompt TEXT, --prompts FILE with a prompt a line, --image FILE or --audio FILE"
        )
    if not has_media and (text or media_template is not None):
        raise SteeringError("--text and --media-template go with --image or --audio; a text alone is a --prompt")
    if text and media_template is not None and "{text}" not in media_template:
        raise SteeringError(f"--media-template {media_template!r} has no place for --text; put {{text}} into it")


def _media_prompts(
    model: Model, files: Mapping[str, Sequence[Path]], text: str, media_template: str | None
) -> list[MediaPrompt]:
    from hubstore.corpus import Item, Media
    from hubstore.steer import media_prompt
    from hubstore.steer.prompts import TEMPLATE

    template = TEMPLATE if media_template is None else media_template
    items = [Item.given(modality, Media(str(path)), text) for modality, paths in files.items() for path in paths]
    return [media_prompt(model, item, template) for item in items]


def _numbers(option: str, value: str, kind: type) -> list[Any]:
    try:
        found = [kind(part) for part in options.split_list(value) or ()]
    except ValueError:
        found = []
    if not found:
        raise SteeringError(f"{option} {value!r} is no list of numbers; write it as {option} 9 or {option} 8,9")
    return found


def _positions(value: str) -> Any:
    """ "3,0:5" as [3, slice(0, 5)]; all, last and media as they are."""
    if value in ("all", "last", "media"):
        return value
    try:
        parts = [[int(bound) if bound else None for bound in part.split(":")] for part in value.split(",")]
        found = [slice(*bounds) if len(bounds) > 1 else bounds[0] for bounds in parts]
    except (ValueError, TypeError):
        found = [None]
    if None in found:
        raise SteeringError(f"--positions {value!r} are no places of a prompt; write all, last, media, 3,4 or 0:5")
    return found


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table for each prompt: strengths down, and seeds where there are several."""
    has_seeds = len({row["seed"] for row in rows}) > 1
    for prompt in dict.fromkeys(row["prompt"] for row in rows):
        lines = [
            (f"{row['strength']:g}", *([row["seed"]] if has_seeds else []), " ".join(row["text"].split()))
            for row in rows
            if row["prompt"] == prompt
        ]
        columns = ("strength", *(["seed"] if has_seeds else []), "continuation")
        out.print(table(columns, lines, title=" ".join(prompt.split())))
