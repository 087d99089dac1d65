"""Whether a store's corpora are all there: what its metadata announces, against what is committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from hubstore.store.commit import Commit
from hubstore.store.records import MOST_SHARDS


@dataclass(frozen=True)
class Unfinished:
    """A corpus that a run began and did not finish.

    Args:
        name: of the corpus.
        number: its place in the store's `corpora`; 0 is the extraction's, the others were appended.
        items: committed of it so far.
        missing: shards that are planned and not committed, as far as the metadata says.
        more: whether items follow that no run has planned yet.
    """

    name: str
    number: int
    items: int
    missing: tuple[int, ...]
    more: bool

    @property
    def verb(self) -> str:
        """The command that finishes it."""
        return "append" if self.number else "extract"

    def __str__(self) -> str:
        return (
            f"its corpus {self.name!r} is unfinished: {self.items:,} items of it so far; run the same "
            f"`hubstore {self.verb}` again to finish it"
        )


def unfinished_corpus(
    attributes: Mapping[str, Any], commits: Sequence[Commit], planned: Callable[[], bool]
) -> Unfinished | None:
    """The first corpus of a store that is not all there, or None.

    Args:
        attributes: attributes.hubstore of the root group.
        commits: of the store.
        planned: whether a plan is in the store; asked of stores whose metadata does not number a generation's shards.
    """
    committed = {commit.shard for commit in commits}
    items: Counter[int] = Counter()
    for commit in commits:
        items[commit.generation] += commit.items
    corpora = with_shards(attributes, commits)["corpora"]
    newest = [one for entry in attributes["corpora"][-1:] for one in entry["generations"][-1:]]
    for number, entry in enumerate(corpora):
        generations = entry["generations"]
        missing = tuple(shard for one in generations for shard in missing_shards(one, committed))
        last = number == len(corpora) - 1
        begun = last and bool(newest) and "shards" not in newest[0] and planned()
        if missing or entry["more"] or begun:
            so_far = sum(items[one["generation"]] for one in generations)
            return Unfinished(entry["name"], number, so_far, missing, entry["more"])
    return None


def with_shards(attributes: Mapping[str, Any], commits: Sequence[Commit]) -> Mapping[str, Any]:
    """Attributes of which every generation of a corpus has its `shards`; older stores have none.

    A generation's shards follow those of the one before, as many as its items fill. Where every token has a row, only
    its plan tells how many: one that lacks items has one shard more than are committed, and may begin later; a corpus
    of which items may be left out does not tell that it lacks some.
    """
    generations = [(entry, one) for entry in attributes["corpora"] for one in entry["generations"]]
    if all("shards" in one for _, one in generations):
        return attributes
    items: Counter[int] = Counter()
    committed: dict[int, list[int]] = {}
    for commit in commits:
        items[commit.generation] += commit.items
        committed.setdefault(commit.generation, []).append(commit.shard)
    shards: dict[int, Sequence[int]] = {}
    end = 0
    for entry, one in sorted(generations, key=lambda pair: pair[1]["generation"]):
        number, found = one["generation"], committed.get(one["generation"], [])
        lacks = items[number] < one["items"] and not (found and _skips(entry))
        known = max(found, default=end - 1) + 1
        if "shards" in one:
            shards[number], known = one["shards"], one["shards"][1]
        elif "tokens" not in attributes["poolings"]:
            known = end + min(-(-one["items"] // attributes["shard_rows"]), MOST_SHARDS)
            shards[number] = [end, known]
        else:
            start = end if lacks else min(found, default=end)
            shards[number] = [start, known + (lacks and len(found) == known - start)]
        end = known
    corpora = [
        {**entry, "generations": [{**one, "shards": shards[one["generation"]]} for one in entry["generations"]]}
        for entry in attributes["corpora"]
    ]
    return {**attributes, "corpora": corpora}


def _skips(entry: Mapping[str, Any]) -> bool:
    corpus = entry["identity"].get("corpus")
    return isinstance(corpus, Mapping) and corpus.get("on_error") == "skip"


def missing_shards(generation: Mapping[str, Any], committed: Set[int]) -> Sequence[int]:
    """Shards of a generation, as the metadata describes it, that are not among the committed ones."""
    start, stop = generation.get("shards", (0, 0))
    return [shard for shard in range(start, stop) if shard not in committed]
