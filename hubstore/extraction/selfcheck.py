"""Before a long run: do batched states, packed or padded, equal those of single items?"""

from __future__ import annotations

import bisect
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from hubstore.errors import NonFiniteError, SelfCheckError
from hubstore.extraction.capture import Capture, forward
from hubstore.extraction.compiled import compiled_blocks
from hubstore.models import Batch, Batching, MediaInputs, Model, Padding, make_batch, pack, shapes_of

TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}
"""Largest mean relative distance ||batched - single|| / ||single|| of a layer's token states, by compute dtype.

Rounding alone gives about 1e-6, 2e-3 and 2e-2; a position that is off by one gives 1e-1 and more.
"""

SAMPLE = 16


@dataclass(frozen=True)
class SelfCheck:
    """What the self-check measured.

    Args:
        items: how many items it ran.
        deviation: the largest mean relative distance, over layers.
        layer: where that was.
        tolerance: what was allowed.
        reference: "own hidden states" when single states were also compared with the model's own
            `output_hidden_states`, "none" when the model gives none.
        padding: on which side they were padded.
        explicit_positions: whether the model had to be told its tokens' positions.
        batching: "packed", "padded" or "alike": what the run uses.
        first_position: the position of an item's first token, where packed.
        compiled: whether full batches go through compiled blocks.
        refused: why batches are padded where packed ones were asked for.
    """

    items: int
    deviation: float
    layer: str
    tolerance: float
    reference: str
    padding: Padding = "right"
    explicit_positions: bool = False
    batching: Literal["packed", "padded", "alike"] = "padded"
    first_position: int = 0
    compiled: bool = False
    refused: str = ""

    def how(self) -> Batching:
        """How the run makes its batches."""
        return Batching(self.batching, self.padding, self.explicit_positions, self.first_position, self.compiled)

    def to_json(self) -> dict[str, Any]:
        """As kept in the store."""
        return {**asdict(self), "deviation": float(f"{self.deviation:.3e}")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SelfCheck:
        """Back from the store; one without later fields was made when all batches were padded."""
        return cls(**data)


def checks_of(attributes: Mapping[str, Any]) -> dict[str, SelfCheck]:
    """By modality, the self-checks that a store keeps."""
    kept = {"text": attributes.get("self_check"), **attributes.get("media_checks", {})}
    return {modality: SelfCheck.from_json(check) for modality, check in kept.items() if check is not None}


def described_checks(checks: Mapping[str, SelfCheck]) -> dict[str, Any]:
    """The attributes of a store in which its self-checks are kept."""
    kept = {modality: check.to_json() for modality, check in checks.items()}
    text = kept.pop("text", None)
    return {"self_check": text, **({"media_checks": kept} if kept else {})}


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


@dataclass(frozen=True)
class _Sample:
    """The sample's items and their states run alone: float32 [layers, tokens or joint vectors, width]."""

    probe: Capture
    token_ids: Sequence[Sequence[int]]
    single: torch.Tensor
    reference: str

    def first(self, count: int) -> _Sample:
        """Its first `count` items."""
        token_ids = self.token_ids[:count]
        return replace(self, token_ids=token_ids, single=self.single[:, : sum(map(len, token_ids))])

    def compare(self, batched: torch.Tensor, **found: Any) -> SelfCheck:
        """The check of batched states; `found` are its fields that say how the batch was made."""
        distance = (batched - self.single).norm(dim=-1) / self.single.norm(dim=-1).clamp_min(1e-30)
        by_layer = distance.mean(dim=1).nan_to_num(nan=float("inf"))
        worst = int(by_layer.argmax())
        return SelfCheck(
            items=len(self.token_ids),
            deviation=float(by_layer[worst]),
            layer=self.probe.layers[worst],
            tolerance=TOLERANCE[self.probe.model.dtype],
            reference=self.reference,
            **found,
        )


def self_check(
    capture: Capture, token_ids: Sequence[Sequence[int]], padding: Padding, packing: PackingAsked | None = None
) -> SelfCheck:
    """Compare single with batched states on every captured layer, and single states with the model's own.

    Where packed batches are asked for they are tried first, and padded ones if the model cannot be packed.
    With left padding a model is tried without and with explicit positions; what agrees is used.

    Args:
        capture: the model and the layers to check; every token is compared, whatever the poolings.
        token_ids: the sample, of mixed lengths.
        padding: the side that the run will pad on, where it pads.
        packing: how the run would pack; None to pad.

    Raises:
        NonFiniteError: the model gives NaN or infinity for an item run alone.
        SelfCheckError: no way of batching gives the states of single items, or the captured states are not
            the model's own. Names the layer and by how much.
    """
    model = capture.model
    probe = _probe(capture)
    alone = [make_batch(model, [ids]) for ids in token_ids]
    single = _single(probe, alone)
    reference = "none" if model.joint else _check_against_own(probe, alone[0], single[:, : len(token_ids[0])])
    sample = _Sample(probe, token_ids, single, reference)
    refused = ""
    if packing is not None:
        check, refused = _check_packed(sample, packing)
        if check is not None:
            return check
    return replace(_check_padded(sample, padding), refused=refused)


def media_check(capture: Capture, modality: str, inputs: Sequence[MediaInputs]) -> SelfCheck:
    """Compare pictures or sounds run alone with the same in one batch; and single states with the model's own.

    Where padding changes them, only items of one shape will share a batch.

    Args:
        capture: the model and the layers to check.
        modality: "image" or "audio".
        inputs: the sample, of different sizes if there are any.

    Raises:
        NonFiniteError: the model gives NaN or infinity for an item run alone.
        SelfCheckError: not even items of one shape have the states of single ones in a batch.
    """
    model = capture.model
    probe = _probe(capture)
    alone = [model.collate_media(modality, [item]).to(model.device) for item in inputs]
    single = _single(probe, alone)
    rows = single.shape[1] if model.joint else len(alone[0].token_rows)
    reference = "none" if model.joint else _check_against_own(probe, alone[0], single[:, :rows])
    sample = _Sample(probe, [[0] * len(batch.token_rows) for batch in alone], single, reference)
    padded = _compare_media(sample, modality, inputs, "padded")
    if padded is not None and padded.deviation <= padded.tolerance:
        return padded
    alike = _compare_media(sample, modality, inputs, "alike")
    if alike is None or alike.deviation > alike.tolerance:
        raise SelfCheckError(
            f"{model.identity['id']}: {modality} items in one batch have other states than alone, though they are of "
            f"one shape{_most(alike)}; mend the model, or extract with --media-tokens 1"
        )
    return replace(alike, refused=f"padded states differ{_most(padded)}")


def _most(check: SelfCheck | None) -> str:
    return "" if check is None else f", most at layer {check.layer}: relative distance {check.deviation:.2g}"


def _compare_media(
    sample: _Sample, modality: str, inputs: Sequence[MediaInputs], kind: Literal["padded", "alike"]
) -> SelfCheck | None:
    """The check of one way to make batches; None where the model fails at it."""
    model = sample.probe.model
    pooling = sample.probe.poolings[0]
    counts = [len(ids) if pooling == "tokens" else 1 for ids in sample.token_ids]
    ends = list(itertools.accumulate(counts))
    batched = torch.empty_like(sample.single)
    shapes = [shapes_of(item) if kind == "alike" else () for item in inputs]
    for shape in dict.fromkeys(shapes):
        members = [i for i, other in enumerate(shapes) if other == shape]
        try:
            batch = model.collate_media(modality, [inputs[i] for i in members]).to(model.device)
            states = sample.probe.run(batch)[pooling]
        except Exception:  # whatever a model's own code raises of padding it does not know
            return None
        for i, of_item in zip(members, torch.split(states, [counts[i] for i in members], dim=1), strict=True):
            batched[:, ends[i] - counts[i] : ends[i]] = of_item
    return sample.compare(batched, batching=kind)


def _probe(capture: Capture) -> Capture:
    """Every token of every layer; a joint vector is one for each item."""
    pooling = "last" if capture.model.joint else "tokens"
    return Capture(capture.model, capture.layers, (pooling,), torch.float32)


def _single(probe: Capture, alone: Sequence[Batch]) -> torch.Tensor:
    """The states of items run alone, one after the other."""
    single = torch.cat([probe.run(batch)[probe.poolings[0]] for batch in alone], dim=1)
    if not single.isfinite().all():
        broken = probe.layers[int((~single.isfinite()).flatten(1).any(1).int().argmax())]
        raise NonFiniteError(
            f"{probe.model.identity['id']} gives states that are not finite at layer {broken}, for an item run alone; "
            "run the model in float32 or bfloat16 (`--model-dtype`), or check its weights"
        )
    return single


def _check_packed(sample: _Sample, packing: PackingAsked) -> tuple[SelfCheck | None, str]:
    """What was measured packed; or None, and why the model must be padded."""
    model = sample.probe.model
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
        batch = pack(model, sample.token_ids, first_position=start).to(model.device)
        try:
            states = sample.probe.run(batch)["tokens"]
        except Exception as error:  # whatever a model's own code raises of being packed: it is padded then
            refused = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            continue
        assert batch.packing is not None
        if unseen := _unseen_window(model, batch.packing.windows, packing.max_tokens):
            return None, f"its sliding window of {unseen} tokens does not reach packed attention"
        checks.append(sample.compare(states, batching="packed", first_position=start))
    if not checks:
        return None, refused
    best = min(checks, key=lambda check: check.deviation)
    if best.deviation > best.tolerance:
        return None, f"packed states differ by {best.deviation:.2g} at layer {best.layer}"
    return (_check_compiled(sample, best, packing.batch_tokens) if packing.compile else best), ""


def _check_compiled(sample: _Sample, eager: SelfCheck, batch_tokens: int) -> SelfCheck:
    """The check of compiled blocks, or the eager one where they cannot be compiled or give other states."""
    model = sample.probe.model
    # As much of the sample as one full batch takes: only those go through compiled blocks.
    ends = list(itertools.accumulate(map(len, sample.token_ids)))
    part = sample.first(bisect.bisect_right(ends, batch_tokens))
    if not part.token_ids:
        return eager
    batch = pack(model, part.token_ids, batch_tokens, first_position=eager.first_position, full=True)
    try:
        with compiled_blocks(model, batch_tokens):
            states = part.probe.run(batch.to(model.device))["tokens"]
    except Exception as error:  # no compiler, or one that fails on this model: eager blocks give the same states
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        warnings.warn(f"{model.identity['id']} runs without compiled blocks, slower: {why}", stacklevel=2)
        return eager
    check = part.compare(states, batching="packed", first_position=eager.first_position, compiled=True)
    if check.deviation > check.tolerance:
        warnings.warn(
            f"{model.identity['id']} runs without compiled blocks, slower: compiled states differ by "
            f"{check.deviation:.2g} at layer {check.layer}",
            stacklevel=2,
        )
        return eager
    return check


def _unseen_window(model: Model, seen: set[int], max_tokens: int) -> int:
    """The sliding window of a model that keeps it from its attention function, if an item can be longer; else 0."""
    config = model.trunk.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return int(window) if window and not seen and max_tokens > window else 0


def _check_padded(sample: _Sample, padding: Padding) -> SelfCheck:
    model = sample.probe.model
    choices = (False, True) if padding == "left" and model.takes_position_ids else (False,)
    checks = []
    for explicit in choices:
        batch = make_batch(model, sample.token_ids, padding, explicit_positions=explicit)
        states = sample.probe.run(batch)[sample.probe.poolings[0]]
        checks.append(sample.compare(states, padding=padding, explicit_positions=explicit))
    best = min(checks, key=lambda check: check.deviation)
    if best.deviation > best.tolerance:
        other = "left" if padding == "right" else "right"
        raise SelfCheckError(
            f"{model.identity['id']}: batched states with {padding} padding differ from those of single items, most at "
            f"layer {best.layer}: relative distance {best.deviation:.2g}, {best.tolerance:g} allowed. Its positions or "
            f"its mask are wrong under padding; try `--padding {other}`, or mend the model"
        )
    return best


def _check_against_own(probe: Capture, batch: Batch, captured: torch.Tensor) -> str:
    """Hugging Face's own `hidden_states` are the same before the final norm; its last entry is after it."""
    model = probe.model
    with torch.inference_mode():
        output = forward(model, batch, output_hidden_states=True)
    own = getattr(output, "hidden_states", None)
    if own is None or len(own) != len(model.blocks) + 1:
        return "none"
    for name, ours in zip(probe.layers, captured, strict=True):
        if name == "final":
            theirs = output.last_hidden_state
        elif int(name) < len(model.blocks):
            theirs = own[int(name)]
        else:
            continue
        theirs = theirs.flatten(0, 1).index_select(0, batch.token_rows)
        if not torch.allclose(theirs.float(), ours, rtol=1e-3, atol=1e-4 * float(ours.abs().max())):
            raise SelfCheckError(
                f"{model.identity['id']}: the states captured at layer {name} are not the model's own hidden states; "
                "its blocks do not carry the residual stream as hubstore expects, so it cannot be extracted"
            )
    return "own hidden states"


def choose_sample(lengths: Sequence[int], count: int = SAMPLE) -> list[int]:
    """Positions of `count` items spread evenly over the lengths, the shortest and the longest among them."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    count = min(count, len(order))
    if count == 1:
        return order[:1]
    return sorted({order[round(i * (len(order) - 1) / (count - 1))] for i in range(count)})
