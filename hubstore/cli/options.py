"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from hubstore.errors import CorpusError, HubstoreError, QueryError
from hubstore.storage.location import Location, location


def place(text: str) -> Location:
    """The path or URL that was given; how a location is read from the command line."""
    try:
        return location(text)
    except HubstoreError as error:  # a ValueError, of which typer would show nothing but the value
        raise typer.BadParameter(str(error)) from None


StoreArgument = Annotated[
    Any,  # a Location, which typer knows no way to read
    typer.Argument(
        metavar="STORE", parser=place, help="A store's folder, such as ntrex.hub, or s3://bucket/ntrex.hub."
    ),
]
LayersOption = Annotated[
    str | None,
    typer.Option("--layers", "--layer", help="Layers, comma-separated: 0,6,12; -1 is the last block. All by default."),
]
PoolOption = Annotated[str | None, typer.Option("--pool", help="Pooling; the store's first by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DeviceOption = Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda or cuda:1.")]
DevicesOption = Annotated[
    str, typer.Option(help="auto (every GPU there is, else the CPU), cpu, cuda, or several: cuda:0,cuda:1.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of all random draws; kept with the results.")]
ModelOption = Annotated[
    str | None,
    typer.Option(help="A model's folder or hub id. By default the one that the store was made with."),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code/--no-trust-remote-code",
        help="Run code that comes with the model; only where you trust its authors. A store does not say so for you.",
    ),
]
CorpusArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="CORPUS...",
        help="A file (.jsonl, .csv, .tsv, .parquet, .tar) or several of them, a folder of such or of pictures and "
        "sounds, the id of a Hugging Face dataset, sample:ntrex; a file or a folder of .tar may be a URL (s3://, "
        "gs://, az://, of a file https://); or, with --parallel, LANGUAGE=FILE for each language: en=a.txt zh=b.txt.",
        show_default=False,
    ),
]
ParallelOption = Annotated[
    bool, typer.Option("--parallel", help="CORPUS is line-aligned files: line 12 of each says the same.")
]
TextOption = Annotated[
    list[str] | None,
    typer.Option(
        "--text-column",
        help="Column of the text. In a table with a column for each language, LANGUAGE=COLUMN for each.",
    ),
]
IdOption = Annotated[str | None, typer.Option("--id-column", help="Column of the ids.")]
ConceptOption = Annotated[
    str | None, typer.Option("--concept-column", help="Column that equivalent items share a value of.")
]
ImageColumnOption = Annotated[
    str | None, typer.Option("--image-column", help="Column of pictures: paths or bytes. Its row's texts are captions.")
]
AudioColumnOption = Annotated[str | None, typer.Option("--audio-column", help="Column of sounds, likewise.")]
SpeechOption = Annotated[
    bool, typer.Option("--speech", help="Sounds are speech in their row's language, rather than in none (zxx).")
]
MetadataOption = Annotated[
    Path | None,
    typer.Option(help="A folder's table of captions, with a column file_name. Its metadata.jsonl or .csv by default."),
]
ModalityOption = Annotated[
    str | None, typer.Option("--modality", help="Of a folder, only the pictures (image) or the sounds (audio).")
]
ConceptFromOption = Annotated[
    str | None,
    typer.Option(help="What the concept of a folder's file is: its name without the suffix, its folder, or its path."),
]
LanguageColumnOption = Annotated[str | None, typer.Option("--language-column", help="Column of the BCP 47 tags.")]
LanguageTagOption = Annotated[str | None, typer.Option("--language-tag", help="One language for all items.")]
DelimiterOption = Annotated[
    str | None, typer.Option("--delimiter", help="Between the fields of delimited values: ';', tab. By the suffix.")
]
QuotesOption = Annotated[
    bool | None,
    typer.Option(
        "--quotes/--no-quotes",
        help="Whether quotation marks enclose fields of delimited values, or stand in them like other characters. By "
        "default they enclose, and one that seems to be a stray one is refused.",
    ),
]
ConfigOption = Annotated[str | None, typer.Option("--config", help="Configuration of a dataset.")]
SplitOption = Annotated[str | None, typer.Option("--split", help="Split of a dataset.")]
RevisionOption = Annotated[str | None, typer.Option("--corpus-revision", help="Revision of a dataset on a hub.")]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Read only the first rows or lines.")]


class OnError(StrEnum):
    """What to do with a row that cannot be an item."""

    stop = "stop"
    skip = "skip"


class Engine(StrEnum):
    """Who does the work."""

    local = "local"
    ray = "ray"


EngineOption = Annotated[Engine, typer.Option("--engine", help="local: this host; ray: the hosts of a Ray cluster.")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Of the Ray cluster: host:6379. By default that of RAY_ADDRESS or of this host; else one is started here.",
    ),
]

OnErrorOption = Annotated[
    OnError, typer.Option("--on-error", help="What is broken, a row or a medium: stop there, or skip and list it.")
]

ReadersOption = Annotated[
    int | None,
    typer.Option("--readers", min=0, help="Processes that read media beside a GPU. All spare CPUs by default."),
]

IgnoreSpaceOption = Annotated[
    bool, typer.Option("--ignore-space", help="Begin even where the disk has no room for the store.")
]


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with an option for each field of the options classes that its parameters are annotated with.

    A class of the library says in a field's metadata how it is spelled and what it means (`hubstore.options`); a
    field of a class of the command line is annotated as typer has it.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if not dataclasses.is_dataclass(kind):
            parameters.append(parameter.replace(annotation=kind, kind=parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = kind
        of_fields = get_type_hints(kind, include_extras=True)
        for one in dataclasses.fields(kind):
            annotation = _annotation(one, of_fields[one.name])
            if annotation is not None:
                parameters.append(
                    inspect.Parameter(one.name, parameter.KEYWORD_ONLY, default=one.default, annotation=annotation)
                )

    @functools.wraps(command)
    def expanded(**given: Any) -> None:
        for name, kind in groups.items():
            own = {one.name: given.pop(one.name) for one in dataclasses.fields(kind) if one.name in given}
            given[name] = kind(**{one: READ[one](value) if one in READ else value for one, value in own.items()})
        command(**given)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {one.name: one.annotation for one in parameters}
    return expanded


def _annotation(field: dataclasses.Field[Any], hint: Any) -> Any:
    """As typer has an option; None of a field that a command line has no option of."""
    if "help" not in field.metadata:
        return hint
    if (flags := field.metadata["flags"]) is None:
        return None
    typed = field.metadata["typed"] or (hint if field.name not in READ else str | None)
    return Annotated[typed, typer.Option(*flags, help=field.metadata["help"])]


def split_list(value: str | None) -> list[str] | None:
    """ "0, 6" to ["0", "6"]; None stays None."""
    if value is None or value == "all":
        return None
    return [part.strip() for part in value.split(",") if part.strip()]


def split_pairs(values: Sequence[str] | None) -> list[tuple[str, str]] | None:
    """Pairs of partitions from `en:zh` options; None where there are none."""
    pairs = []
    for value in values or ():
        x, separator, y = value.partition(":")
        if not (x and separator and y) or ":" in y:
            raise QueryError(f"--pair {value!r} is not two partitions; write it as en:zh-Hans")
        pairs.append((x, y))
    return pairs or None


def open_items(
    corpus: Sequence[str],
    *,
    parallel: bool,
    limit: int | None,
    on_error: OnError,
    text: Sequence[str] | None = None,
    **options: str | Path | bool | None,
) -> Any:
    """The corpus that the options describe."""
    from hubstore.corpus import open_corpus, read_parallel

    given: dict[str, Any] = {
        name: value for name, value in options.items() if value is not None and (value is not False or name == "quotes")
    }
    if parallel:
        if given or text:
            raise CorpusError(f"--parallel files have no columns or splits; leave out {', '.join(given) or 'text'}")
        return read_parallel(_by_language(corpus, "--parallel"), limit=limit, on_error=on_error.value)
    if text:
        given["text"] = _by_language(text, "--text-column") if "=" in "".join(text) else text[0]
        if "=" not in "".join(text) and len(text) > 1:
            raise CorpusError("give one --text-column, or LANGUAGE=COLUMN for each language")
    return open_corpus(corpus, limit=limit, on_error=on_error.value, **given)


READ: Mapping[str, Callable[[Any], Any]] = {
    "layers": split_list,
    "pairs": split_pairs,
    "languages": lambda values: values or None,
    "modalities": lambda values: values or None,
    "concepts": lambda values: values or None,
}
"""How the text of an option of the library's classes is read."""


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
