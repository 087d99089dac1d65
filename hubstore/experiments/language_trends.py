"""In which language do intermediate layers read inputs of other languages (Wu et al., 2025, section 4.1)?

p(language given layer) is the mean over tokens of softmax(h Uᵀ) @ p(language given token). The counts that give
p(language given token) are of lines that are not read, every second one of the sample, so that nothing is counted on
what it is measured on.

Shown: at one intermediate block, inputs in other languages than English read as English

- more than at the last layer, which says what the model is about to write;
- more than a lens would that knew nothing of the input and found all tokens equally probable, or only tokens that were
  never counted, which are of all languages alike: a vocabulary may have more tokens of English than of others;
- more than as any third language, neither English nor the input's: a lens that has left the input's language for just
  any token is not reading English.

All three are of the same states, whole lines are resampled, translations together, and the best of all blocks is
picked with a correction for having picked it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.api import Store
from hubstore.corpus import Corpus, Item, open_corpus, read_sample
from hubstore.errors import AnalysisError
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row, make_table
from hubstore.experiments.sites import read_outcome, with_norm
from hubstore.lens import LanguageMass, TokenLanguages, Variant, count_token_languages, language_mass
from hubstore.plots.stacked import HUB, trends_png

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
READ, COUNTED = "read.jsonl", "counted.jsonl"
AREAS: dict[Variant, str] = {"raw": "areas.png", "normed": "areas-normed.png"}
COLUMNS = {"x": pa.string(), "language": pa.string()}
ENGLISH, OWN, THIRD = "English", "the input's language", "the greatest third language"
OVER_LAST, OVER_PRIOR, OVER_THIRD = "English - at the last layer", "English - prior", "English - third language"
HEADLINES = (OVER_LAST, OVER_PRIOR, OVER_THIRD)
EACH = "p(language)"
PLOTS = (
    Plot("inputs in other languages than English", "p(language | layer)", (ENGLISH, OWN, THIRD)),
    Plot("how much more English", "difference of probabilities", HEADLINES),
)


def run(lab: Lab) -> Outcome:
    """Languages that the lens reads at every layer, of inputs in other languages than English."""
    read, counted = sources(lab)
    tokens = count_token_languages(counted, lab.lens)
    store = lab.store("trends", read, poolings=("tokens",))
    folder = lab.out / "language-trends"
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    variants: tuple[Variant, ...] = ("raw", "normed")
    for variant in variants:
        found = language_mass(
            store,
            lab.lens,
            tokens,
            layers=lab.layers,
            variant=variant,
            progress=lambda done, total: lab.progress("reading languages", done, total),
        )
        inputs = _Inputs.of(store, found, tokens)
        compared = [row for layer in lab.layers for row in _compare(lab, layer, inputs)]
        every = [row for layer in lab.layers for row in _each(lab, layer, inputs)]
        areas = trends_png(make_table(every, COLUMNS))
        (folder / AREAS[variant]).write_bytes(areas)
        named = [*compared, *every]
        rows += named if variant == "raw" else [{**row, "quantity": with_norm(row["quantity"])} for row in named]
    sizes = sorted(tokens.record["tokens"].values())
    notes = (
        f"p(language given token) from {sizes[0]:,} to {sizes[-1]:,} tokens of each of {len(sizes)} languages, in "
        f"texts that are not read; prior of English {inputs.prior:.3g}",
        f"{' and '.join(AREAS.values())} have every input language with the languages that it reads as",
    )
    return read_outcome(lab, rows, HEADLINES, PLOTS, notes, COLUMNS)


def sources(lab: Lab) -> tuple[Corpus, Corpus]:
    """What is read, and what tokens are counted on: the user's texts with their languages, or halves of the sample."""
    halves = [list(half) for half in _halves()]
    read, counted = lab.file(READ), lab.file(COUNTED)
    kept = set(lab.sample(list(dict.fromkeys(item.concept for item in halves[0]))))
    chosen = [item for item in halves[0] if item.concept in kept]
    return (
        Corpus.from_items(chosen, "trends") if read is None else open_corpus(read, limit=lab.limit),
        Corpus.from_items(halves[1], "counted") if counted is None else open_corpus(counted),
    )


def _halves() -> tuple[list[Item], list[Item]]:
    """Every second line of the sample in all languages, and the others."""
    items = list(read_sample("ntrex").items())
    line = {concept: number for number, concept in enumerate(dict.fromkeys(item.concept for item in items))}
    return tuple([item for item in items if line[item.concept] % 2 == half] for half in (0, 1))  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class _Inputs:
    """The items that were read.

    Args:
        found: what was read of them.
        languages: of the tokens.
        partition: [items], the names of their partitions.
        own: int64 [items], the place of each item's language among them; -1 where tokens were not counted in it.
        concept: int64 [items], alike for translations of one another.
        hub: the place of English.
        prior: of English.
    """

    found: LanguageMass
    languages: tuple[str, ...]
    partition: npt.NDArray[np.str_]
    own: Ints
    concept: Ints
    hub: int
    prior: float

    @classmethod
    def of(cls, store: Store, found: LanguageMass, tokens: TokenLanguages) -> _Inputs:
        items = store.items.take(pa.array(found.positions))
        spoken = items["language"].to_pylist()
        hub = tokens.column(HUB)
        if len(tokens.languages) < 3:
            raise AnalysisError(
                f"tokens were counted in {' and '.join(tokens.languages)}; count them in a third language too, to tell "
                "reading English from reading anything but the input's language"
            )
        if all(language == HUB for language in spoken):
            raise AnalysisError(f"all texts are in {HUB!r}; the experiment reads texts in other languages: give some")
        concepts = pc.coalesce(items["concept"], items["id"]).to_pylist()
        return cls(
            found,
            tokens.languages,
            np.array(spoken),
            np.array([tokens.languages.index(one) if one in tokens.languages else -1 for one in spoken]),
            np.unique(concepts, return_inverse=True)[1],
            hub,
            max(float(tokens.prior[hub]), 1 / len(tokens.languages)),
        )

    def means(self, lab: Lab, sums: Floats, chosen: npt.NDArray[np.bool_]) -> list[Row]:
        """Value, interval and n of m means over some items' tokens, from sums over each item's [items, m]."""
        _, group = np.unique(self.concept[chosen], return_inverse=True)
        totals = np.stack([np.bincount(group, column) for column in sums[chosen].T], axis=1).astype(np.float64)
        tokens = np.bincount(group, self.found.tokens[chosen])[:, None]
        low, high = lab.resampling.of_ratios(totals, np.broadcast_to(tokens, totals.shape).astype(np.float64))
        values, n = totals.sum(0) / tokens.sum(), int(chosen.sum())
        return [
            {"value": float(value), "low": float(below), "high": float(above), "n": n}
            for value, below, above in zip(values, low, high, strict=True)
        ]


def _compare(lab: Lab, layer: str, inputs: _Inputs) -> Iterator[Row]:
    """How English, the inputs' own and third languages are read at a layer, of inputs in other languages."""
    sums, last, tokens = inputs.found.sums[layer], inputs.found.sums["final"], inputs.found.tokens
    other = inputs.own != inputs.hub
    english = sums[:, inputs.hub]
    third = _third(inputs, sums)
    neither = other & (inputs.own != third)
    known = other & (inputs.own >= 0)
    own = sums[np.arange(len(sums)), inputs.own]
    wanted = {
        ENGLISH: (english, other),
        OWN: (own, known),
        THIRD: (sums[:, third], neither),
        OVER_LAST: (english - last[:, inputs.hub], other),
        OVER_PRIOR: (english - inputs.prior * tokens, other),
        OVER_THIRD: (english - sums[:, third], neither),
    }
    for quantity, (values, chosen) in wanted.items():
        if chosen.any():
            yield {"layer": layer, "quantity": quantity, **inputs.means(lab, values[:, None], chosen)[0]}


def _third(inputs: _Inputs, sums: Floats) -> int:
    """The place of the language, not English, that inputs in others than it and English read as most."""
    means = np.full(len(inputs.languages), -1.0)
    for place in range(len(means)):
        chosen = (inputs.own != place) & (inputs.own != inputs.hub)
        if place != inputs.hub and chosen.any():
            means[place] = sums[chosen, place].sum() / inputs.found.tokens[chosen].sum()
    return int(means.argmax())


def _each(lab: Lab, layer: str, inputs: _Inputs) -> Iterator[Row]:
    """p(language given layer) of every input language."""
    for name in dict.fromkeys(inputs.partition.tolist()):
        rows = inputs.means(lab, inputs.found.sums[layer], inputs.partition == name)
        for row, language in zip(rows, inputs.languages, strict=True):
            yield {"layer": layer, "quantity": EACH, "x": name, "language": language, **row}
