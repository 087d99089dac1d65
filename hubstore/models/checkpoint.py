"""From a folder or a hub's id to what transformers makes of it: nothing else here calls `from_pretrained`.

A checkpoint that does not hold every weight that the model reads is refused: transformers would draw the others at
random. So is one that holds weights of the trunk that the model does not read: its states would be another model's.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn

from hubstore.errors import HubstoreError, ModelError, Parameter
from hubstore.models.files import problem_of_file, require_readable
from hubstore.quiet import ignored_warnings

SHOWN_NAMES = 3
"""Weights that a message names, of those that are missing."""

UNREAD = re.compile(r"(^|\.)(mask_token|masked_spec_embed|logit_scale|logit_bias)$")
"""Weights that no hidden state depends on: what training puts in the place of masked tokens, the scale of a loss."""

POOLER = re.compile(r"(^|\.)pooler\.")
"""Weights that make one vector of the last states, beside them."""

HEAD = re.compile(r"head|pool|classif|^cls$|score|predict|^proj_out$|mask_token|^logit_")
"""Parts that hang beside a trunk's blocks, and which a trunk without them leaves in the file."""

MASKS = ("masked_bias", "position_ids", "inv_freq", "cos_cached", "sin_cached")
"""Constants that older checkpoints hold, and that a model makes itself."""

PACKED = re.compile(
    r"\.(qweight|qzeros|g_idx|SCB|absmax|quant_map|quant_state.*|weight_(scale|zero_point|packed).*|scales|biases)$"
)
"""Weights as quantizers pack them."""

REMOTE_CODE = Parameter("trust_remote_code", True)
"""What says that a model's own code may run."""

_loading = threading.RLock()
"""While transformers loads, it changes torch's default dtype and initializers, which all threads share."""


class Keys(NamedTuple):
    """How the names of a file's weights differ from those of the model that was made of it."""

    missing: frozenset[str]
    unexpected: frozenset[str]


def pretrained_config(name: str, **options: Any) -> Any:
    """A model's configuration; the first that is read of a model.

    Raises:
        ModelError: it cannot be loaded, or is no model but an adapter, say.
    """
    require_readable(name, options.get("revision"))
    return pretrained(transformers.AutoConfig, name, **options)


def pretrained(kind: Any, name: str, **options: Any) -> Any:
    """A tokenizer or processor, by transformers' class for it.

    Raises:
        ModelError: it cannot be loaded, or it is a tokenizer without a vocabulary.
    """
    with _translated_errors(name):
        made = kind.from_pretrained(name, **options)
    tokenizer = getattr(made, "tokenizer", made)
    is_tokenizer = isinstance(tokenizer, transformers.PreTrainedTokenizerBase)
    if is_tokenizer and not set(tokenizer.get_vocab().values()).difference(tokenizer.all_special_ids):
        raise ModelError(
            f"{name}: its tokenizer has no vocabulary, so that every text would be the same; put the tokenizer's "
            "files (tokenizer.json, or vocab.txt and the like) beside config.json"
        )
    return made


def pretrained_model(kind: Any, name: str, **options: Any) -> tuple[Any, Keys]:
    """A model, and the names of weights that only it or only its file has; see `require_weights`.

    Raises:
        ModelError: it cannot be loaded, or weights in the file have other shapes or are packed.
    """
    with _translated_errors(name):
        model, found = kind.from_pretrained(name, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    keys = Keys(frozenset(found["missing_keys"]), frozenset(found["unexpected_keys"]))
    shapes = [f"{key} ({_shape(expected)} instead of {_shape(own)})" for key, expected, own in found["mismatched_keys"]]
    packed = list(filter(PACKED.search, keys.unexpected))
    if packed or (shapes and _quantizer(model)):
        raise ModelError(
            f"{name}: its weights are packed by a quantizer ({_quantizer(model) or 'which config.json does not name'}) "
            f"that is not installed or not known to transformers, such as {_some(packed or shapes)}; install it, or "
            "use the checkpoint before it was packed"
        )
    if shapes:
        raise ModelError(
            f"{name}: {len(shapes)} of its weights have other shapes than its config.json says, such as "
            f"{_some(shapes)}; use the config.json that belongs to the weights"
        )
    if found.get("error_msgs"):
        raise ModelError(f"{name}: its weights cannot be loaded: {_some(found['error_msgs'])}; fetch the model again")
    return model, keys


def require_weights(name: str, model: Any, keys: Keys, read: Sequence[nn.Module], *, pooled: bool = False) -> None:
    """Refuse a model that lacks weights that are read, or whose file has more; what is not read becomes NaN.

    Args:
        name: for messages.
        model: the model that was loaded.
        keys: the names of weights that only it or only its file has.
        read: the modules that are run; what only others hold may be missing.
        pooled: whether what pools the last states is read too.

    Raises:
        ModelError: weights are missing, or the file has weights of the trunk that the model does not read.
    """
    tensors = model.state_dict(keep_vars=True)
    used = {id(tensor) for module in read for tensor in module.state_dict(keep_vars=True).values()}
    unread = [UNREAD] if pooled else [UNREAD, POOLER]
    lacking = [
        key
        for key in keys.missing
        if (key not in tensors or id(tensors[key]) in used) and not any(one.search(key) for one in unread)
    ]
    inner = {id(tensor) for tensor in model.base_model.state_dict(keep_vars=True).values()}
    if lacking and not inner.intersection(id(tensors.get(key)) for key in lacking):
        raise ModelError(
            f"{name} was saved without its head: {_some(lacking)} {'is' if len(lacking) == 1 else 'are'} not in its "
            "file, and transformers would draw them at random; a lens, steering and generation need a causal language "
            "model that was saved with its head"
        )
    if lacking:
        packing = _quantizer(model)
        raise ModelError(
            f"{name}: {len(lacking)} of the {len(tensors)} weights of {type(model).__name__} are not in its file, such "
            f"as {_some(lacking)}{f'; the file has {_some(keys.unexpected)}' if keys.unexpected else ''}. Transformers "
            "would draw them at random; "
            + (f"they may be packed by a quantizer ({packing}): install it, or use" if packing else "use")
            + " a checkpoint that holds them by these names"
        )
    extra = [key for key in keys.unexpected if _is_of_trunk(model, key)]
    if extra:
        raise ModelError(
            f"{name}: {len(extra)} of the weights in its file have no place in {type(model).__name__}, such as "
            f"{_some(extra)}; its states would be another model's. Use the config.json that belongs to the weights"
        )
    with torch.no_grad():
        for key in keys.missing & tensors.keys():  # random, they would be others at every load
            if tensors[key].is_floating_point():
                tensors[key].fill_(torch.nan)


def _is_of_trunk(model: Any, key: str) -> bool:
    """Whether a weight that the model has no place for belongs inside it: in a block, or in a module without parts."""
    if key.rsplit(".", 1)[-1] in MASKS:
        return False
    base = getattr(model, "base_model_prefix", "")
    for start in (key, key.removeprefix(f"{base}.")):
        parts, module, inside = start.split("."), model if start == key else model.base_model, False
        while parts[1:] and parts[0] in module._modules and module._modules[parts[0]] is not None:
            module = module._modules[parts.pop(0)]
            inside = inside or isinstance(module, nn.ModuleList)
        if len(parts) == 1 and parts[0] in module._buffers:
            return False
        is_root = isinstance(module, transformers.PreTrainedModel)
        if inside or not (is_root or HEAD.search(parts[0])):
            return True
    return False


def _quantizer(model: Any) -> str:
    config = getattr(model.config, "quantization_config", None)
    if config is None:
        return ""
    name = config.get("quant_method") if isinstance(config, Mapping) else getattr(config, "quant_method", None)
    return str(getattr(name, "value", name) or "of no name")


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes)) or "scalar"


def _some(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")


@contextlib.contextmanager
def _translated_errors(name: str) -> Iterator[None]:
    """Loading, one thread at a time and without transformers' advice; whatever goes wrong is a `ModelError`."""
    with _loading, ignored_warnings(), _silent_transformers():
        try:
            yield
        except HubstoreError:
            raise
        except Exception as error:  # damaged files raise whatever reads them trips over
            raise ModelError(*_message(name, error)) from error


def _message(name: str, error: Exception) -> tuple[str | Parameter, ...]:
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if "trust_remote_code" in str(error):
        return f"{name!r} comes with code of its own, which is not run unless you say so: ", REMOTE_CODE
    if not Path(name).exists() and (Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1):
        said = "there is no such folder"
    if problem := problem_of_file(name):
        return (f"{name!r} could not be loaded as a model: {problem}",)
    return (
        f"{name!r} could not be loaded as a model: {said} (give a folder with config.json, weights, and tokenizer or "
        "processor, or the id of a model on a hub you can reach)",
    )


@contextlib.contextmanager
def _silent_transformers() -> Iterator[None]:
    """No progress bars or advice from transformers; levels go back as they were."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    hub = logging.getLogger("huggingface_hub")
    hub_level = hub.level
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.setLevel(hub_level)
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
