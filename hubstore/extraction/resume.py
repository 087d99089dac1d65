"""What an earlier run left in a store, and whether this one may go on with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubstore.corpus import Corpus, same_source
from hubstore.errors import CorruptStoreError, Parameter, StoreError, StoreExistsError
from hubstore.extraction.plan import Plan, discard_plan, load_plan
from hubstore.extraction.settings import Settings, is_older
from hubstore.storage import Location, Storage
from hubstore.store import Layout, write_metadata
from hubstore.store.attributes import read_attributes
from hubstore.store.columns import stored_columns, type_name
from hubstore.store.commit import Commit
from hubstore.store.layout import PLAN, ROOT, commit_key
from hubstore.store.log import read_commits
from hubstore.store.unfinished import Unfinished, unfinished_corpus, with_shards

CONTENT = ("hidden", "items", "previews", "commits", "log", "lens", "indexes", "analyses")
"""Folders of a store, without that of the plan."""


@dataclass(frozen=True)
class Begun:
    """A store as a run finds it.

    Args:
        attributes: attributes.hubstore of its root; None where nothing is described yet.
        commits: all of them.
        plan: of the generation to go on with; None where one is to be planned, if any is left.
        number: of the run's corpus among the store's `corpora`.
    """

    attributes: Mapping[str, Any] | None
    commits: tuple[Commit, ...]
    plan: Plan | None
    number: int

    @property
    def entry(self) -> Mapping[str, Any] | None:
        """What the store says of the run's corpus, with all shards numbered; None where that is new to it."""
        if self.attributes is None:
            return None
        corpora = with_shards(self.attributes, self.commits)["corpora"]
        return corpora[self.number] if self.number < len(corpora) else None


def begin_extract(storage: Storage, identity: Mapping[str, Any], corpus: Corpus) -> Begun:
    """The store of an extraction: new, or left by an earlier run of the same.

    A store of no item is begun anew where something else is asked for.

    Args:
        storage: locked by the caller.
        identity: what is asked for.
        corpus: what is asked for; it is opened before anything is removed to make room for it.

    Raises:
        CorpusError: the corpus cannot be read, or is empty.
        StoreExistsError: it was begun with another request.
        StoreError: a corpus that was appended later is unfinished.
        CorruptStoreError: commits are there, and nothing that describes them.
    """
    attributes, commits, plan = _found(storage)
    corpora = _corpora(attributes)
    unfinished = _unfinished(attributes, commits, plan)
    found = [_differences(entry, identity) for entry in corpora]
    if not any(commit.items for commit in commits):
        done = attributes is not None and unfinished is None and plan is None
        if done or any(found) or (plan is not None and differences(plan.identity, identity)):
            _open(corpus)
            _clear(storage)
            return Begun(None, (), None, 0)
        return Begun(attributes, commits, plan, 0)
    if not found:
        raise StoreExistsError(
            f"{storage.root} was not written by an extraction, so none can go on with it; give the new store another "
            "path"
        )
    _refuse_other_run(storage.root, found[0], unfinished)
    if unfinished is not None and unfinished.number:
        raise StoreError(f"{storage.root}: {unfinished}; what this command asks for is there")
    return Begun(attributes, commits, _own(storage, plan, attributes, 0), 0)


def begin_append(storage: Storage, identity: Mapping[str, Any], corpus: Corpus) -> Begun:
    """A store to which a corpus is added, or in which an interrupted run of that corpus is finished.

    An appended corpus of which nothing is committed makes room for another.

    Args:
        storage: locked by the caller.
        identity: what is asked for.
        corpus: what is asked for; it is opened before anything is removed to make room for it.

    Raises:
        CorpusError: the corpus cannot be read, or is empty.
        StoreError: another corpus is unfinished.
    """
    attributes, commits, plan = _found(storage)
    number = len(_corpora(attributes))
    unfinished = _unfinished(attributes, commits, plan)
    if attributes is not None and unfinished is not None:
        if not _differences(attributes["corpora"][unfinished.number], identity):
            number = unfinished.number
        elif unfinished.items or not unfinished.number:
            raise StoreError(f"{storage.root}: {unfinished}, and then append another corpus")
        else:
            number = unfinished.number
            _open(corpus)
            attributes, commits = _taken_back(storage, attributes, commits, number)
            plan = None
    described = plan is not None and attributes is not None and is_described(attributes, plan.generation)
    if plan is not None and not described and differences(plan.identity, identity):
        discard_plan(storage)
        plan = None
    return Begun(attributes, commits, _own(storage, plan, attributes, number), number)


def joined(storage: Storage, identity: Mapping[str, Any]) -> Begun | None:
    """A store whose generation other processes extract, to do a part of it; None where one is to be planned first.

    Nothing is written or removed. StoreExistsError where they extract something else.
    """
    if not storage.exists(ROOT) or not storage.exists(PLAN):
        return None
    attributes = read_attributes(storage)
    try:
        plan = load_plan(storage)
    except CorruptStoreError:  # it is being replaced, or whoever plans says what is wrong with it
        return None
    if plan is None or not is_described(attributes, plan.generation):
        return None
    _refuse_other_run(storage.root, differences(plan.identity, identity), None)
    commits = read_commits(storage, Layout.from_json(attributes))
    if {shard.shard for shard in plan.shards} <= {commit.shard for commit in commits}:
        return None
    corpora = [{one["generation"] for one in entry["generations"]} for entry in attributes["corpora"]]
    number = next(place for place, generations in enumerate(corpora) if plan.generation in generations)
    return Begun(attributes, commits, plan, number)


def is_whole(begun: Begun, identity: Mapping[str, Any]) -> bool:
    """Whether a store has the whole of a corpus that is asked for, and nothing in it is unfinished."""
    if begun.plan is not None or _unfinished(begun.attributes, begun.commits, None) is not None:
        return False
    return any(not _differences(entry, identity) for entry in _corpora(begun.attributes))


def is_described(attributes: Mapping[str, Any], generation: int) -> bool:
    """Whether the store's metadata tells of a generation."""
    return any(one["generation"] == generation for entry in attributes["corpora"] for one in entry["generations"])


def fingerprints_of_appended(attributes: Mapping[str, Any]) -> frozenset[str]:
    """Those of the corpora that were appended to a store in one generation each, and are whole."""
    generations = (entry["generations"] for entry in attributes["corpora"][1:] if not entry["more"])
    return frozenset(one[0]["fingerprint"] for one in generations if len(one) == 1 and one[0]["fingerprint"])


def check_columns(root: Location, attributes: Mapping[str, Any], corpus: Corpus, number: int) -> None:
    """Hold the columns that a corpus keeps against those that the store has had from its beginning.

    Args:
        root: of the store.
        attributes: attributes.hubstore of its root.
        corpus: whose items are extracted into it.
        number: of the corpus among the store's.

    Raises:
        StoreError: the corpus has another column, or one of another type; or the store keeps some, and it was not said
            which of them an appended corpus has.
    """
    stored, asked = stored_columns(attributes.get("columns", [])), corpus.columns
    for name, kind in asked.items():
        if name not in stored:
            kept = f"it keeps {', '.join(stored)}" if stored else "it keeps none"
            raise StoreError(
                f"{root} was begun without a column {name!r}; {kept}, and what is appended can keep no other: name "
                "those with ",
                Parameter("keep_columns", "..."),
                ", or extract the store again",
            )
        if stored[name] != kind:
            raise StoreError(
                f"{corpus.name}: column {name!r} is {type_name(kind)}, and {root} keeps it as "
                f"{type_name(stored[name])}; say so with ",
                Parameter("keep_columns", f"{name}:{type_name(stored[name])}"),
            )
    if number and stored and not asked and not corpus.keeps_said:
        raise StoreError(
            f"{root} keeps the columns {', '.join(stored)} beside its items; say which of them {corpus.name} has with ",
            Parameter("keep_columns", ",".join(stored)),
            ", or that it has none with ",
            Parameter("keep_columns", "none"),
        )


def differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """What differs between the request that a store was begun with and another; nothing where they agree."""
    stored = {**stored, "settings": Settings.from_json(stored.get("settings", {})).to_json()}
    found = []
    for part, value in requested.items():
        before = stored.get(part)
        if before == value or (part == "corpus" and _is_same_corpus(before, value)):
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            keys = sorted(k for k in {*value, *before} if value.get(k) != before.get(k))
            found += [f"{part} {k} (there {before.get(k)!r:.60}, asked {value.get(k)!r:.60})" for k in keys]
        else:
            found.append(f"{part} (there {before!r:.60}, asked {value!r:.60})")
    return found


def _differences(entry: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """What differs between a corpus of a store and what is asked for.

    Padded batches were once of no fewer tokens than the longest item may have, whatever was asked for.
    """
    stored, settings = dict(entry["identity"]), requested["settings"]
    before = stored.get("settings", {})
    most = before.get("batch_tokens")
    if is_older(entry) and most == before.get("max_tokens") == max(settings["batch_tokens"], settings["max_tokens"]):
        stored["settings"] = {**before, "batch_tokens": settings["batch_tokens"]}
    return differences(stored, requested)


def _is_same_corpus(stored: Any, requested: Mapping[str, Any]) -> bool:
    """Whether it is the corpus that was begun with; a run that stopped at what cannot be read may leave it out now."""
    if isinstance(stored, Mapping) and stored.get("on_error") == "stop":
        stored = {**stored, "on_error": requested.get("on_error")}
    return same_source(stored, requested)


def _refuse_other_run(root: Location, found: Sequence[str], unfinished: Unfinished | None) -> None:
    """An unfinished or finished run may only be gone on with by the same command on the same corpus."""
    if found:
        state = f"; {unfinished}" if unfinished else ""
        raise StoreExistsError(
            f"{root} was begun with another request: {'; '.join(found)}. To go on with it, ask for the same; "
            f"to add another corpus to a finished store, use append; else give the new store another path{state}"
        )


def _open(corpus: Corpus) -> None:
    """Read the first item of a corpus: one that cannot be read makes nothing else give way."""
    next(corpus.batches(1), None)


def _found(storage: Storage) -> tuple[Mapping[str, Any] | None, tuple[Commit, ...], Plan | None]:
    """What is in a store; a plan that is done, and files that belong to none, are removed."""
    attributes = read_attributes(storage) if storage.exists(ROOT) else None
    commits: tuple[Commit, ...] = ()
    if attributes is not None:
        commits = read_commits(storage, Layout.from_json(attributes))
    elif orphans := storage.list("commits"):
        raise CorruptStoreError(
            f"{storage.root / ROOT} is missing, and {len(orphans)} shards are committed; bring it back from a copy, "
            "or give the new store another path"
        )
    plan = load_plan(storage)
    committed = {commit.shard for commit in commits}
    if plan is None or all(shard.shard in committed for shard in plan.shards):
        discard_plan(storage)
        return attributes, commits, None
    return attributes, commits, plan


def _unfinished(
    attributes: Mapping[str, Any] | None, commits: Sequence[Commit], plan: Plan | None
) -> Unfinished | None:
    if attributes is None:
        return None
    return unfinished_corpus(
        attributes, commits, lambda: plan is not None and is_described(attributes, plan.generation)
    )


def _own(storage: Storage, plan: Plan | None, attributes: Mapping[str, Any] | None, number: int) -> Plan | None:
    """The plan, if it is of the corpus of that number; another's is removed, since its shards can be planned again."""
    if plan is None:
        return None
    corpora = _corpora(attributes)
    generations = [{one["generation"] for one in entry["generations"]} for entry in corpora]
    new = next((i for i, one in enumerate(corpora) if one["more"]), len(corpora))
    owner = next((i for i, of in enumerate(generations) if plan.generation in of), new)
    if owner == number:
        return plan
    discard_plan(storage)
    return None


def _taken_back(
    storage: Storage, attributes: Mapping[str, Any], commits: Sequence[Commit], number: int
) -> tuple[Mapping[str, Any], tuple[Commit, ...]]:
    """A store without the corpus of that number, of which no item is committed: its attributes and commits.

    Its files are removed, commits of no item among them.
    """
    discard_plan(storage)
    gone = {one["generation"] for one in attributes["corpora"][number]["generations"]}
    left = tuple(commit for commit in commits if commit.generation not in gone)
    known = {key for commit in left for key in (*commit.files, commit_key(commit.shard))}
    for folder in ("commits", "hidden", "items", "previews"):
        for key in storage.list(folder):
            if key not in known and not key.endswith(ROOT):
                storage.delete(key)
    corpora = [entry for i, entry in enumerate(attributes["corpora"]) if i != number]
    layout = Layout.from_json(attributes)
    rows = max((commit.shard * layout.shard_rows + commit.items for commit in left), default=0)
    tokens = max((commit.first_token_shard * layout.shard_rows + commit.tokens for commit in left), default=0)
    write_metadata(storage, layout, {**attributes, "corpora": corpora}, rows, tokens)
    return {**attributes, "corpora": corpora}, left


def _clear(storage: Storage) -> None:
    """Remove a store of no item. Killed on the way it is still recognized, by its root or else by its plan.

    Raises:
        CorruptStoreError: it has what is only made of a store with items: its commits are missing.
    """
    made = [folder for folder in ("lens", "indexes", "analyses") if next(iter(storage.list(folder)), None)]
    if made:
        raise CorruptStoreError(
            f"{storage.root} has {' and '.join(made)} and no committed item: its commits are missing; bring them back "
            "from a copy, or give the new store another path"
        )
    for folder in CONTENT:
        for key in storage.list(folder):
            storage.delete(key)
    storage.delete(ROOT)
    discard_plan(storage)


def _corpora(attributes: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    return [] if attributes is None else attributes["corpora"]
