"""Before a long run: are the captured states the model's own, and do batches give those of single items?"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from hubstore.errors import HubstoreError, ModelError, NonFiniteError, SelfCheckError
from hubstore.extraction.capture import Capture
from hubstore.extraction.checks import TOLERANCE, SelfCheck
from hubstore.extraction.compiled import compiled_blocks
from hubstore.extraction.members import batch_members, media_members
from hubstore.extraction.memory import run_in_halves
from hubstore.extraction.own_states import compare_with_own
from hubstore.extraction.sampling import cut_alike, fill_batch
from hubstore.models import (
    Batch,
    Batching,
    HostBatch,
    MediaInputs,
    Model,
    Padding,
    Restorer,
    collate,
    length_borders,
    pack,
)
from hubstore.models.batch import BatchKind, Integers

CHECKED_TOKENS = 128
"""Tokens of an item that are compared, evenly spread, its first and its last among them."""

FEWEST_TOKENS = 16
"""What a shorter item counts as: rounding alone may send one token of a mixture to another expert."""

OWN_TOKENS = 1024
"""Longest item that is compared with the model's own hidden states, of which all layers are in memory at once."""

ALIKE = 4
"""Items of one length in a batch, where batches of one length are tried."""

ALONE = Batching("single")
"""How an item is run by itself."""

SLOWER = {
    "alike": "only items of one {what} share a batch, which is slower",
    "single": "every item is a batch, which is much slower",
}


@dataclass(frozen=True)
class PackingAsked:
    """What the self-check must know where packed batches are asked for.

    Args:
        batch_tokens: tokens of a full batch.
        max_tokens: of the longest item there can be.
        compile: whether to try compiled blocks.
    """

    batch_tokens: int
    max_tokens: int
    compile: bool = False


MakeBatch = Callable[[Integers, Batching], HostBatch]
Members = Callable[[Batching], Iterable[Integers]]


@dataclass(frozen=True)
class _Sample:
    """The sample's items, and their states run alone.

    Args:
        probe: reads every layer wanted.
        lengths: int32 [items], in tokens.
        members: the batches of a run, by how they are made.
        make: a batch of some of the items.
        restorer: puts the model back.
        single: of each item, float32 [layers, rows, width].
        changes: after each forward, whether it had changed the model.
        windows: sliding windows that packed attention was asked for.
    """

    probe: Capture
    lengths: Integers
    members: Members
    make: MakeBatch
    restorer: Restorer
    single: list[torch.Tensor] = field(default_factory=list)
    changes: list[bool] = field(default_factory=list)
    windows: set[int] = field(default_factory=set)

    @property
    def model(self) -> Model:
        return self.probe.model

    def run_alone(self) -> None:
        """Run every item by itself; before anything else."""
        for number in range(len(self.lengths)):
            ((_, states),) = self.run(np.array([number]), ALONE)
            if not states.isfinite().all():
                broken = self.probe.layers[int((~states.isfinite()).flatten(1).any(1).int().argmax())]
                raise NonFiniteError(
                    f"{self.model.identity['id']} gives states that are not finite at layer {broken}, for an item run "
                    "alone; run the model in float32 or bfloat16 (`--model-dtype`), or check its weights"
                )
            self.single.append(states)

    def run(self, members: Integers, how: Batching) -> list[tuple[int, torch.Tensor]]:
        """The items of one batch, each with its states."""
        found: list[tuple[int, torch.Tensor]] = []

        def run(some: Integers) -> None:
            batch, counts = self.batch(some, how)
            try:
                states = self.probe.run(batch)[self.probe.poolings[0]]
            finally:
                self.changes.append(self.restorer.restore())
            if batch.packing is not None:
                self.windows.update(batch.packing.windows)
            found.extend(zip(map(int, some), torch.split(states, counts, dim=1), strict=True))

        run_in_halves(members, run, self.lengths, self.model)
        return found

    def batch(self, members: Integers, how: Batching) -> tuple[Batch, list[int]]:
        """A batch on the device, and of how many tokens of each item states are read."""
        whole = self.make(members, how)
        thin, counts = _thinned(whole) if self.probe.poolings == ("tokens",) else (whole, [1] * len(members))
        return thin.to(self.model.device), counts

    def compare_with_own(self) -> str:
        """Compare the shortest item, and the longest of which all layers go into memory, with the model's own."""
        if self.model.joint:
            return "none"
        within = np.flatnonzero(self.lengths <= OWN_TOKENS)
        longest = within[self.lengths[within].argmax()] if len(within) else 0
        for item in dict.fromkeys((int(self.lengths.argmin()), int(longest))):
            reference = compare_with_own(self.probe, self.batch(np.array([item]), ALONE)[0], self.single[item])
            self.restorer.restore()
        return reference

    def check(self, how: Batching) -> SelfCheck:
        """The check of one way to make batches, on the batches of a run."""
        return self.compare(itertools.chain.from_iterable(self.run(members, how) for members in self.members(how)), how)

    def compare(self, batched: Iterable[tuple[int, torch.Tensor]], how: Batching) -> SelfCheck:
        """The check of items run in batches."""
        exact = self.model.dtype is torch.float32
        fewest = FEWEST_TOKENS if self.probe.poolings == ("tokens",) else 1
        worst = torch.zeros(len(self.probe.layers))
        items = set()
        for item, states in batched:
            items.add(item)
            distance = (states - self.single[item]).norm(dim=-1) / self.single[item].norm(dim=-1).clamp_min(1e-30)
            mean = distance.sum(dim=1) / max(distance.shape[1], fewest)
            of_item = distance.max(dim=1).values if exact else mean
            worst = torch.maximum(worst, of_item.nan_to_num(nan=float("inf")).cpu())
        layer = int(worst.argmax())
        return SelfCheck(
            items=len(items),
            deviation=float(worst[layer]),
            layer=self.probe.layers[layer],
            tolerance=TOLERANCE[self.model.dtype],
            reference="none",
            padding=how.padding,
            explicit_positions=how.explicit_positions,
            batching=how.kind,
            first_position=how.first_position,
            compiled=how.compiled,
            borders=how.borders,
            varies_beyond=how.varies_beyond,
            restores=any(self.changes),
            longest=int(self.lengths.max()),
        )


def self_check(
    capture: Capture,
    token_ids: Sequence[Sequence[int]],
    padding: Padding,
    packing: PackingAsked | None = None,
    batch_tokens: int | None = None,
    fill: int = 0,
) -> SelfCheck:
    """Compare single with batched states on every captured layer, and single states with the model's own.

    Where packed batches are asked for they are tried first, then padded ones, then batches of one length, then
    batches of one item: the first that agrees is used. With left padding a model is tried without and with explicit
    positions. Items of both sides of a length at which the model changes are in no batch together.

    Args:
        capture: the model and the layers to check; tokens are compared, whatever the poolings.
        token_ids: the sample, of mixed lengths.
        padding: the side that the run will pad on, where it pads.
        packing: how the run would pack; None to pad.
        batch_tokens: of a padded batch of the run; None for one batch of all.
        fill: tokens of the sample's largest batch, in which items are repeated, where one of the run has as many.

    Raises:
        NonFiniteError: the model gives NaN or infinity for an item run alone.
        SelfCheckError: no way of batching gives the states of single items, or the captured states are not
            the model's own. Names the layer and by how much.
        ModelError: the model cannot be run on an item, or gives states that cannot be read.
    """
    model = capture.model
    room = packing.batch_tokens if packing is not None else batch_tokens or sum(map(len, token_ids)) * len(token_ids)
    borders = length_borders(model.trunk.config)
    plain = Batching("padded", padding, borders=borders.lengths, varies_beyond=borders.varies_beyond)
    with _named_errors(model, "text"):
        sample = _text_sample(capture, token_ids, room, fill)
        reference = sample.compare_with_own()
        why: list[str] = []
        if packing is not None:
            check, refused = _check_packed(sample, packing, plain)
            if check is not None:
                return replace(check, reference=reference)
            why.append(refused)
        best = _best_padded(sample, plain)
        if best.deviation <= best.tolerance:
            return replace(best, reference=reference, refused=" ".join(why))
        why.append(f"padded states differ{_most(best)}")
        alike = _text_sample(capture, cut_alike(token_ids, ALIKE), room, room)
        check = _slower(model, why, "text", {"alike": alike, "single": sample}, plain)
        return replace(check, reference=reference)


def media_check(
    capture: Capture, modality: str, inputs: Sequence[MediaInputs], batch_tokens: int | None = None
) -> SelfCheck:
    """Compare images or audio run alone with the same in batches; and single states with the model's own.

    Where padding changes them, only items of one shape share a batch; where that does too, each is one.

    Args:
        capture: the model and the layers to check.
        modality: "image" or "audio".
        inputs: the sample, of different sizes if there are any.
        batch_tokens: of a batch of the run; None for one batch of all.

    Raises:
        NonFiniteError: the model gives NaN or infinity for an item run alone.
        SelfCheckError: an item has other states every time, or the captured states are not the model's own.
        ModelError: the model cannot be run on an item, or gives states that cannot be read.
    """
    model = capture.model
    lengths = np.array([model.adapters[modality].length_of(item) for item in inputs], np.int64)
    room = batch_tokens or int(lengths.sum()) * len(inputs)
    borders = length_borders(model.trunk.config)
    plain = Batching("padded", borders=borders.lengths, varies_beyond=borders.varies_beyond)

    def make(members: Integers, how: Batching) -> HostBatch:
        return model.collate_media(modality, [inputs[i] for i in members])

    with _named_errors(model, modality):
        members: Members = lambda how: media_members(inputs, lengths.astype(np.int32), room, how)  # noqa: E731
        sample = _Sample(_probe(capture), lengths, members, make, Restorer(model.trunk))
        sample.run_alone()
        reference = sample.compare_with_own()
        why: list[str] = []
        try:
            padded = sample.check(plain)
            if padded.deviation <= padded.tolerance:
                return replace(padded, reference=reference)
            why.append(f"padded states differ{_most(padded)}")
        except Exception as error:  # whatever a model's own code raises of padding it does not know
            why.append(f"it cannot be padded ({_first_line(error)})")
        return replace(_slower(model, why, modality, {"alike": sample, "single": sample}, plain), reference=reference)


def mixes_items(model: Model) -> bool:
    """Whether items may compete for room in a batch: a mixture of experts, as the configuration names them."""
    return any("expert" in name or "capacity" in name for name in model.trunk.config.to_dict())


def _text_sample(capture: Capture, token_ids: Sequence[Sequence[int]], room: int, fill: int) -> _Sample:
    model = capture.model
    lengths = np.array([len(ids) for ids in token_ids], np.int64)

    def make(members: Integers, how: Batching) -> HostBatch:
        chosen = [token_ids[i] for i in members]
        if how.compiled:
            return pack(model, chosen, room, first_position=how.first_position, full=True)
        return collate(model, chosen, how, room)

    def members(how: Batching) -> Iterable[Integers]:
        batches = list(batch_members(lengths.astype(np.int32), room, how))
        largest = max(range(len(batches)), key=lambda i: int(lengths[batches[i]].sum()))
        for number, batch in enumerate(batches):
            full = how.kind == "alike" or (number == largest and how.kind != "single")
            tokens = min(fill, room) if full else 0
            yield fill_batch(batch, lengths, tokens, packed=how.kind == "packed")

    sample = _Sample(_probe(capture), lengths, members, make, Restorer(model.trunk))
    sample.run_alone()
    return sample


def _slower(
    model: Model, why: list[str], modality: str, samples: Mapping[BatchKind, _Sample], plain: Batching
) -> SelfCheck:
    """The check of batches of items of one shape, or of one item each, whichever agrees first."""
    for kind, sample in samples.items():
        check = sample.check(replace(plain, kind=kind))
        if check.deviation <= check.tolerance:
            what = "length" if modality == "text" else "shape"
            return replace(check, refused=f"{'; '.join(why)}: {SLOWER[kind].format(what=what)}")
        why.append(f"{kind} ones{_most(check)}")
    raise SelfCheckError(
        f"{model.identity['id']}: {modality} items have other states each time they are run, even alone: "
        f"{'; '.join(why)}, {check.tolerance:g} allowed; it cannot be extracted: mend the model, or use another"
    )


def _most(check: SelfCheck) -> str:
    return f", most at layer {check.layer}: relative distance {check.deviation:.2g}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


@contextlib.contextmanager
def _named_errors(model: Model, modality: str) -> Iterator[None]:
    """Whatever a model's own code raises names the model, and what to do."""
    try:
        yield
    except HubstoreError:
        raise
    except Exception as error:
        raise ModelError(
            f"{model.identity['id']} cannot be run on {modality} items: {_first_line(error)}; hubstore cannot extract "
            "it as it is: check that its configuration, tokenizer and weights belong together, or use another model"
        ) from error


def _probe(capture: Capture) -> Capture:
    """Every token of every layer; a joint vector is one for each item."""
    pooling = "last" if capture.model.joint else "tokens"
    return Capture(capture.model, capture.layers, (pooling,), torch.float32)


def _thinned(batch: HostBatch) -> tuple[HostBatch, list[int]]:
    """The batch with at most `CHECKED_TOKENS` tokens read of every item, and how many of each."""
    rows = batch.arrays["token_rows"]
    ends = np.searchsorted(rows, batch.arrays["last"], side="right")
    counts = np.diff(ends, prepend=0)
    chosen = [np.unique(np.linspace(0, n - 1, min(n, CHECKED_TOKENS)).round().astype(np.int64)) for n in counts]
    places = np.concatenate([end - n + of_item for end, n, of_item in zip(ends, counts, chosen, strict=True)])
    arrays = {**batch.arrays, "token_rows": rows[places], "token_places": np.arange(len(places))}
    return replace(batch, arrays=arrays), [len(of_item) for of_item in chosen]


def _check_packed(sample: _Sample, packing: PackingAsked, plain: Batching) -> tuple[SelfCheck | None, str]:
    """What was measured packed; or None, and why the model must be padded."""
    model = sample.model
    if model.joint or not model.takes_position_ids:
        return None, "its towers give each item one vector" if model.joint else "it cannot be told positions"
    if getattr(model.trunk.config, "attention_chunk_size", None):
        return None, "its attention goes by chunks"
    pad_id = getattr(model.trunk.config, "pad_token_id", None)
    # RoBERTa counts positions from the one after its padding token's id; others from 0.
    starts = (0,) if pad_id is None else (0, pad_id + 1)
    checks: list[SelfCheck] = []
    refused = ""
    for start in starts:
        how = replace(plain, kind="packed", first_position=start)
        try:
            checks.append(sample.check(how))
        except Exception as error:  # whatever a model's own code raises of being packed: it is padded then
            refused = _first_line(error)
    if checks and (unseen := _unseen_window(sample, packing)):
        return None, f"its sliding window of {unseen} tokens does not reach packed attention"
    if not checks:
        return None, refused
    best = min(checks, key=lambda check: check.deviation)
    if best.deviation > best.tolerance:
        return None, f"packed states differ by {best.deviation:.2g} at layer {best.layer}"
    return (_check_compiled(sample, best, packing.batch_tokens) if packing.compile else best), ""


def _check_compiled(sample: _Sample, eager: SelfCheck, batch_tokens: int) -> SelfCheck:
    """The check of compiled blocks, or the eager one where they cannot be compiled or give other states."""
    model = sample.model
    # A batch of the sample made full: only full ones go through compiled blocks.
    full = [chosen for chosen in sample.members(eager.how()) if sample.lengths[chosen].sum() <= batch_tokens]
    if not full:
        return eager
    how = replace(eager.how(), compiled=True)
    try:
        with compiled_blocks(model, batch_tokens):
            check = sample.compare(sample.run(max(full, key=len), how), how)
    except Exception as error:  # no compiler, or one that fails on this model: eager blocks give the same states
        why = _first_line(error)
        warnings.warn(f"{model.identity['id']} runs without compiled blocks, slower: {why}", stacklevel=2)
        return eager
    if check.deviation > check.tolerance:
        warnings.warn(
            f"{model.identity['id']} runs without compiled blocks, slower: compiled states differ by "
            f"{check.deviation:.2g} at layer {check.layer}",
            stacklevel=2,
        )
        return eager
    return check


def _unseen_window(sample: _Sample, packing: PackingAsked) -> int:
    """The sliding window of a model that keeps it from its attention function, if an item can be longer; else 0."""
    config = sample.model.trunk.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return int(window) if window and not sample.windows and packing.max_tokens > window else 0


def _best_padded(sample: _Sample, plain: Batching) -> SelfCheck:
    choices = (False, True) if plain.padding == "left" and sample.model.takes_position_ids else (False,)
    checks = [sample.check(replace(plain, explicit_positions=explicit)) for explicit in choices]
    return min(checks, key=lambda check: check.deviation)
