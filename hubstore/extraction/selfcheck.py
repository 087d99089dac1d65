"""Before a long run: are the captured states the model's own, and do batches give those of single items?"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from hubstore.errors import HubstoreError, ModelError, SelfCheckError
from hubstore.extraction.checks import SelfCheck
from hubstore.extraction.sample import Sample, probe_of
from hubstore.extraction.sampling import cut_to_same_length, fill_batch
from hubstore.forward import Batching, HostBatch, Padding, collate, collate_media, pack
from hubstore.forward.capture import Capture
from hubstore.forward.compiled import compiled_blocks
from hubstore.forward.members import batch_members, media_members, padded_batching
from hubstore.media import MediaInputs
from hubstore.models import Model, Restorer
from hubstore.reading.batching import BatchKind
from hubstore.reading.layout import Integers

PADDED_MEDIA = {torch.float32: 1e-5}
"""What padding may change of images and audio: convolutions see an item's padded edge, which changes few tokens by
little but by more than rounding, and batches of one shape cost little."""

SAME_LENGTH = 4
"""Items of one length in a batch, where batches of one length are tried."""

SLOWER = {
    "same_shape": "only items of one {what} share a batch, which is slower",
    "single": "every item is a batch, which is much slower",
}


@dataclass(frozen=True)
class PackingOptions:
    """What the self-check must know where packed batches are asked for.

    Args:
        batch_tokens: tokens of a full batch.
        max_tokens: of the longest item there can be.
        compile: whether to try compiled blocks.
    """

    batch_tokens: int
    max_tokens: int
    compile: bool = False


def self_check(
    capture: Capture,
    token_ids: Sequence[Sequence[int]],
    padding: Padding,
    packing: PackingOptions | None = None,
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
    budget = packing.batch_tokens if packing is not None else batch_tokens or sum(map(len, token_ids)) * len(token_ids)
    plain = replace(padded_batching(model), padding=padding)
    with _named_errors(model, "text"):
        sample = _text_sample(capture, token_ids, budget, fill)
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
        same_length = _text_sample(capture, cut_to_same_length(token_ids, SAME_LENGTH), budget, budget)
        check = _slower(model, why, "text", {"same_shape": same_length, "single": sample}, plain)
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
    budget = batch_tokens or int(lengths.sum()) * len(inputs)
    plain = padded_batching(model)

    def make(members: Integers, batching: Batching) -> HostBatch:
        return collate_media(model, modality, [inputs[i] for i in members])

    def members(batching: Batching) -> Iterable[Integers]:
        return media_members(inputs, lengths.astype(np.int32), budget, batching)

    with _named_errors(model, modality):
        sample = Sample(probe_of(capture), lengths, members, make, Restorer(model.trunk))
        sample.run_alone()
        reference = sample.compare_with_own()
        why: list[str] = []
        try:
            padded = sample.check(plain)
            if padded.deviation <= min(padded.tolerance, PADDED_MEDIA.get(model.dtype, 1.0)):
                return replace(padded, reference=reference)
            why.append(f"padded states differ{_most(padded)}")
        except Exception as error:  # whatever a model's own code raises of padding it does not know
            why.append(f"it cannot be padded ({_first_line(error)})")
        return replace(
            _slower(model, why, modality, {"same_shape": sample, "single": sample}, plain), reference=reference
        )


def _text_sample(capture: Capture, token_ids: Sequence[Sequence[int]], budget: int, fill: int) -> Sample:
    model = capture.model
    lengths = np.array([len(ids) for ids in token_ids], np.int64)

    def make(members: Integers, batching: Batching) -> HostBatch:
        chosen = [token_ids[i] for i in members]
        if batching.compiled:
            return pack(model, chosen, budget, first_position=batching.first_position, full=True)
        return collate(model, chosen, batching, budget)

    def members(batching: Batching) -> Iterable[Integers]:
        batches = list(batch_members(lengths.astype(np.int32), budget, batching))
        largest = max(range(len(batches)), key=lambda i: int(lengths[batches[i]].sum()))
        for number, batch in enumerate(batches):
            full = batching.kind == "same_shape" or (number == largest and batching.kind != "single")
            tokens = min(fill, budget) if full else 0
            yield fill_batch(batch, lengths, tokens, packed=batching.kind == "packed")

    sample = Sample(probe_of(capture), lengths, members, make, Restorer(model.trunk))
    sample.run_alone()
    return sample


def _slower(
    model: Model, why: list[str], modality: str, samples: Mapping[BatchKind, Sample], plain: Batching
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


def _check_packed(sample: Sample, packing: PackingOptions, plain: Batching) -> tuple[SelfCheck | None, str]:
    """What was measured packed; or None, and why the model must be padded."""
    model = sample.model
    if model.joint or not model.takes_position_ids:
        return None, "its towers give each item one vector" if model.joint else "it takes no position ids"
    if getattr(model.trunk.config, "attention_chunk_size", None):
        return None, "its attention goes by chunks"
    pad_id = getattr(model.trunk.config, "pad_token_id", None)
    # RoBERTa counts positions from the one after its padding token's id; others from 0.
    starts = (0,) if pad_id is None else (0, pad_id + 1)
    checks: list[SelfCheck] = []
    refused = ""
    for start in starts:
        batching = replace(plain, kind="packed", first_position=start)
        try:
            checks.append(_across_windows(sample, batching))
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


def _across_windows(sample: Sample, batching: Batching) -> SelfCheck:
    """The check of batches across the sliding windows that packed attention keeps to, or within where they differ."""
    sample.run(np.array([sample.lengths.argmin()]), batching)  # shows which windows attention is asked for
    across = replace(batching, borders=tuple(border for border in batching.borders if border not in sample.windows))
    if across != batching and (check := sample.check(across)).deviation <= check.tolerance:
        return check
    return sample.check(batching)


def _check_compiled(sample: Sample, eager: SelfCheck, batch_tokens: int) -> SelfCheck:
    """The check of compiled blocks, or the eager one where they cannot be compiled or give other states."""
    model = sample.model
    # A batch of the sample made full: only full ones go through compiled blocks.
    full = [chosen for chosen in sample.members(eager.to_batching()) if sample.lengths[chosen].sum() <= batch_tokens]
    if not full:
        return eager
    batching = replace(eager.to_batching(), compiled=True)
    try:
        with compiled_blocks(model, batch_tokens):
            check = sample.compare(sample.run(max(full, key=len), batching), batching)
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


def _unseen_window(sample: Sample, packing: PackingOptions) -> int:
    """The sliding window of a model that keeps it from its attention function, if an item can be longer; else 0."""
    config = sample.model.trunk.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return int(window) if window and not sample.windows and packing.max_tokens > window else 0


def _best_padded(sample: Sample, plain: Batching) -> SelfCheck:
    choices = (False, True) if plain.padding == "left" and sample.model.takes_position_ids else (False,)
    checks = [sample.check(replace(plain, explicit_positions=explicit)) for explicit in choices]
    return min(checks, key=lambda check: check.deviation)
