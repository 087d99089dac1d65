"""Mixes corpora by weights: which one the next item is of is drawn at random, the same for the same seed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hubstore.checks import check_number, check_seed
from hubstore.corpus.corpus import Corpus, Refuse
from hubstore.corpus.item import Item
from hubstore.corpus.kept import Kept
from hubstore.corpus.row import Types
from hubstore.corpus.validate import check_options
from hubstore.errors import CorpusError, Parameter
from hubstore.store.columns import type_name

BLOCK: Final = 1 << 16
"""Draws that are made at once, from a generator of their own: a run that goes on makes those before it again."""


def mix_corpora(
    corpora: Sequence[tuple[Corpus, float]], *, seed: int = 0, limit: int | None = None, name: str | None = None
) -> Corpus:
    """Mix corpora: each next item is of one that is drawn with the probability of its weight, in that one's order.

    The mixture ends where the corpus that is drawn has no item left, so that the shares are those of the weights to the
    end. An item's id and concept have its corpus's name before them, `wiki.jsonl/12`: what is called the same in two
    corpora is not the same.

    Args:
        corpora: each with its weight, which need not sum up to 1.
        seed: of the draws.
        limit: Take so many items at most.
        name: What to call the mixture, instead of the corpora's names.

    Raises:
        CorpusError: fewer than two corpora; a weight that is not above 0; or a column that they keep in two types.

    Example:
        >>> wiki, news = (open_corpus("sample:ntrex", limit=lines) for lines in (9, 3))
        >>> mixed = mix_corpora([(wiki, 0.7), (news, 0.3)], seed=1, limit=20)
        >>> len(list(mixed.items()))
        20
    """
    limit = check_options(limit, "stop")
    if len(corpora) < 2:
        raise CorpusError("a mixture is of two corpora or more; give each with its weight, such as a.jsonl=0.7")
    weights = np.array([check_number("weight", weight, above=0, error=CorpusError) for _, weight in corpora])
    parts = [corpus for corpus, _ in corpora]
    names = _names(parts)
    draw = _Draws(weights / weights.sum(), check_seed(seed, error=CorpusError))

    def seek(refuse: Refuse, start: int) -> Iterator[Item]:
        taken = draw.counts(start)
        readers = [_after(part, refuse, int(count)) for part, count in zip(parts, taken, strict=True)]
        for number in islice(draw.from_(start), None if limit is None else max(limit - start, 0)):
            item = next(readers[number], None)
            if item is None:
                return
            concept = None if item.concept is None else f"{names[number]}/{item.concept}"
            yield replace(item, id=f"{names[number]}/{item.id}", concept=concept)

    def source() -> dict[str, Any]:
        described = [
            {"name": called, "weight": float(weight), **part.source}
            for called, weight, part in zip(names, weights, parts, strict=True)
        ]
        return {"kind": "mixture", "corpora": described, "seed": draw.seed, "limit": limit}

    return Corpus(
        name or " + ".join(names),
        source,
        lambda refuse: seek(refuse, 0),
        any(part.skip_errors for part in parts),
        seek,
        cache(lambda: Kept(_columns(parts, names))),
    )


class _Draws:
    """Which corpus each item is of, in blocks that depend on the seed and their number alone."""

    def __init__(self, shares: npt.NDArray[np.float64], seed: int) -> None:
        self.seed = seed
        self._bounds = np.cumsum(shares)[:-1]
        self._count = len(shares)

    def counts(self, start: int) -> npt.NDArray[np.int64]:
        """int64 [corpora]: how many of the first `start` items are of each."""
        found = np.zeros(self._count, np.int64)
        for block in range(-(-start // BLOCK)):
            found += np.bincount(self._block(block)[: start - block * BLOCK], minlength=self._count)
        return found

    def from_(self, start: int) -> Iterator[int]:
        """The numbers of the corpora from item `start` on, without an end."""
        block, skipped = divmod(start, BLOCK)
        while True:
            yield from self._block(block)[skipped:].tolist()
            block, skipped = block + 1, 0

    def _block(self, number: int) -> npt.NDArray[np.int64]:
        drawn = np.random.default_rng([self.seed, number]).random(BLOCK)
        return np.searchsorted(self._bounds, drawn, side="right").astype(np.int64)


def _after(part: Corpus, refuse: Refuse, start: int) -> Iterator[Item]:
    """The items of a corpus but the first `start`."""
    if part.seek is not None and start:
        return part.seek(refuse, start)
    return islice(part.read(refuse), start, None)


def _names(parts: Sequence[Corpus]) -> list[str]:
    """The corpora's names, with a number behind one that another has too."""
    seen: Counter[str] = Counter()
    names = []
    for part in parts:
        seen[part.name] += 1
        names.append(part.name if seen[part.name] == 1 else f"{part.name}-{seen[part.name]}")
    return names


def _columns(parts: Sequence[Corpus], names: Sequence[str]) -> Types:
    """The columns that any of the corpora keeps."""
    found: dict[str, tuple[str, Any]] = {}
    for part, called in zip(parts, names, strict=True):
        for name, kind in part.columns.items():
            first, before = found.setdefault(name, (called, kind))
            if before != kind:
                raise CorpusError(
                    f"column {name!r} is {type_name(kind)} in {called}, and {type_name(before)} in {first}; say what "
                    "it is to be kept as: ",
                    Parameter("keep_columns", f"{name}:string"),
                )
    return {name: kind for name, (_, kind) in found.items()}
