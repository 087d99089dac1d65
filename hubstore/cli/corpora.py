"""Options of the commands that read a corpus through a model: extract, append and plan. Each is declared once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from hubstore.checks import check_number
from hubstore.cli import options
from hubstore.errors import CorpusError, StoreError

CorpusArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="CORPUS...",
        help="A file (.jsonl, .csv, .tsv, .parquet, .tar, or .txt with a text a line) or several of them, a folder of "
        "such or of images and audio, the id of a Hugging Face dataset, sample:ntrex; a file or a folder of .tar may "
        "be a URL (s3://, gs://, az://, of a file https://); or, with --parallel, LANGUAGE=FILE for each language: "
        "en=a.txt zh=b.txt.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class CorpusOptions:
    """Which rows, columns and files of a corpus are read, and as what."""

    parallel: Annotated[
        bool, typer.Option("--parallel", help="CORPUS is line-aligned files: line 12 of each says the same.")
    ] = False
    mix: Annotated[
        bool,
        typer.Option(
            "--mix",
            help="CORPUS is several with weights, a.jsonl=0.7 b.parquet=0.3: each next item is of one drawn by them, "
            "until that has none left.",
        ),
    ] = False
    mix_seed: Annotated[int, typer.Option("--mix-seed", help="Seed of what --mix draws.")] = 0
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text-column",
            help="Column of the text. In a table with a column for each language, LANGUAGE=COLUMN for each.",
        ),
    ] = None
    id: Annotated[str | None, typer.Option("--id-column", help="Column of the ids.")] = None
    concept: Annotated[
        str | None, typer.Option("--concept-column", help="Column that equivalent items share a value of.")
    ] = None
    language: Annotated[str | None, typer.Option("--language-column", help="Column of the BCP 47 tags.")] = None
    language_tag: Annotated[str | None, typer.Option("--language-tag", help="One language for all items.")] = None
    image: Annotated[
        str | None,
        typer.Option("--image-column", help="Column of images: paths or bytes. Its row's texts are captions."),
    ] = None
    audio: Annotated[str | None, typer.Option("--audio-column", help="Column of audio, likewise.")] = None
    speech: Annotated[
        bool, typer.Option("--speech", help="Audio is speech in its row's language, rather than in none (zxx).")
    ] = False
    keep_columns: Annotated[
        str | None,
        typer.Option(
            "--keep-columns",
            help="Further columns to keep in the item tables, for filters: year,source or, with a type, year:int64; "
            "all; none.",
        ),
    ] = None
    metadata: Annotated[
        Path | None,
        typer.Option(
            help="A folder's table of captions, with a column file_name. Its metadata.jsonl or .csv by default."
        ),
    ] = None
    modality: Annotated[str | None, typer.Option("--modality", help="Of a folder, only the images or the audio.")] = (
        None
    )
    concept_from: Annotated[
        str | None,
        typer.Option(
            help="What the concept of a folder's file is: its name without the suffix, its folder, or its path."
        ),
    ] = None
    delimiter: Annotated[
        str | None,
        typer.Option("--delimiter", help="Between the fields of delimited values: ';', tab. By the suffix."),
    ] = None
    quotes: Annotated[
        bool | None,
        typer.Option(
            "--quotes/--no-quotes",
            help="Whether quotation marks enclose fields of delimited values, or stand in them like other characters. "
            "By default they enclose, and one that seems to be a stray one is refused.",
        ),
    ] = None
    config: Annotated[str | None, typer.Option("--config", help="Configuration of a dataset.")] = None
    split: Annotated[str | None, typer.Option("--split", help="Split of a dataset.")] = None
    revision: Annotated[str | None, typer.Option("--corpus-revision", help="Revision of a dataset on a hub.")] = None
    limit: Annotated[int | None, typer.Option("--limit", help="Read only the first rows or lines.")] = None
    on_error: Annotated[
        options.OnError,
        typer.Option("--on-error", help="What is broken, a row or a medium: stop there, or skip and list it."),
    ] = options.OnError.stop


@dataclass(frozen=True)
class SettingsOptions:
    """What is extracted of each item, and how it is read."""

    pooling: Annotated[
        str,
        typer.Option(
            "--pooling",
            help="How an item becomes one row: last, mean, first; media or text: the mean over a medium's tokens or "
            "over those beside it; tokens: every token a row. Comma-separated.",
        ),
    ] = "mean"
    layers: Annotated[
        str,
        typer.Option(
            "--layers",
            help="Such as 0,6,-1; all: 0 to the last block. final, after the final norm, is apart: all,final.",
        ),
    ] = "all"
    dtype: Annotated[str, typer.Option(help="The store's: auto, float16, bfloat16 or float32.")] = "auto"
    prefix: Annotated[str, typer.Option(help='Put before every text, such as "query: ".')] = ""
    template: Annotated[str, typer.Option(help="What the model reads; {text} is the item's text.")] = "{text}"
    media_template: Annotated[
        str,
        typer.Option(help="What goes with an image or audio clip: {media} stands for it, {text} for its item's text."),
    ] = "{media}"
    previews: Annotated[
        bool, typer.Option("--previews", help="Keep thumbnails and short clips in the store, to show results with.")
    ] = False
    max_tokens: Annotated[int | None, typer.Option(help="Cut longer texts here. The model's limit by default.")] = None
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens in a batch, padding included.")] = None
    media_tokens: Annotated[int | None, typer.Option(help="Tokens in a batch of images or audio clips.")] = None
    padding: Annotated[str, typer.Option(help="right or left, where batches are padded.")] = "right"
    batching: Annotated[
        str, typer.Option(help="packed (items end to end), padded, or auto: packed in half precision on a GPU.")
    ] = "auto"
    compile: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Compile the model's blocks. Where a long run gains, by default."),
    ] = None
    memory: Annotated[float, typer.Option(help="GiB for a shard being assembled.")] = 1.0
    compressor: Annotated[
        str, typer.Option(help="none, or blosc-lz4-bitshuffle (bfloat16: a quarter smaller, slower).")
    ] = "none"

    def settings(self) -> Any:
        """As the library takes them."""
        from hubstore.extraction import Settings

        if self.prefix and self.template != "{text}":
            raise StoreError("give --prefix or --template, not both")
        same = ("dtype", "media_template", "previews", "max_tokens", "batch_tokens", "media_tokens", "compressor")
        return Settings(
            **{name: getattr(self, name) for name in (*same, "padding", "batching")},
            poolings=tuple(options.split_list(self.pooling) or ()),
            layers=tuple(part.strip() for part in self.layers.split(",")),
            template=self.prefix.replace("{text}", "") + "{text}" if self.prefix else self.template,
            compile={None: "auto", True: "on", False: "off"}[self.compile],
            memory_budget=int(check_number("memory", self.memory, above=0) * (1 << 30)),
        )


@dataclass(frozen=True)
class RunOptions:
    """How an extraction runs; none of it changes the store."""

    device: options.DevicesOption = "auto"
    readers: Annotated[
        int | None,
        typer.Option(
            "--readers",
            min=0,
            help="Processes that read texts and media beside a GPU. All spare CPUs by default.",
        ),
    ] = None
    ignore_space: Annotated[
        bool, typer.Option("--ignore-space", help="Begin even where the disk has no room for the store.")
    ] = False
    engine: options.EngineOption = options.Engine.local
    address: options.AddressOption = None
    part: Annotated[
        str | None,
        typer.Option(
            "--part",
            metavar="N/COUNT",
            help="Do one part of several, such as 3/16: as many processes, each with its own, share the store.",
        ),
    ] = None


def open_items(corpus: Sequence[str], chosen: CorpusOptions) -> Any:
    """The corpus that the options describe."""
    from hubstore.corpus import mix_corpora, open_corpus, read_parallel

    others = ("parallel", "mix", "mix_seed", "text", "limit", "on_error")
    named: dict[str, Any] = {
        name: value
        for name, value in vars(chosen).items()
        if name not in others and value is not None and (value is not False or name == "quotes")
    }
    common: dict[str, Any] = {"limit": chosen.limit, "on_error": chosen.on_error.value}
    if chosen.parallel and chosen.mix:
        raise CorpusError("give --parallel or --mix, not both")
    if chosen.parallel:
        if named or chosen.text:
            raise CorpusError(f"--parallel files have no columns or splits; leave out {', '.join(named) or 'text'}")
        return read_parallel(_by_language(corpus, "--parallel"), **common)
    if chosen.text:
        by_language = "=" in "".join(chosen.text)
        if len(chosen.text) > 1 and not by_language:
            raise CorpusError("give one --text-column, or LANGUAGE=COLUMN for each language")
        named["text"] = _by_language(chosen.text, "--text-column") if by_language else chosen.text[0]
    if not chosen.mix:
        return open_corpus(corpus, **common, **named)
    weighted = [_weighted(one) for one in corpus]
    common["limit"] = None  # which is of the mixture
    corpora = [(open_corpus(one, **common, **named), weight) for one, weight in weighted]
    return mix_corpora(corpora, seed=chosen.mix_seed, limit=chosen.limit)


def _weighted(value: str) -> tuple[str, float]:
    """A corpus and its weight."""
    name, _, weight = value.rpartition("=")
    try:
        return name, float(weight) if name else float("")
    except ValueError:
        raise CorpusError(f"--mix {value!r} is not CORPUS=WEIGHT; write it as a.jsonl=0.7") from None


def _by_language(values: Sequence[str], option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        language, separator, rest = value.partition("=")
        if not (language and separator and rest):
            raise CorpusError(f"{option} {value!r} is not LANGUAGE=VALUE; write it as en=a.txt")
        if language in found:
            raise CorpusError(f"{option} names the language {language!r} twice")
        found[language] = rest
    return found
