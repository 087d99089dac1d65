"""Are translations nearer one another than other sentences, layer by layer (Wu et al., 2025)?

The state compared is that of the last token. Where that would be a full stop, which says little, the text goes on
with two words in its language. Shown: matched minus baseline is above zero at an intermediate block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

from hubstore.corpus import Corpus, Item, read_parallel, read_sample
from hubstore.errors import CorpusError
from hubstore.experiments.lab import Lab
from hubstore.experiments.matching import DIFFERENCE, PLOTS, matching
from hubstore.experiments.outcome import Outcome, make_table
from hubstore.experiments.verdict import peak

FILES = {"en": "en.txt", "zh-Hans": "zh-Hans.txt"}
CONTINUATIONS = {".": " This represents", "。": "这代表了"}
"""What follows a text that ends in a full stop, so that its last token carries content."""


def run(lab: Lab) -> Outcome:
    """Matched and baseline cosines of English and Chinese sentences."""
    items = list(_drawn(lab, source(lab).items()))
    continued = [replace(item, text=continued_text(item.text)) for item in items]
    store = lab.store("multilingual", Corpus.from_items(continued, "multilingual"))
    rows, notes = matching(lab, store, "zh-Hans", "en")
    best = peak(rows, (DIFFERENCE,), lab.intermediate)
    left = sum(old.text == new.text for old, new in zip(items, continued, strict=True))
    note = f"{left:,} of {len(items):,} texts do not end in a full stop and stay as they are"
    return Outcome(best.shown, best.words(lab), best.n, make_table(rows), PLOTS, (note, *notes))


def source(lab: Lab) -> Corpus:
    """The user's line-aligned files, or the sample that ships."""
    given = {language: path for language, name in FILES.items() if (path := lab.file(name)) is not None}
    if not given:
        return read_sample("ntrex", languages=list(FILES))
    if len(given) < len(FILES):
        raise CorpusError(f"{lab.data} has one of {' and '.join(FILES.values())}; give both, line-aligned")
    return read_parallel(given)


def continued_text(text: str) -> str:
    """A text that goes on after its full stop."""
    return text + CONTINUATIONS.get(text[-1:], "")


def _drawn(lab: Lab, items: Iterable[Item]) -> Iterable[Item]:
    """The items of `limit` concepts."""
    concepts = [list(group) for _, group in groupby(items, lambda item: item.concept)]
    return (item for group in lab.sample(concepts) for item in group)
