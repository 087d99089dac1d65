"""Places in texts where a lens is read: what comes next there, and what would say the same in English.

A model that thinks in English would hold the English equivalent more probable than the token that comes. So would one
that holds any English word more probable than any token of the text: hence the control, the equivalent of another site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hubstore.api import Store
from hubstore.errors import AnalysisError
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row, make_table
from hubstore.experiments.verdict import Floats, mean_rows, peak
from hubstore.lens import Encoded, Variant

NORMED = "with the final norm before the lens"
"""How the note begins that says what the other reading shows."""


@dataclass(frozen=True)
class Site:
    """A state to read and what to look up there.

    Args:
        item: id of the text.
        place: of the token whose state is read, among the text's.
        surface: the token that comes, or that stands for what comes.
        meaning: what the equivalent is of: sites of one meaning share it.
        equivalents: tokens that say it in English; the most probable counts.
    """

    item: str
    place: int
    surface: int
    meaning: str
    equivalents: tuple[int, ...]


@dataclass(frozen=True)
class Terms:
    """What surface, equivalent and the control are called in an experiment."""

    surface: str
    equivalent: str
    control: str

    @property
    def headlines(self) -> tuple[str, str]:
        """The two differences that must be above zero."""
        return f"{self.equivalent} - {self.surface}", f"{self.equivalent} - {self.control}"


def compare_sites(
    lab: Lab, store: Store, sites: Sequence[Site], terms: Terms, title: str, notes: Sequence[str] = ()
) -> Outcome:
    """Log-probabilities of surface, equivalent and control by layer; shown where the equivalent leads both.

    Raises:
        AnalysisError: there are fewer than two meanings.
    """
    controls = other_equivalents(sites, lab.seed)
    width = max(len(tokens) for tokens in (*controls, *(site.equivalents for site in sites)))
    targets = torch.tensor(
        [
            [site.surface, *_padded(site.equivalents, width), *_padded(control, width)]
            for site, control in zip(sites, controls, strict=True)
        ]
    )
    texts = item_numbers(store, sites)

    def find(layer: str, found: Floats) -> list[Row]:
        values = {
            terms.surface: found[:, 0],
            terms.equivalent: found[:, 1 : 1 + width].max(1),
            terms.control: found[:, 1 + width :].max(1),
        }
        for headline, less in zip(terms.headlines, (terms.surface, terms.control), strict=True):
            values[headline] = values[terms.equivalent] - values[less]
        return mean_rows(layer, values, lab.resampling, texts)

    plots = (
        Plot(title, "log-probability", (terms.surface, terms.equivalent, terms.control)),
        Plot("how much more probable", "difference of log-probabilities", terms.headlines),
    )
    note = f"{len(sites):,} sites in {len(np.unique(texts)):,} texts, {len({s.meaning for s in sites}):,} meanings"
    return read_outcome(lab, read_lens(lab, store, sites, targets, find), terms.headlines, plots, (note, *notes))


def read_lens(
    lab: Lab, store: Store, sites: Sequence[Site], targets: torch.Tensor, find: Callable[[str, Floats], list[Row]]
) -> list[Row]:
    """What `find` finds at each layer of the paper's curves, with the lens of the paper and with the final norm.

    Args:
        lab: whose lens it is.
        store: where the states are.
        sites: n of them.
        targets: int64 [n, t], tokens to look up.
        find: of a layer and its log-probabilities, float64 [n, t], the rows of the table.

    Returns:
        See `rows_by_layer`.
    """
    at = token_rows(store, sites)

    def read(layer: str, variants: Sequence[Variant]) -> list[Floats]:
        hidden = store.hidden(layer, store.poolings[0]).take(at)
        return [_read(lab, hidden, variant, targets) for variant in variants]

    return rows_by_layer(lab, read, find)


def rows_by_layer(
    lab: Lab, read: Callable[[str, Sequence[Variant]], Sequence[Floats]], find: Callable[[str, Floats], list[Row]]
) -> list[Row]:
    """What `find` finds in what is read at each layer of the paper's curves, as the paper reads it and normed.

    Args:
        lab: whose layers they are.
        read: of a layer and some variants of the lens, what each reads; "final" is read once.
        find: of a layer and what was read there, the rows of the table.

    Returns:
        The paper's, which multiplies states with the unembedding as they are, under their quantities; those with the
        final norm first, without which states that have grown say one token with certainty, under `normed` ones.
    """
    rows: list[Row] = []
    for number, layer in enumerate(lab.layers, 1):
        variants: tuple[Variant, ...] = ("raw",) if layer == "final" else ("raw", "normed")
        found = [find(layer, values) for values in read(layer, variants)]
        rows += found[0]
        rows += [{**row, "quantity": with_norm(row["quantity"])} for row in found[-1]]
        lab.progress("reading the lens", number, len(lab.layers))
    return rows


def with_norm(quantity: str) -> str:
    """The name of a quantity read with the final norm."""
    return f"{quantity}, normed"


def read_outcome(
    lab: Lab,
    rows: Sequence[Row],
    headlines: Sequence[str],
    plots: Sequence[Plot],
    notes: Sequence[str],
    columns: Mapping[str, pa.DataType] | None = None,
) -> Outcome:
    """The outcome of a lens: judged as the paper reads it, and in a note with the final norm."""
    best = peak(rows, headlines, lab.intermediate)
    normed = peak(rows, [with_norm(name) for name in headlines], lab.intermediate)
    every = [
        *plots,
        *(Plot(f"{p.title}, normed", p.y_label, tuple(map(with_norm, p.quantities)), p.x, p.x_label) for p in plots),
    ]
    note = f"{NORMED} it is {'' if normed.shown else 'not '}shown: {normed.words(lab)}"
    return Outcome(best.shown, best.words(lab), best.n, make_table(rows, columns), tuple(every), (note, *notes))


def _read(lab: Lab, hidden: torch.Tensor, variant: Variant, targets: torch.Tensor) -> Floats:
    found = lab.lens.sweep(hidden, variant=variant, targets=targets, ranks=False).target_log_probabilities
    return found.cpu().to(torch.float64).numpy()


def token_rows(store: Store, sites: Sequence[Site]) -> npt.NDArray[np.int64]:
    """The row of each site's state: of its token, or of its text where the store has one row for each."""
    positions = store.positions([site.item for site in sites])
    if store.poolings[0] != "tokens":
        return positions
    return np.asarray(store.token_ranges()[positions, 0] + np.array([site.place for site in sites], np.int64))


def item_numbers(store: Store, sites: Sequence[Site]) -> npt.NDArray[np.int64]:
    """int64 [n], which text each site is in."""
    return store.positions([site.item for site in sites])


def other_equivalents(sites: Sequence[Site], seed: int) -> list[tuple[int, ...]]:
    """For each site the equivalents of another meaning, drawn among all that share none with its own.

    Raises:
        AnalysisError: a site has no such other.
    """
    by_meaning = {site.meaning: site.equivalents for site in sites}
    meanings = sorted(by_meaning)
    rng = np.random.default_rng(seed)
    chosen = []
    for site in sites:
        start = int(rng.integers(len(meanings)))
        turned = meanings[start:] + meanings[:start]
        other = next((one for one in turned if not set(by_meaning[one]) & set(site.equivalents)), None)
        if other is None:
            raise AnalysisError(
                f"{len(meanings)} meanings among {len(sites)} sites: {site.meaning!r} has no other to compare with; "
                "give more texts, or a greater limit"
            )
        chosen.append(by_meaning[other])
    return chosen


def kept_tokens(lab: Lab, store: Store, texts: Mapping[str, str]) -> dict[str, Encoded]:
    """Each text's tokens as far as the store has them: a text longer than the model takes was cut.

    Args:
        lab: whose lens has the tokenizer.
        store: with every text as an item.
        texts: id to text.
    """
    counts = store.items["tokens"].take(store.positions(list(texts))).to_pylist()
    encoded = lab.lens.vocabulary.encode_all(list(texts.values()))
    return {
        name: Encoded(one.ids[:count], one.offsets[:count])
        for name, one, count in zip(texts, encoded, counts, strict=True)
    }


def _padded(tokens: tuple[int, ...], width: int) -> tuple[int, ...]:
    """Repeating the first changes no maximum."""
    return tokens + tokens[:1] * (width - len(tokens))
