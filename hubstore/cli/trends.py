"""hubstore trends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubstore.cli import options
from hubstore.cli.output import err, note, out, print_json, results_folder, table
from hubstore.cli.progress import counting
from hubstore.errors import LensError, QueryError
from hubstore.tags import matching_tag

if TYPE_CHECKING:
    from hubstore.lens import Lens, TokenLanguages

SHOWN = 6
"""Languages of each input that the table has; JSON and the files have all."""


def trends(
    store: options.StoreArgument,
    counted: Annotated[
        str | None,
        typer.Option(
            "--counts",
            help="Texts with their languages to count tokens in: a file, a dataset, sample:ntrex; or a .safetensors "
            "that --save-counts wrote. Take texts that the store does not have.",
        ),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(help="Instead, lists of words and scripts of these languages: en,zh,es; or all."),
    ] = None,
    saved: Annotated[Path | None, typer.Option("--save-counts", help="Keep the tokens' languages there.")] = None,
    partitions: options.PartitionsOption = None,
    layers: options.LayersOption = None,
    pooling: options.PoolingOption = None,
    variant: options.VariantOption = options.Variant.raw,
    bootstrap: Annotated[int, typer.Option(help="Resamples for the 95 % intervals; 0 for none.")] = 1000,
    seed: options.SeedOption = 0,
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the stacked areas (PNG) and the table (Parquet).")
    ] = None,
    device: options.DeviceOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """In which language the logit lens reads each partition, layer by layer.

    Needs a store with a lens (`extract --with-lens`, or `hubstore lens STORE --keep`), best of pooling tokens.
    """
    from hubstore import analysis
    from hubstore.devices import resolve_device
    from hubstore.lens import Lens, language_trends
    from hubstore.opened import Store

    opened = Store(store)
    lens = Lens.of_store(opened, resolve_device(device))
    languages = _languages(lens, counted, words)
    if saved is not None:
        languages.save(saved)
    with counting("reading languages") as advanced:
        found = language_trends(
            opened,
            lens,
            languages,
            layers=options.split_list(layers),
            partitions=partitions or None,
            pooling=pooling,
            variant=variant.value,
            seed=seed,
            bootstrap=bootstrap,
            progress=advanced,
        )
    _note_uncounted(analysis.metadata(found)["parameters"]["partitions"], languages.languages)
    if as_json:
        print_json({"made_from": analysis.metadata(found), "rows": found.to_pylist()})
    else:
        _show(found.to_pylist())
    if folder is not None:
        _write(found, folder)


def _languages(lens: Lens, counted: str | None, words: str | None) -> TokenLanguages:
    from hubstore.corpus import open_corpus
    from hubstore.lens import TokenLanguages, count_token_languages, token_languages_of_words

    if (counted is None) == (words is None):
        raise QueryError(
            "say where the tokens' languages come from: --counts CORPUS, or --words en,zh (or --words all)"
        )
    if words is not None:
        return token_languages_of_words(lens, options.split_list(words))
    if str(counted).endswith(".safetensors"):
        return TokenLanguages.load(str(counted), lens)
    with err.status(f"counting tokens of {counted}"):
        return count_token_languages(open_corpus(str(counted)), lens)


def _show(rows: list[dict[str, Any]]) -> None:
    """For each input its own language and those that are read most somewhere, layers down."""
    for name in dict.fromkeys(row["x"] for row in rows):
        own = [row for row in rows if row["x"] == name]
        most: dict[str, float] = {}
        for row in own:
            most[row["language"]] = max(most.get(row["language"], 0.0), row["value"])
        stands = matching_tag(name.rpartition("/")[2], list(most))
        shown = sorted(most, key=lambda language: (language != stands, -most[language]))[:SHOWN]
        cells = {(row["layer"], row["language"]): row for row in own}
        lines = [
            [layer, *(_cell(cells[layer, language]) for language in shown)]
            for layer in dict.fromkeys(row["layer"] for row in own)
        ]
        title = f"{name}: {own[0]['n']:,} items, {own[0]['tokens']:,} states; p(language), {len(most)} languages"
        out.print(table(("layer", *shown), lines, title=title))


def _note_uncounted(partitions: Iterable[str], languages: Sequence[str]) -> None:
    """Says of which inputs' languages no token was counted, and what stands for them."""
    for name in partitions:
        tag = name.rpartition("/")[2]
        stands = matching_tag(tag, languages)
        if stands is None:
            note(f"no token was counted in {tag}: what is read of {name} in its own language is among the others")
        elif stands != tag:
            note(f"tokens were counted in {stands}, which stands for {tag} here")


def _cell(row: dict[str, Any]) -> str:
    return f"{row['value']:.3f}" + ("" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]")


def _write(found: Any, folder: Path) -> None:
    from hubstore.arrow import parquet_bytes
    from hubstore.plots.stacked import trends_png

    storage = results_folder(folder, LensError)
    storage.write("trends.parquet", parquet_bytes(found))
    storage.write("trends.png", trends_png(found))
    err.print(f"{folder / 'trends.png'}, trends.parquet")
