"""Language trends: in which language the logit lens reads hidden states, layer by layer (Wu et al., 2025, Figure 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.analysis.layers import Progress
from hubstore.analysis.results import Findings, Row, intervals, stored_or_computed
from hubstore.checks import check_resamples, check_seed
from hubstore.devices import resolve_device
from hubstore.errors import LensError
from hubstore.lens.languages import TokenLanguages
from hubstore.lens.lens import Lens, Variant
from hubstore.lens.rows import text_rows
from hubstore.lens.tuned import with_tuned
from hubstore.stats.bootstrap import Bootstrap

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
METRIC = "p(language)"
COLUMNS = {
    "language": pa.string(),
    "tokens": pa.int64(),
    "of_counted": pa.float64(),
    "uncounted": pa.float64(),
}

BLOCK = 1 << 25
"""Elements of the states that are read at a time."""


@dataclass(frozen=True, eq=False)
class LanguageMass:
    """How much of what the lens reads is in each language, summed over each item's tokens.

    Args:
        positions: int64 [items], of the items in the store.
        tokens: int64 [items], states read of each.
        sums: layer name to float64 [items, languages], the sum over an item's states of p(language given state).
        counted: the same as far as it is of tokens that were counted in some language; the rest is of all alike.
    """

    positions: Ints
    tokens: Ints
    sums: Mapping[str, Floats]
    counted: Mapping[str, Floats]


def language_trends(  # noqa: PLR0913
    store: StoreReader,
    lens: Lens,
    token_languages: TokenLanguages,
    *,
    layers: Sequence[str | int] | None = None,
    partitions: Sequence[str] | None = None,
    pooling: str | None = None,
    variant: Variant = "raw",
    seed: int = 0,
    bootstrap: int = 1000,
    device: str | None = None,
    progress: Progress | None = None,
) -> pa.Table:
    """p(language given layer): the mean over tokens of softmax(h Uᵀ) @ p(language given token).

    Args:
        store: an opened store.
        lens: of the store's model.
        token_languages: p(language given token), of the lens's own tokens.
        layers: None is all. The paper has the outputs of all blocks but the last, and "final".
        partitions: inputs to read; None is all.
        pooling: None is "tokens" where the store has it, else its first.
        variant: "raw" (the paper's, no norm), "normed" or "tuned"; see `read_store`. "final" states are after the norm.
        seed: of the bootstrap.
        bootstrap: resamples of the items; 0 gives no intervals.
        device: where to compute, None for where the lens is; "auto" is CUDA where PyTorch sees it.
        progress: called with layers done and layers in all.

    Returns:
        A row per layer, x (a partition) and `language`, whose value is p(language given layer); over all languages
        they sum to 1. Intervals are 95 %, over items: tokens of one text are alike. n counts items and `tokens` the
        states read. Special tokens that a tokenizer puts around every text, such as BOS, are left out.

        Tokens that were never counted are of all languages alike, and draw every value toward 1 in so many languages.
        `uncounted` is the mass that the lens gives them, the same for all languages, and `of_counted` is p(language
        given layer) among the others.

    Raises:
        QueryError: a partition, layer, pooling or device that is not there.
        LensError: the languages are of another tokenizer's tokens, or the lens of another width.

    Example:
        >>> tokens = count_token_languages(open_corpus("wiki.jsonl"), lens)
        >>> language_trends(store, lens, tokens, partitions=["zh-Hans"])
    """
    names, chosen, pooled = _resolve(store, layers, partitions, pooling)
    token_languages.check(lens)
    lens = with_tuned(store, lens, variant, names, pooled)

    def make() -> Findings:
        found = language_mass(
            store,
            lens,
            token_languages,
            layers=names,
            partitions=chosen,
            pooling=pooled,
            variant=variant,
            device=device,
            progress=progress,
        )
        resampling = Bootstrap(bootstrap, seed)
        rows: list[Row] = [
            {"layer": layer, "variant": "final" if layer == "final" else variant, **row}
            for layer in names
            for row in _rows(store, found, layer, chosen, token_languages.languages, resampling)
        ]
        return Findings(COLUMNS, rows)

    parameters = {
        "partitions": chosen,
        "layers": names,
        "pooling": pooled,
        "variant": variant,
        "lens": lens.name,
        "lens_digest": lens.digest,
        "token_languages": {**token_languages.provenance, "digest": token_languages.digest},
        "seed": check_seed(seed, error=LensError),
        "bootstrap": check_resamples("bootstrap", bootstrap, error=LensError),
    }
    return stored_or_computed(store, "trends", parameters, COLUMNS, make)


def language_mass(  # noqa: PLR0913
    store: StoreReader,
    lens: Lens,
    token_languages: TokenLanguages,
    *,
    layers: Sequence[str | int] | None = None,
    partitions: Sequence[str] | None = None,
    pooling: str | None = None,
    variant: Variant = "raw",
    device: str | None = None,
    progress: Progress | None = None,
) -> LanguageMass:
    """The same per item, to be compared across layers and inputs; see `language_trends`.

    Probability of rows of the unembedding that are no token is divided out, as the paper's code truncates the
    vocabulary to the tokenizer's.
    """
    names, chosen, pooled = _resolve(store, layers, partitions, pooling)
    token_languages.check(lens)
    lens = with_tuned(store, lens, variant, names, pooled)
    on_device = lens if device is None else lens.to(resolve_device(device))
    positions = np.concatenate([store.partition(name).positions() for name in chosen])
    rows, owners = text_rows(store, on_device, positions, pooled)
    both = torch.cat([token_languages.weights, token_languages.known], 1).to(on_device.head.device)
    languages = len(token_languages.languages)
    shape = (len(positions), both.shape[1])
    sums = {layer: torch.zeros(shape, dtype=torch.float64, device=both.device) for layer in names}
    for layer, part, states in _blocks(store, names, pooled, rows):
        mass = on_device.sweep_layer(states, layer, variant=variant, groups=both).group_mass.to(torch.float64)
        mass /= mass[:, :languages].sum(1, keepdim=True)
        sums[layer].index_add_(0, torch.from_numpy(owners[part]).to(mass.device), mass)
        if progress and part.stop >= len(rows):
            progress(names.index(layer) + 1, len(names))
    found = {name: of.cpu().numpy() for name, of in sums.items()}
    return LanguageMass(
        positions,
        np.bincount(owners, minlength=len(positions)),
        {name: of[:, :languages] for name, of in found.items()},
        {name: of[:, languages:] for name, of in found.items()},
    )


def _resolve(
    store: StoreReader, layers: Sequence[str | int] | None, partitions: Sequence[str] | None, pooling: str | None
) -> tuple[list[str], list[str], str]:
    names = store.layer_names(layers)
    chosen = list(dict.fromkeys(store.partition(name).name for name in (partitions or store.partitions)))
    if pooling is None and "tokens" in store.poolings:
        pooling = "tokens"
    return names, chosen, store.pooling_name(pooling)


def _rows(
    store: StoreReader,
    found: LanguageMass,
    layer: str,
    partitions: Sequence[str],
    languages: Sequence[str],
    resampling: Bootstrap,
) -> Iterator[Row]:
    start = 0
    for name in partitions:
        part = slice(start, start + len(store.partition(name).positions()))
        start = part.stop
        sums, tokens = found.sums[layer][part], found.tokens[part]
        values = sums.sum(0) / tokens.sum()
        counted = found.counted[layer][part].sum(0)
        among = counted / counted.sum() if counted.sum() > 0 else np.full(len(counted), np.nan)
        uncounted = 1 - float(counted.sum() / tokens.sum())
        counts = np.repeat(tokens[:, None].astype(np.float64), len(languages), 1)
        bounds = resampling.of_ratios(sums, counts)
        shared = {"x": name, "y": "", "n": len(sums), "tokens": int(tokens.sum()), "uncounted": uncounted}
        rows = intervals([METRIC] * len(languages), values, bounds)
        for row, language, of_counted in zip(rows, languages, among.tolist(), strict=True):
            yield {**row, **shared, "language": language, "of_counted": of_counted}


def _blocks(
    store: StoreReader, layers: Sequence[str], pooling: str, rows: Ints
) -> Iterator[tuple[str, slice, torch.Tensor]]:
    """Layer by layer the states at `rows`, some at a time; the next are read while these are looked at."""
    step = max(1, BLOCK // store.width)
    jobs = [(layer, slice(start, start + step)) for layer in layers for start in range(0, len(rows), step)]
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(_read, store, pooling, rows, *jobs[0])
        for number, (layer, part) in enumerate(jobs, 1):
            states = following.result()
            if number < len(jobs):
                following = reader.submit(_read, store, pooling, rows, *jobs[number])
            yield layer, part, states


def _read(store: StoreReader, pooling: str, rows: Ints, layer: str, part: slice) -> torch.Tensor:
    return store.hidden(layer, pooling).take(rows[part])
