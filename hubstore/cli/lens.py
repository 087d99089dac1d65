"""hubstore lens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from hubstore.cli import options
from hubstore.cli.output import err, out, print_json, results_folder, table
from hubstore.errors import LensError, QueryError
from hubstore.storage.location import Location, shell_word

if TYPE_CHECKING:
    import pyarrow as pa

    from hubstore.corpus import Item
    from hubstore.lens import TunedLens

HEADINGS = {"raw": "raw", "normed": "after the final norm", "tuned": "tuned: after a map of each layer"}
CELL = 9
"""Characters of a cell of the map."""


def lens(
    store: Annotated[
        Any,
        typer.Argument(
            metavar="[STORE]",
            parser=options.place,
            help="A store's folder or URL; not needed with --model and --text.",
        ),
    ] = None,
    model: options.ModelOption = None,
    trust_remote_code: options.TrustOption = False,
    texts: Annotated[list[str] | None, typer.Option("--text", help="Read a text given now, token by token.")] = None,
    images: Annotated[list[Path] | None, typer.Option("--image", help="Read an image given now: its file.")] = None,
    audio: Annotated[list[Path] | None, typer.Option("--audio", help="Read an audio clip given now: its file.")] = None,
    media_template: Annotated[
        str | None, typer.Option(help="The prompt around an image or audio clip, {media}. The store's by default.")
    ] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Read an item of the store, without the model.")] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option("--target", help='A word to look up, one token with its leading space: " shark". Repeatable.'),
    ] = None,
    layers: options.LayersOption = None,
    pooling: options.PoolingOption = None,
    partitions: options.PartitionsOption = None,
    variant: options.VariantOption = options.Variant.raw,
    k: Annotated[int, typer.Option("-k", help="Most probable tokens of each state.")] = 5,
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the heat map: lens.html, PNGs and lens.parquet.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep unembedding, norm and tokenizer in the store; then no model is needed.")
    ] = False,
    bootstrap: Annotated[int, typer.Option(help="Resamples for the summary's 95 % intervals; 0 for none.")] = 1000,
    seed: options.SeedOption = 0,
    device: options.DeviceOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Read hidden states through the unembedding: what the model would say at each layer (the logit lens).

    With --text or --id, a map of layers and tokens. With a store alone, a summary of every partition: entropy,
    agreement with the model's own next token, log-probabilities of the targets.
    """
    params = _LensParams(layers, pooling, variant, targets or [], k, device, trust_remote_code)
    media = [*_items("image", images), *_items("audio", audio)]
    if store is None and not (model and (texts or media)):
        raise QueryError("give a STORE, or --model MODEL with --text TEXT, --image FILE or --audio FILE")
    if sum(map(bool, (texts, media, ids))) > 1:
        raise QueryError("give --text, --id, or images and audio; not several")
    if keep:
        _keep(store, model, params, quiet=as_json)
    if not (texts or media or ids):
        if not keep or targets or partitions:
            _summary(_required(store), model, partitions, params, bootstrap, seed, as_json)
        return
    if media:
        readings = _of_media(store, model, media, media_template, params)
    else:
        readings = _of_texts(store, model, texts, params) if texts else _of_items(store, model, ids or [], params)
    if as_json:
        print_json(readings.to_pylist())
    else:
        _show(readings, params.targets)
    if folder is not None:
        _write(readings, params, folder)


class _LensParams:
    """The options that every way of reading takes."""

    def __init__(
        self,
        layers: str | None,
        pooling: str | None,
        variant: str,
        targets: Sequence[str],
        k: int,
        device: str,
        trust_remote_code: bool,
    ) -> None:
        self.layers = options.split_list(layers)
        self.pooling = pooling
        self.variant: Any = variant
        self.targets = list(targets)
        self.k = k
        self.device = device
        self.trust_remote_code = trust_remote_code

    @property
    def reading(self) -> dict[str, Any]:
        """What `read_store` and `read_texts` both take."""
        return {"layers": self.layers, "variant": self.variant, "targets": self.targets, "k": self.k}


def _required(store: Location | None) -> Location:
    if store is None:
        raise QueryError("this reads a store; give its folder")
    return store


def _load(store: Location | None, model: str | None, params: _LensParams) -> Any:
    """The model named, or the store's, with its head."""
    from hubstore.models import load_model
    from hubstore.opened import Store

    with err.status(f"loading {model or 'the model of ' + str(store)}"):
        if store is None:
            return load_model(str(model), device=params.device, head=True, trust_remote_code=params.trust_remote_code)
        return Store(store).model(model, params.device, head=True, trust_remote_code=params.trust_remote_code)


def _keep(store: Location | None, model: str | None, params: _LensParams, quiet: bool) -> None:
    from hubstore.opened import Store

    opened = Store(_required(store))
    update = opened.keep_lens(_load(store, model, params))
    if not quiet:
        name, state = opened.attributes["model"]["id"], ""
        if update.outcome == "unchanged":
            state = " already, whole"
        elif update.outcome == "mended":
            state = f", which was damaged and is mended: {', '.join(update.written)} written again"
        command = f"hubstore lens {shell_word(opened.path)}"
        out.print(
            f"{store} keeps the unembedding of {name}{state}; `{command}` needs no model", soft_wrap=True, markup=False
        )


def _of_texts(store: Location | None, model: str | None, texts: Sequence[str], params: _LensParams) -> pa.Table:
    from hubstore.lens import read_texts

    loaded = _load(store, model, params)
    return read_texts(loaded, texts, **params.reading, tuned=_tuned(store, loaded, params))


def _items(modality: str, paths: Sequence[Path] | None) -> list[Item]:
    from hubstore.corpus import Item, Media
    from hubstore.corpus.remote import medium_name

    return [Item.given(modality, Media(medium_name(path))) for path in paths or ()]


def _of_media(
    store: Location | None, model: str | None, items: Sequence[Item], template: str | None, params: _LensParams
) -> pa.Table:
    from hubstore.lens import read_media
    from hubstore.store import StoreReader

    if template is None and store is not None:
        template = StoreReader(store).attributes["settings"].get("media_template")
    loaded = _load(store, model, params)
    read = {**params.reading, "tuned": _tuned(store, loaded, params)}
    return read_media(loaded, items, template=template or "{media}", **read)


def _tuned(store: Location | None, model: Any, params: _LensParams) -> TunedLens | None:
    """The maps of a store's layers, for states of tokens that are read now; None where none are asked for."""
    from hubstore.lens import Lens, tuned_lens
    from hubstore.opened import Store

    if params.variant != "tuned":
        return None
    opened = Store(_required(store))
    pooling = params.pooling or ("tokens" if "tokens" in opened.poolings else None)
    return tuned_lens(opened, Lens.of_model(model), layers=params.layers, pooling=pooling).tuned


def _of_items(store: Location | None, model: str | None, ids: Sequence[str], params: _LensParams) -> pa.Table:
    from hubstore.opened import Store

    store = _required(store)
    loaded = None if model is None else _load(store, model, params)
    return Store(store).lens(ids, pooling=params.pooling, model=loaded, device=params.device, **params.reading)


def _summary(
    store: Location,
    model: str | None,
    partitions: Sequence[str] | None,
    params: _LensParams,
    bootstrap: int,
    seed: int,
    as_json: bool,
) -> None:
    from hubstore import analysis
    from hubstore.opened import Store

    opened = Store(store)
    loaded = None if model is None else _load(store, model, params)
    found = opened.lens_summary(
        partitions=partitions or None,
        layers=params.layers,
        pooling=params.pooling,
        variant=params.variant,
        targets=params.targets,
        seed=seed,
        bootstrap=bootstrap,
        model=loaded,
        device=params.device,
    )
    rows = found.to_pylist()
    losses = _losses(opened, loaded, params) if params.variant == "tuned" else []
    if as_json:
        print_json({"made_from": analysis.metadata(found), "rows": rows, **({"held_out": losses} if losses else {})})
        return
    _show_losses(losses)
    for partition in dict.fromkeys(row["x"] for row in rows):
        own = [row for row in rows if row["x"] == partition]
        columns = list(dict.fromkeys(_column(row) for row in own))
        cells = {(row["layer"], _column(row)): row for row in own}
        lines = [
            [layer, *(_cell(cells[layer, column]) for column in columns)]
            for layer in dict.fromkeys(row["layer"] for row in own)
        ]
        out.print(table(("layer", *columns), lines, title=f"{partition}: {own[0]['n']:,} items, {params.variant} lens"))


def _losses(store: Any, model: Any, params: _LensParams) -> list[dict[str, Any]]:
    """What the tuned maps lose on held-out concepts, beside the other lenses."""
    from hubstore.lens import Lens, tuned_losses

    lens = Lens.of_store(store) if model is None else Lens.of_model(model)
    rows: list[dict[str, Any]] = tuned_losses(store, lens, layers=params.layers, pooling=params.pooling).to_pylist()
    return rows


def _show_losses(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    columns = list(dict.fromkeys((row["variant"], row["metric"]) for row in rows))
    cells = {(row["layer"], row["variant"], row["metric"]): row["value"] for row in rows}
    lines = [
        [layer, *(cells[layer, *column] for column in columns)] for layer in dict.fromkeys(row["layer"] for row in rows)
    ]
    title = (
        f"held-out concepts, {rows[0]['n']:,} states: -log p of the last layer's own token, and how often they agree"
    )
    out.print(table(("layer", *(f"{metric}, {variant}" for variant, metric in columns)), lines, title=title))


def _column(row: dict[str, Any]) -> str:
    name = {"log_probability": "log p", "rank": "rank"}.get(row["metric"], row["metric"])
    return f"{name} {row['target']!r}" if row["target"] is not None else str(name)


def _cell(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return f"{row['value']:.3g}"
    return f"{row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"


def _show(readings: pa.Table, targets: Sequence[str]) -> None:
    """Layers down, the last on top, tokens across, in as many parts as the terminal's width needs."""
    from hubstore.plots.lens import heat_maps

    for shown in heat_maps(readings, targets):
        out.print(Text(shown.title, style="bold"), overflow="fold")
        left = max(5, *(len(layer) for layer in shown.layers))
        across = max(1, (out.width - left) // (CELL + 1))
        for start in range(0, len(shown.pieces), across):
            span = slice(start, start + across)
            line = Text(" " * left)
            for piece in shown.pieces[span]:
                line.append(" " + _fitted(piece), style="bold underline")
            out.print(line)
            for layer in reversed(range(len(shown.layers))):
                line = Text(shown.layers[layer].rjust(left), style="dim")
                for word, shade in zip(shown.words[layer][span], shown.shades[layer][span], strict=True):
                    line.append(" ").append(_fitted(word), style=_style(float(shade)))
                out.print(line)
            out.print()
        out.print(Text(f"color: {shown.scale}", style="dim"))


def _fitted(word: str) -> str:
    from hubstore.plots.text import visible

    flat = visible(word.replace("\n", "↵").strip() or "␣")
    return set_cell_size(flat if cell_len(flat) <= CELL else set_cell_size(flat, CELL - 1) + "…", CELL)


def _style(shade: float) -> str:
    """Black on white to orange, on terminals with colors."""
    red, green, blue = (round(255 + shade * (end - 255)) for end in (235, 120, 10))
    return f"black on rgb({red},{green},{blue})"


def _write(readings: pa.Table, params: _LensParams, folder: Path) -> None:
    from hubstore.arrow import parquet_bytes
    from hubstore.plots.lens import heat_maps, html, png

    maps = heat_maps(readings, params.targets)
    storage = results_folder(folder, LensError)
    heading = f"Logit lens ({HEADINGS[params.variant]})"
    storage.write("lens.html", html(maps, heading).encode())
    for number, shown in enumerate(maps, 1):
        storage.write(f"lens-{number}.png", png(shown))
    storage.write("lens.parquet", parquet_bytes(readings))
    err.print(f"{folder / 'lens.html'}, {len(maps)} PNG, lens.parquet")
