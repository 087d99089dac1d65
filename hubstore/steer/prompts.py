"""Prompts as a trunk takes them: a text's tokens, or what an image or audio clip became among the tokens around it.

An image or audio clip runs through its own encoder once a prompt; the blocks then are given its states in place of its
tokens, and know no difference between a medium and a text.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from hubstore.corpus import Item
from hubstore.errors import SteeringError
from hubstore.forward import collate_media, make_batch, tokenize
from hubstore.media import MEDIA, MediaInputs
from hubstore.media.processor import TEXT
from hubstore.media.reading import MediaTask, read_item
from hubstore.models import Adapter, Model
from hubstore.steer.restart import run_to

TOKEN_ARGUMENTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""Arguments of a model of images or audio clips that have a place for each token."""

PASSED_ON = ("inputs_embeds", "attention_mask", "position_ids")
"""Arguments of a trunk whose rows are known, so that rows can share them."""

OF_A_CALL = ("past_key_values", "use_cache", "cache_position", "return_dict")
"""Arguments of a trunk that belong to one call of it."""

TEMPLATE = f"{MEDIA}\n{TEXT}"


@dataclass(frozen=True)
class MediaPrompt:
    """An image or an audio clip and the text around it, ready for a model. Equal where the model is given the same.

    Args:
        modality: "image" or "audio".
        inputs: the model's arguments, and where the medium's tokens are.
        shown: the prompt for people, the medium's name in its place.
        digest: SHA-256 of the arguments.
    """

    modality: str
    inputs: MediaInputs = field(compare=False)
    shown: str = field(compare=False)
    digest: str = ""

    def __post_init__(self) -> None:
        if "input_ids" not in self.inputs.tensors:
            raise SteeringError(
                f"{self.shown!r} is no prompt of tokens: only language models that an image or audio clip is projected "
                "into go on from one"
            )
        digest = hashlib.sha256()
        for name, tensor in sorted(self.inputs.tensors.items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        object.__setattr__(self, "digest", digest.hexdigest())

    @property
    def token_ids(self) -> list[int]:
        """Of all its tokens, the medium's among them."""
        ids: list[int] = self.inputs.tensors["input_ids"][0].tolist()
        return ids

    @property
    def places(self) -> list[int]:
        """The medium's tokens among the prompt's, in order."""
        return [place for start, stop in self.inputs.media for place in range(start, stop)]


Prompt = str | MediaPrompt


def media_prompt(model: Model, item: Item, template: str = TEMPLATE) -> MediaPrompt:
    """Read an image or an audio clip as a prompt.

    Args:
        model: a model that reads the item's modality.
        item: its `media` is decoded, its `text` may be empty.
        template: `{media}` stands for the medium, `{text}` for the text.

    Raises:
        ModelError: the model does not read the modality, or the template is none.
        CorpusError: the medium cannot be decoded.
        SteeringError: the item has no medium, or the model has no token for it.

    Example:
        >>> cat = media_prompt(model, Item("cat", "What is this?", "en", modality="image", media=Media("cat.png")))
        >>> generate(model, [cat], [Intervention(direction, [9], positions="media")])
    """
    if item.media is None:
        raise SteeringError(f"item {item.id!r} has no image or audio clip; a text is a prompt as it is")
    model.require_modality(item.modality)
    reader = model.adapters[item.modality].reader
    reader.check(template, str(model.identity["id"]))
    read = read_item(MediaTask({item.modality: reader}, template), item.modality, item.media, item.text, item.id)
    if read.error is not None:
        raise read.error
    assert read.inputs is not None
    shown = template.replace(TEXT, item.text).replace(MEDIA, f"<{item.media.name}>")
    return MediaPrompt(item.modality, read.inputs, shown)


def with_text(template: str) -> str:
    """A template with a place for a text: where it has none, after a line feed at its end."""
    return template if TEXT in template else f"{template}\n{TEXT}"


def shown(prompt: Prompt) -> str:
    """A prompt for people."""
    return prompt if isinstance(prompt, str) else prompt.shown


def prompt_tokens(model: Model, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
    """The tokens of each prompt; SteeringError for one that leaves no room in the model's context."""
    distinct, room = list(dict.fromkeys(prompts)), model.max_tokens - max_new_tokens
    texts = [prompt for prompt in distinct if isinstance(prompt, str)]
    ids, cut = tokenize(model, texts, max(room, 1)) if texts else ([], [])
    of_prompt: dict[Prompt, list[int]] = dict(zip(texts, ids, strict=True))
    too_long: dict[Prompt, bool] = dict(zip(texts, cut, strict=True))
    for prompt in distinct:
        if isinstance(prompt, MediaPrompt):
            of_prompt[prompt] = prompt.token_ids
            too_long[prompt] = len(of_prompt[prompt]) > room
        if too_long[prompt] or room < 1:
            raise SteeringError(
                f"the prompt {shown(prompt)[:60]!r} and {max_new_tokens} new tokens do not fit into the "
                f"{model.max_tokens} tokens of {model.identity['id']}; shorten the prompt or ask for fewer"
            )
    return [of_prompt[prompt] for prompt in prompts]


def kind_of(prompt: Prompt) -> tuple[Any, ...]:
    """Prompts of one kind go into one batch: then nothing but their tokens is padded."""
    if isinstance(prompt, str):
        return ()
    sizes = {name: tuple(t.shape[1:]) for name, t in prompt.inputs.tensors.items() if name not in TOKEN_ARGUMENTS}
    return (prompt.modality, *sorted(sizes.items()))


@dataclass(frozen=True)
class TrunkInputs:
    """A batch of prompts as the trunk is given them.

    Args:
        arguments: of the trunk, but for a cache.
        mask: int64 [rows, length], 1 where a prompt's token is; padding is on the left.
        next_positions: int64 [rows], of the token after each prompt.
    """

    arguments: Mapping[str, Any]
    mask: Tensor
    next_positions: Tensor

    @property
    def can_be_shared(self) -> bool:
        """Whether it is known which of the arguments belong to which row."""
        return self.arguments.keys() <= {"input_ids", *PASSED_ON}

    def for_rows(self, rows: Tensor) -> TrunkInputs:
        """The same of these rows, int64 [n], in their order."""
        taken = {name: _rows(name, value, rows) for name, value in self.arguments.items()}
        return TrunkInputs(taken, self.mask[rows], self.next_positions[rows])


def trunk_inputs(model: Model, prompts: Sequence[Prompt], token_ids: Sequence[Sequence[int]]) -> TrunkInputs:
    """Prompts of one kind as a batch.

    Args:
        model: the model.
        prompts: see `kind_of`.
        token_ids: of each.
    """
    media = [prompt for prompt in prompts if isinstance(prompt, MediaPrompt)]
    if media:
        return _of_media(model, media)
    inputs = make_batch(model, token_ids, "left", explicit_positions=True).inputs
    mask = inputs["attention_mask"]
    return TrunkInputs(inputs, mask, mask.sum(-1))


def _of_media(model: Model, prompts: Sequence[MediaPrompt]) -> TrunkInputs:
    adapter = model.adapters[prompts[0].modality]
    host = collate_media(model, prompts[0].modality, [prompt.inputs for prompt in prompts])
    lengths = torch.tensor([len(prompt.token_ids) for prompt in prompts])
    tensors = _padded_left(host.tensors, lengths)
    mask = tensors["attention_mask"]
    if not hasattr(adapter.whole, "get_rope_index"):  # which counts an image's rows and columns
        tensors["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)
    inputs = dict(replace(host, tensors=tensors).to(model.device).inputs)
    mask = inputs["attention_mask"]
    whole = adapter.whole is model.trunk
    arguments = _in_place_of_tokens(model, inputs) if whole else _trunk_arguments(model, adapter, inputs)
    positions = arguments.get("position_ids")
    if positions is None:
        return TrunkInputs(arguments, mask, mask.sum(-1))
    reached = (positions.view(-1, *mask.shape) * mask).amax((0, 2))
    return TrunkInputs(arguments, mask, reached + 1)


def _padded_left(tensors: Mapping[str, Tensor], lengths: Tensor) -> dict[str, Tensor]:
    """Arguments whose tokens are padded on the right, with each row's tokens moved to its end."""
    width = tensors["input_ids"].shape[1]
    mask = (torch.arange(width) < lengths[:, None]).to(torch.int64)
    moved = {**tensors, "attention_mask": mask}
    source = (torch.arange(width) - (width - lengths)[:, None]) % width
    for name in TOKEN_ARGUMENTS:
        if name in moved:
            moved[name] = moved[name].gather(1, source)
    return moved


class _ReachedError(Exception):
    """The trunk was called; carries its arguments out of the forward pass."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.arguments = arguments


@torch.inference_mode()
def _trunk_arguments(model: Model, adapter: Adapter, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a model of images or audio clips gives its trunk for these inputs."""

    def reached(trunk: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = inspect.signature(trunk.forward).bind_partial(*args, **kwargs).arguments
        raise _ReachedError({**{n: v for n, v in bound.items() if n != "kwargs"}, **bound.get("kwargs", {})})

    handle = model.trunk.register_forward_pre_hook(reached, with_kwargs=True)
    try:
        adapter.whole(**inputs)
    except _ReachedError as found:
        inputs = found.arguments
    finally:
        handle.remove()
    return {
        name: value
        for name, value in inputs.items()
        if name not in OF_A_CALL and isinstance(value, (Tensor, Mapping, Sequence)) and not isinstance(value, str)
    }


def _in_place_of_tokens(model: Model, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same of a trunk that takes images itself: what its first block is given are its embeddings."""
    embedded = run_to(model, 0, inputs).states
    return {"inputs_embeds": embedded, **{name: inputs[name] for name in ("attention_mask", "position_ids")}}


def _rows(name: str, value: Any, rows: Tensor) -> Any:
    if isinstance(value, Mapping):
        return {key: _rows(name, one, rows) for key, one in value.items()}
    if not isinstance(value, Tensor):
        return value
    return value.index_select(value.ndim - 2 if name == "position_ids" else 0, rows)
