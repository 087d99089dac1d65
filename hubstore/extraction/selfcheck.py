"""Before a long run: do batched, padded states equal those of single, unpadded items?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hubstore.errors import NonFiniteError, SelfCheckError
from hubstore.extraction.capture import Capture, no_cache
from hubstore.models import Padding, make_batch

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
        padding: on which side they were padded.
        explicit_positions: whether the model had to be told its tokens' positions.
        deviation: the largest mean relative distance, over layers.
        layer: where that was.
        tolerance: what was allowed.
        reference: "own hidden states" when single states were also compared with the model's own
            `output_hidden_states`, "none" when the model gives none.
    """

    items: int
    padding: Padding
    explicit_positions: bool
    deviation: float
    layer: str
    tolerance: float
    reference: str

    def to_json(self) -> dict[str, Any]:
        """As kept in the store."""
        return {**asdict(self), "deviation": float(f"{self.deviation:.3e}")}


def self_check(capture: Capture, token_ids: Sequence[Sequence[int]], padding: Padding) -> SelfCheck:
    """Compare single with batched states on every captured layer, and single states with the model's own.

    With left padding a model is tried without and with explicit positions; what agrees is used.

    Args:
        capture: the model and the layers to check; every token is compared, whatever the poolings.
        token_ids: the sample, of mixed lengths.
        padding: the side that the run will pad on.

    Raises:
        NonFiniteError: the model gives NaN or infinity for an item run alone.
        SelfCheckError: no way of batching gives the states of single items, or the captured states are not
            the model's own. Names the layer and by how much.
    """
    model = capture.model
    probe = Capture(model, capture.layers, ("tokens",), torch.float32)
    single = torch.cat([probe.run(make_batch(model, [ids]))["tokens"] for ids in token_ids], dim=1)
    if not single.isfinite().all():
        broken = probe.layers[int((~single.isfinite()).flatten(1).any(1).int().argmax())]
        raise NonFiniteError(
            f"{model.identity['id']} gives states that are not finite at layer {broken}, for an item run alone; "
            "run the model in float32 or bfloat16 (`--model-dtype`), or check its weights"
        )
    reference = _check_against_own(probe, token_ids[0], single[:, : len(token_ids[0])])
    tolerance = TOLERANCE[model.dtype]
    choices = (False, True) if padding == "left" and model.takes_position_ids else (False,)
    checks = []
    for explicit in choices:
        batched = probe.run(make_batch(model, token_ids, padding, explicit_positions=explicit))["tokens"]
        distance = (batched - single).norm(dim=-1) / single.norm(dim=-1).clamp_min(1e-30)
        by_layer = distance.mean(dim=1).nan_to_num(nan=float("inf"))
        worst = int(by_layer.argmax())
        checks.append(
            SelfCheck(
                items=len(token_ids),
                padding=padding,
                explicit_positions=explicit,
                deviation=float(by_layer[worst]),
                layer=probe.layers[worst],
                tolerance=tolerance,
                reference=reference,
            )
        )
    best = min(checks, key=lambda check: check.deviation)
    if best.deviation > tolerance:
        other = "left" if padding == "right" else "right"
        raise SelfCheckError(
            f"{model.identity['id']}: batched states with {padding} padding differ from those of single items, most at "
            f"layer {best.layer}: relative distance {best.deviation:.2g}, {tolerance:g} allowed. Its positions or its "
            f"mask are wrong under padding; try `--padding {other}`, or mend the model"
        )
    return best


def _check_against_own(probe: Capture, token_ids: Sequence[int], captured: torch.Tensor) -> str:
    """Hugging Face's own `hidden_states` are the same before the final norm; its last entry is after it."""
    model = probe.model
    batch = make_batch(model, [token_ids])
    with torch.inference_mode():
        output = model.trunk(**batch.inputs(), **no_cache(model), output_hidden_states=True)
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
        if not torch.allclose(theirs[0].float(), ours, rtol=1e-3, atol=1e-4 * float(ours.abs().max())):
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
