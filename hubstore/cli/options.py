"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, get_args, get_type_hints

import typer

from hubstore.errors import HubstoreError, QueryError
from hubstore.storage.location import Location, location


def place(text: str) -> Location:
    """The path or URL that was given; how a location is read from the command line."""
    try:
        return location(text)
    except HubstoreError as error:  # a ValueError, of which typer would show nothing but the value
        raise typer.BadParameter(str(error)) from None


def split_names(values: Sequence[str] | None) -> list[str] | None:
    """Names of an option that is repeated, or given once with commas between them: --language de,fr.

    Every option of several names is read so. Ids, concepts, texts, words and files may hold commas: of these one is
    given at a time.
    """
    if not values:
        return None
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


StoreArgument = Annotated[
    Any,  # a Location, which typer knows no way to read
    typer.Argument(
        metavar="STORE", parser=place, help="A store's folder, such as ntrex.hub, or s3://bucket/ntrex.hub."
    ),
]
LayersOption = Annotated[
    str | None,
    typer.Option("--layers", "--layer", help="Layers: 0,6,12; -1 is the last block. All by default."),
]
PoolingOption = Annotated[str | None, typer.Option("--pooling", help="Pooling; the store's first by default.")]
PartitionByOption = Annotated[
    str | None,
    typer.Option(
        "--partition-by", help="Compare the values of this column, one that the store keeps, rather than languages."
    ),
]
LanguagesOption = Annotated[
    list[str] | None, typer.Option("--language", callback=split_names, help="Only items in this language: de or de,fr.")
]
ModalitiesOption = Annotated[
    list[str] | None, typer.Option("--modality", callback=split_names, help="Only items of this modality.")
]
PartitionsOption = Annotated[
    list[str] | None,
    typer.Option("--partition", callback=split_names, help="Only these partitions, such as zh-Hans; all by default."),
]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DeviceOption = Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda or cuda:1.")]
DevicesOption = Annotated[
    str, typer.Option(help="auto (every GPU there is, else the CPU), cpu, cuda, or several: cuda:0,cuda:1.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of all random draws; kept with the results.")]
ModelOption = Annotated[
    str | None,
    typer.Option(help="A model's folder or hub id. By default the store's own, where it is on this machine."),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code/--no-trust-remote-code",
        help="Run code that comes with the model; only where you trust its authors. A store does not say so for you.",
    ),
]


class OnError(StrEnum):
    """What to do with a row that cannot be an item."""

    stop = "stop"
    skip = "skip"


class Engine(StrEnum):
    """Who does the work."""

    local = "local"
    ray = "ray"


class Variant(StrEnum):
    """How a lens reads."""

    raw = "raw"
    normed = "normed"
    tuned = "tuned"


VariantOption = Annotated[
    Variant,
    typer.Option(
        "--variant",
        help="raw: the paper's lens, without a norm; normed: the final norm first; tuned: each layer's states mapped "
        "to the last layer's first, fitted to the store and kept in it.",
    ),
]
EngineOption = Annotated[Engine, typer.Option("--engine", help="local: this host; ray: the hosts of a Ray cluster.")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Of the Ray cluster: host:6379. By default that of RAY_ADDRESS or of this host; else one is started here.",
    ),
]


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with an option for each field of the options classes that its parameters are annotated with.

    A class of the library says in a field's metadata how it is spelled and what it means (`hubstore.options`); a
    field of a class of the command line is annotated as typer has it. In the help each class has a panel of its own,
    but for the options that matter `FIRST`.
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
        name = str(getattr(kind, "__name__", ""))
        of_fields = get_type_hints(kind, include_extras=True)
        for one in dataclasses.fields(kind):
            annotation = _annotation(one, of_fields[one.name])
            if annotation is not None and name in PANELS and one.name not in FIRST:
                annotation = _in_panel(annotation, PANELS[name])
            if annotation is not None:
                parameters.append(
                    inspect.Parameter(one.name, parameter.KEYWORD_ONLY, default=one.default, annotation=annotation)
                )

    @functools.wraps(command)
    def expanded(**arguments: Any) -> None:
        for name, kind in groups.items():
            own = {
                one.name: _read(one, arguments.pop(one.name))
                for one in dataclasses.fields(kind)
                if one.name in arguments
            }
            arguments[name] = kind(**own)
        command(**arguments)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {one.name: one.annotation for one in parameters}
    return expanded


PANELS = {
    "SettingsOptions": "How items are read and kept",
    "ModelOptions": "Loading the model",
    "RunOptions": "Running",
    "CorpusOptions": "Reading the corpus",
}
"""By the name of an options class, the panel of the help that its options are in."""

FIRST = ("pooling", "layers", "dtype", "prefix", "parallel", "text", "language_tag", "limit", "device")
"""Fields of these classes that stand before all panels."""


def _in_panel(annotation: Any, panel: str) -> Any:
    """The annotation of an option, shown in a panel of the help."""
    typed, info = get_args(annotation)
    info = copy.copy(info)
    info.rich_help_panel = panel
    return Annotated[typed, info]


def _read(field: dataclasses.Field[Any], value: Any) -> Any:
    """The value of a field of the library's classes, from what was typed."""
    return READ[field.name](value) if "help" in field.metadata and field.name in READ else value


def _annotation(field: dataclasses.Field[Any], hint: Any) -> Any:
    """As typer has an option; None of a field that a command line has no option of."""
    if "help" not in field.metadata:
        return hint
    if (flags := field.metadata["flags"]) is None:
        return None
    typed = field.metadata["typed"] or (hint if field.name not in READ else str | None)
    callback = split_names if field.name in NAMES else None
    return Annotated[typed, typer.Option(*flags, help=field.metadata["help"], callback=callback)]


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


NAMES = ("pairs", "partitions", "languages", "modalities", "extra_models", "measures")
"""Options of the library's classes that are several names."""

READ: Mapping[str, Callable[[Any], Any]] = {
    "layers": split_list,
    "pairs": split_pairs,
    "languages": lambda values: values or None,
    "modalities": lambda values: values or None,
    "concepts": lambda values: values or None,
    "extra_models": lambda values: tuple(values or ()),
    "measures": lambda values: values or None,
}
"""How the text of an option of the library's classes is read."""
