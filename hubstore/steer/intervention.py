"""Interventions: what is done to the residual stream, where, and how strongly, while a model runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard, get_args

import torch
from torch import Tensor, nn

from hubstore.analysis.erasers import Eraser
from hubstore.checks import check_number
from hubstore.errors import SteeringError
from hubstore.models import Model
from hubstore.steer.directions import Direction, check_layer, check_width

Kind = Literal["add", "replace", "project", "erase"]
When = Literal["prompt", "every step"]
Position = int | slice
Positions = Literal["all", "last", "media"] | Sequence[Position] | Sequence[Sequence[Position]]


@dataclass(frozen=True, eq=False)
class Intervention:
    """A change of hidden states h by a direction v with strength s.

    Args:
        direction: one for all rows of a batch, a `Direction` or a tensor [width]; or a tensor [rows, width]. To erase,
            an `Eraser`, as `hubstore.analysis.language_eraser` fits one to a store.
        layers: each 0 (the embedding output) to the number of blocks (the last block's output, before the final norm).
        kind: "add", h + s v; "replace", s v; "project", h - s (h·v̂) v̂, of which s = 1 takes the direction out; or
            "erase", h + s (e(h) - h) of an eraser e, which takes several out.
        strength: s, one for all rows or one for each. A row of strength 0 is left as it is, to the bit, in every kind.
        positions: "all" tokens of the prompt, its "last", those of its image or audio clip, "media" (in `generate`,
            which knows them), or places and slices among its tokens, padding not counted
            and special tokens counted; negative ones count from its end. A list of those, or one for each row.
        when: "prompt", or "every step": every token after the prompt too.

    Raises:
        SteeringError: one of them is not what it can be.
    """

    direction: Direction | Tensor | Eraser
    layers: Sequence[int]
    kind: Kind = "add"
    strength: float | Sequence[float] = 1.0
    positions: Positions = "all"
    when: When = "prompt"

    def __post_init__(self) -> None:
        for name, value, known in (("kind", self.kind, get_args(Kind)), ("when", self.when, get_args(When))):
            if value not in known:
                raise SteeringError(f"{name} {value!r} of an intervention is not known; use {', '.join(known)}")
        if isinstance(self.positions, str) and self.positions not in ("all", "last", "media"):
            raise SteeringError(
                f"positions {self.positions!r} are not known; use all, last, media, or a list of places"
            )
        strength: Any = self.strength.tolist() if hasattr(self.strength, "tolist") else self.strength
        if isinstance(strength, list | tuple):
            strength = [check_number("strength", one, error=SteeringError) for one in strength]
        else:
            strength = check_number("strength", strength, error=SteeringError)
        object.__setattr__(self, "strength", strength)
        if isinstance(self.direction, Eraser) != (self.kind == "erase"):
            raise SteeringError(f"kind {self.kind!r} with a {type(self.direction).__name__}: erase with an Eraser")
        if self.vector.ndim not in (1, 2):
            raise SteeringError(f"a direction is [width] or [rows, width]; this one is {list(self.vector.shape)}")

    @property
    def vector(self) -> Tensor:
        """[width] or [rows, width]; of an eraser, the mean that it leaves."""
        if isinstance(self.direction, Eraser):
            return self.direction.mean
        return self.direction.vector if isinstance(self.direction, Direction) else self.direction

    def for_rows(self, rows: Sequence[int]) -> Intervention:
        """The intervention on these rows of its batch, in their order."""
        strength, positions = self.strength, self.positions
        return replace(
            self,
            direction=self.vector[list(rows)] if self.vector.ndim == 2 else self.direction,
            strength=[strength[row] for row in rows] if isinstance(strength, Sequence) else strength,
            positions=[positions[row] for row in rows] if _is_per_row(positions) else positions,
        )

    def at_media(self, places: Sequence[Sequence[Position]]) -> Intervention:
        """The same at the places of each row's image or audio clip, where its positions are "media".

        Raises:
            SteeringError: a row has none.
        """
        if self.positions != "media":
            return self
        for row, of_row in enumerate(places):
            if not of_row:
                raise SteeringError(f"prompt {row} has no image or audio clip to steer at; use positions all or last")
        return replace(self, positions=[list(of_row) for of_row in places])

    def check(self, model: Model) -> None:
        """SteeringError where the model is no causal one, or direction or layers are not its own."""
        if model.kind != "causal":
            raise SteeringError(
                f"{model.identity['id']} is an encoder: it continues no prompt; steer a causal language model"
            )
        for layer in self.layers:
            check_layer(model, layer)
        if isinstance(self.direction, Direction):
            self.direction.check(model)
        check_width(self.vector, model)

    def check_rows(self, rows: int) -> None:
        """SteeringError where what is given for each row is not given for so many."""
        per_row = {
            "direction": len(self.vector) if self.vector.ndim == 2 else rows,
            "strength": len(self.strength) if isinstance(self.strength, Sequence) else rows,
            "positions": len(self.positions) if _is_per_row(self.positions) else rows,
        }
        for name, count in per_row.items():
            if count != rows:
                raise SteeringError(f"{name} of an intervention is given for {count} rows; the batch has {rows}")

    def check_prompts(self, lengths: Sequence[int]) -> None:
        """SteeringError where prompts of so many tokens are not as many as rows, or too short for a position."""
        self.check_rows(len(lengths))
        for row, length in enumerate(lengths):
            for position in _of_row(self.positions, row):
                _checked(position, length, row)


@contextmanager
def steering(model: Model, interventions: Sequence[Intervention], *, tokens: Tensor | None = None) -> Iterator[None]:
    """Within it the model's trunk is steered, whoever calls it.

    A call without a cache, or with an empty one, is a prompt; a call with a filled one is a step. Interventions of one
    layer follow one another in their order. Padding, on either side, is known by the attention mask of the call, or of
    the whole model's where that reads images or audio clips and calls the trunk.

    Args:
        model: a causal language model.
        interventions: none at all leaves the model as it is.
        tokens: [rows, length] of 0 and 1, where the tokens of a prompt are; None to see it from each call.

    Raises:
        SteeringError: an intervention does not fit the model; and, from a call within, the batch or a prompt's length.

    Example:
        >>> with steering(model, [Intervention(good, layers=[9], strength=4.0)]):
        ...     states = model.trunk(**batch.inputs).last_hidden_state
    """
    for intervention in interventions:
        intervention.check(model)
    if any(intervention.positions == "media" for intervention in interventions):
        raise SteeringError('where "media" are is known to `generate`; here give the places of MediaPrompt.places')
    acting = [_Acting(model, intervention) for intervention in interventions]
    masks = _Masks(tokens)
    with ExitStack() as handles:
        for whole in {id(adapter.whole): adapter.whole for adapter in model.adapters.values()}.values():
            if whole is not model.trunk:
                handles.callback(whole.register_forward_pre_hook(masks.begin, with_kwargs=True).remove)
                handles.callback(whole.register_forward_hook(masks.end, always_call=True).remove)
        handles.callback(model.trunk.register_forward_pre_hook(_begins(acting, masks), with_kwargs=True).remove)
        for layer in sorted({layer for one in acting for layer in one.intervention.layers}):
            acting_here = [one for one in acting if layer in one.intervention.layers]
            if layer:
                handle = model.blocks[layer - 1].register_forward_hook(_after_block(acting_here))
            else:
                handle = model.blocks[0].register_forward_pre_hook(_before_first(acting_here), with_kwargs=True)
            handles.callback(handle.remove)
        yield


class _Acting:
    """An intervention on its device, and where it acts in the present call of the trunk.

    What a call needs is found once for all layers; rows are those of the flattened [rows x length].
    """

    def __init__(self, model: Model, intervention: Intervention) -> None:
        self.intervention = intervention
        self._vector = intervention.vector.to(model.device, torch.float32)
        if intervention.kind == "project":
            self._vector = nn.functional.normalize(self._vector, dim=-1)
        self._eraser = None
        if isinstance(intervention.direction, Eraser):
            self._eraser = intervention.direction.to(model.device, torch.float32)
        self._strength = torch.tensor(intervention.strength, dtype=torch.float32, device=model.device)
        self._mask: Tensor | None = None
        self._is_prompt = True
        self._places: tuple[Tensor, Tensor, Tensor] | None = None

    def begin(self, mask: Tensor | None, *, is_prompt: bool) -> None:
        """A call of the trunk begins."""
        self._mask, self._is_prompt, self._places = mask, is_prompt, None

    def __call__(self, hidden: Tensor) -> Tensor:
        """The states [rows, length, width] after the intervention: a changed copy, or themselves."""
        if not self._is_prompt and self.intervention.when == "prompt":
            return hidden
        if self._places is None:
            self._places = self._find_places(hidden)
        places, vectors, strengths = self._places
        if not len(places):
            return hidden
        flat = hidden.flatten(0, 1)
        states = flat[places].to(torch.float32)
        if self._eraser is not None:
            changed = states + strengths * (self._eraser(states) - states)
        elif self.intervention.kind == "add":
            changed = states + strengths * vectors
        elif self.intervention.kind == "replace":
            changed = (strengths * vectors).expand_as(states)
        else:
            changed = states - strengths * (states * vectors).sum(-1, keepdim=True) * vectors
        return flat.index_copy(0, places, changed.to(flat.dtype)).view_as(hidden)

    def _find_places(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """int64 [n] rows to change, none of strength 0; their vectors, [n, width] or [width]; strengths [n, 1]."""
        rows, length, _ = hidden.shape
        self.intervention.check_rows(rows)
        chosen = torch.ones(rows, length, dtype=torch.bool, device=hidden.device)
        if self._is_prompt:
            tokens = chosen if self._mask is None else _token_mask(self._mask, chosen)
            chosen = _chosen(self.intervention.positions, tokens)
        strengths = self._strength.expand(rows)
        places = (chosen & (strengths != 0)[:, None]).flatten().nonzero()[:, 0]
        row = places // length
        return places, self._vector[row] if self._vector.ndim == 2 else self._vector, strengths[row][:, None]


class _Masks:
    """The attention mask of the present call of a model that calls its trunk with another kind of mask.

    Args:
        mask: of every call; None to see it from each.
    """

    def __init__(self, mask: Tensor | None) -> None:
        self._mask = mask
        self._outer: Tensor | None = None

    def begin(self, whole: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A call of the whole model begins."""
        self._outer = kwargs.get("attention_mask")

    def end(self, whole: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """It ended, or failed."""
        self._outer = None

    def of_call(self, own: Any) -> Any:
        """Where tokens are in a call of the trunk with the mask `own`."""
        return next((mask for mask in (self._mask, self._outer) if mask is not None), own)


def _begins(acting: Sequence[_Acting], masks: _Masks) -> Any:
    def hook(trunk: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = inspect.signature(trunk.forward).bind_partial(*args, **kwargs).arguments
        cache = arguments.get("past_key_values")
        is_prompt = cache is None or cache.get_seq_length() == 0
        for one in acting:
            one.begin(masks.of_call(arguments.get("attention_mask")), is_prompt=is_prompt)

    return hook


def _after_block(acting: Sequence[_Acting]) -> Any:
    def hook(block: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        hidden = _changed(output[0] if isinstance(output, tuple) else output, acting)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return hook


def _before_first(acting: Sequence[_Acting]) -> Any:
    def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (_changed(args[0], acting), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": _changed(kwargs["hidden_states"], acting)}

    return hook


def _changed(hidden: Tensor, acting: Sequence[_Acting]) -> Tensor:
    for one in acting:
        hidden = one(hidden)
    return hidden


def _token_mask(mask: Any, shape: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or mask.shape != shape.shape:
        raise SteeringError(
            "steering finds tokens by an attention mask [rows, length] of 0 and 1; the trunk was called with another "
            "kind of mask"
        )
    return mask.bool()


def _chosen(positions: Positions, tokens: Tensor) -> Tensor:
    """bool [rows, length]: which of a batch's `tokens`, a mask of that shape, are at the positions."""
    if positions == "all":
        return tokens
    if positions == "last":
        return tokens & (tokens.flip(-1).cumsum(-1).flip(-1) == 1)
    chosen = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, (mask, length) in enumerate(zip(tokens.cpu(), tokens.sum(-1).tolist(), strict=True)):
        at = torch.zeros(length, dtype=torch.bool)
        for position in _of_row(positions, row):
            at[_checked(position, length, row)] = True
        chosen[row, mask] = at
    return chosen.to(tokens.device)


def _of_row(positions: Any, row: int) -> Sequence[Position]:
    """Places named among a row's tokens; none where the positions are all or last."""
    if isinstance(positions, str):
        return ()
    of_row: Sequence[Position] = positions[row] if _is_per_row(positions) else positions
    return of_row


def _checked(position: Position, length: int, row: int) -> Position:
    bounds = (position.start, position.stop) if isinstance(position, slice) else (position,)
    beyond = [p for p in bounds if p is not None and not -length <= p < length + isinstance(position, slice)]
    if beyond:
        raise SteeringError(
            f"position {beyond[0]} is beyond prompt {row}, which has {length} tokens, special ones "
            f"included: 0 to {length - 1}"
        )
    return position


def _is_per_row(positions: Any) -> TypeGuard[Sequence[Sequence[Position]]]:
    return not isinstance(positions, str) and any(not isinstance(position, (int, slice)) for position in positions)
