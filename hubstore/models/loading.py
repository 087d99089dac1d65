"""Loading models: by folder or hub id, or made of what is in memory already; and the digests that name them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import torch
import transformers
from torch import nn

from hubstore.devices import resolve_device
from hubstore.errors import MissingDependencyError, ModelError
from hubstore.models.adapters import Stack, find_stack, media_modalities
from hubstore.models.blocks import find_blocks
from hubstore.models.checkpoint import pretrained, pretrained_config, pretrained_model, require_weights
from hubstore.models.fetched import fetched_model
from hubstore.models.files import cached_commit
from hubstore.models.head import find_head
from hubstore.models.kind import find_kind
from hubstore.models.model import Model
from hubstore.models.special import embedding_rows, require_embeddings
from hubstore.options import refuse_others, renamed

HOST_BYTES = 64 << 20
"""Of weights on a GPU, read at once for their digest."""


def load_model(  # noqa: PLR0913
    name: str,
    *,
    extra_models: Sequence[str] = (),
    stack: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    attention: str | None = None,
    trust_remote_code: bool = False,
    head: bool = False,
    **older: Any,
) -> Model:
    """Load a model's trunk and tokenizer, and its head if asked, by folder or hub id.

    Args:
        name: a folder that `transformers` loads, a model id of a hub, or the name of one that was fetched.
        extra_models: further models over the very same language model, which read other modalities: one for images
            and one for audio then are one model.
        stack: of a pair of towers (CLIP, SigLIP, CLAP) "joint", what they share, or the blocks of one: "text",
            "image", "audio"; of a speech model (Whisper) "encoder" or "decoder". None for the first of these.
        revision: of a hub's model.
        dtype: what to compute in: "float32", "float16", "bfloat16", or "auto": the checkpoint's own dtype on a
            GPU and float32 on a CPU.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
        attention: transformers' attention implementation; None lets it choose.
        trust_remote_code: run the code that comes with the model. Only for models whose authors you trust.
        head: load final norm and unembedding too, which the lens, steering and generation need.
        older: `also`, which is `extra_models`: deprecated.

    Raises:
        ModelError: nothing loadable is there, weights are missing, it is no model that hubstore reads, a head is asked
            for and it has none, or the device has no room for it.
        QueryError: there is no such device.

    Example:
        >>> model = hubstore.load_model("intfloat/multilingual-e5-small", device="cpu")
        >>> model.layer_names()
        ('0', '1', '2', 'final')
    """
    extra_models = renamed("also", "extra_models", older, extra_models)
    refuse_others("load_model", older)
    name, on = fetched_model(name), resolve_device(device)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    loaded, keys = pretrained_model(
        _auto_class(name, head, options),
        name,
        dtype=_compute_dtype(dtype, on),
        **({"attn_implementation": attention} if attention else {}),
        **options,
    )
    trunk = loaded.base_model if head else loaded
    tokenizer, processor = _read_with(name, trunk, options)
    found = find_stack(trunk, processor, name, stack)
    read = [loaded] if head else [found.trunk, *(adapter.whole for adapter in found.adapters.values())]
    require_weights(name, loaded, keys, read, pooled=bool(found.joint))
    model = _model(found, trunk, tokenizer, name, revision, on, loaded if head else None, stack)
    for other in extra_models:
        combined = load_model(
            other, dtype=dtype, device=device, attention=attention, trust_remote_code=trust_remote_code
        )
        model = _joined(model, combined)
    return model


def _auto_class(name: str, head: bool, options: Mapping[str, Any]) -> Any:
    """The class of transformers that loads the model, with its head or without."""
    config = pretrained_config(name, **options)
    if getattr(config, "is_encoder_decoder", False) and not _hears(config):
        raise ModelError(
            f"{name} is an encoder-decoder ({config.model_type}); hubstore reads text through encoders and "
            "decoder-only models"
        )
    if not head:
        return transformers.AutoModel
    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM
    named = (getattr(config, "architectures", None) or [""])[0]
    return getattr(transformers, named, transformers.AutoModelForCausalLM)


def _hears(config: Any) -> bool:
    return getattr(transformers.MODEL_MAPPING.get(type(config), None), "main_input_name", "") == "input_features"


def _read_with(name: str, trunk: Any, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """Tokenizer and processor, as far as the model has use for them."""
    if not media_modalities(trunk):
        return pretrained(transformers.AutoTokenizer, name, **options), None
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"{name} reads images or audio; pip install 'hubstore[media]'") from error
    # transformers' own choice depends on what is installed, and pixels on it.
    try:
        processor = pretrained(transformers.AutoProcessor, name, backend="pil", **options)
    except ModelError:  # a speech encoder that was saved without the tokenizer of a head for its text
        if trunk.main_input_name != "input_values":
            raise
        processor = pretrained(transformers.AutoFeatureExtractor, name, **options)
    return getattr(processor, "tokenizer", None), processor


def wrap_model(
    trunk: Any,
    tokenizer: Any,
    *,
    name: str,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    language_model: Any = None,
    processor: Any = None,
    stack: str | None = None,
) -> Model:
    """Make a `Model` of a trunk and a tokenizer that are already in memory.

    Args:
        trunk: without the head.
        tokenizer: its tokenizer.
        name: a folder or a hub's id.
        revision: of a hub's model.
        device: where it is to run.
        language_model: the whole causal model that the trunk is part of, for its head; None for a model without.
        processor: what makes the inputs of a model that reads images or audio.
        stack: see `load_model`.

    Raises:
        ModelError: it is no model of transformers, or none that hubstore reads.
        QueryError: there is no such device.
    """
    if not hasattr(getattr(trunk, "config", None), "model_type"):
        raise ModelError(f"{name} ({type(trunk).__name__}) is no model of transformers; it has no configuration")
    found = find_stack(trunk, processor, name, stack)
    return _model(found, trunk, tokenizer, name, revision, resolve_device(str(device)), language_model, stack)


def _model(
    found: Stack,
    trunk: Any,
    tokenizer: Any,
    name: str,
    revision: str | None,
    device: torch.device,
    language_model: Any,
    stack: str | None,
) -> Model:
    """A `Model` of a stack of blocks that was found in a trunk."""
    blocks = nn.ModuleList() if found.joint else find_blocks(found.trunk)
    config = found.trunk.config
    width = found.width or getattr(config, "hidden_size", None)
    if not isinstance(width, int):
        raise ModelError(f"{name} ({type(trunk).__name__}) has hidden states of no one width; use another model")
    rows = embedding_rows(found.trunk) if found.text else None
    if found.text and tokenizer is not None:
        require_embeddings(name, tokenizer, rows)
    identity = {
        "id": Path(name).name if Path(name).is_dir() else name,
        "source": str(Path(name).resolve()) if Path(name).is_dir() else name,
        "revision": revision or cached_commit(name),
        "class": type(trunk).__name__,
        "type": trunk.config.model_type,
        "blocks": len(blocks),
        "width": width,
        "dtype": str(next(trunk.parameters()).dtype).removeprefix("torch."),
        "attention": getattr(config, "_attn_implementation", None),
        "weights": weights_digest(found.trunk),
        "tokenizer": tokenizer_digest(tokenizer) if tokenizer is not None and found.text else None,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    if stack is not None:
        identity["stack"] = stack
    if any(type(part).__module__.startswith("transformers_modules") for part in (trunk, trunk.config, tokenizer)):
        identity["remote_code"] = True
    if found.adapters:
        identity["media"] = _media_identity(found)
    for module in (trunk, language_model):
        if module is not None:
            _move(module.eval(), device, name).requires_grad_(False)
    kind = find_kind(found, name, rows)
    if language_model is not None and kind != "causal":
        raise ModelError(f"{name} is an encoder: it has no next token to read or to steer; use a causal language model")
    head = None if language_model is None else find_head(language_model, found.trunk, blocks)
    return Model(
        found.trunk,
        tokenizer if found.text else None,
        blocks,
        kind,
        {**identity, "kind": kind},
        head,
        found.adapters,
        found.joint,
    )


def _move(module: Any, device: torch.device, name: str) -> Any:
    """The module on the device; where there is no room, it goes back whole."""
    before = next(module.parameters()).device
    try:
        return module.to(device)
    except torch.OutOfMemoryError as error:
        module.to(before)
        size = sum(tensor.nbytes for tensor in module.state_dict().values())
        raise ModelError(
            f"{name} needs {size / 2**30:.1f} GiB, which {device} does not have free; use --model-dtype bfloat16, "
            "another --device, or --device cpu"
        ) from error


def _media_identity(stack: Stack) -> dict[str, dict[str, Any]]:
    """By modality, the digests of what a medium goes through before the trunk, and of its processor."""
    inside = {id(tensor) for tensor in stack.trunk.state_dict(keep_vars=True).values()}
    identity: dict[str, dict[str, Any]] = {}
    for modality, adapter in stack.adapters.items():
        state = adapter.whole.state_dict(keep_vars=True)
        before = {name: tensor for name, tensor in state.items() if id(tensor) not in inside}
        identity[modality] = {**adapter.identity, "weights": _digest_of(before)}
    return identity


def _joined(model: Model, other: Model) -> Model:
    """A model that also reads what the other reads, through its own trunk."""
    identity, added = model.identity, other.identity
    if identity["weights"] != added["weights"] or identity["kind"] != "causal":
        raise ModelError(
            f"{added['id']} is not over the language model of {identity['id']}: their weights differ; only models over "
            "one frozen language model can be read as one"
        )
    if not other.adapters or set(other.adapters) & set(model.adapters):
        reads = " and ".join(other.modalities)
        raise ModelError(f"{added['id']} reads {reads}, which adds nothing to {identity['id']}; leave it out")
    for adapter in other.adapters.values():
        for name, module in list(adapter.whole.named_modules()):
            if module is other.trunk:
                adapter.whole.set_submodule(name, model.trunk)
    identity = {
        **identity,
        "media": {**identity.get("media", {}), **added["media"]},
        "also": [*identity.get("also", []), added["source"]],
        **({"remote_code": True} if added.get("remote_code") else {}),
    }
    return replace(model, identity=identity, adapters={**model.adapters, **other.adapters})


def weights_digest(trunk: nn.Module) -> str:
    """SHA-256 over name, shape, dtype and CRC32C of every tensor: the same for the same weights in any file layout."""
    return _digest_of(trunk.state_dict())


def _digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        checksum = 0
        for part in _host_bytes(tensor):
            checksum = google_crc32c.extend(checksum, part.numpy())
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {checksum:08x}\n".encode())
    return digest.hexdigest()


def _host_bytes(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor's bytes in host memory, a part at a time: through pinned memory, at the speed of the bus."""
    whole = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if whole.device.type == "cpu":
        yield whole
        return
    pinned = torch.empty(min(HOST_BYTES, len(whole)), dtype=torch.uint8, pin_memory=True)  # torch keeps it for later
    for start in range(0, len(whole), HOST_BYTES):
        part = whole[start : start + HOST_BYTES]
        yield pinned[: len(part)].copy_(part)


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of the tokenizer: of its whole definition, or of its vocabulary where it has no such thing."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()


def devices_of(device: str) -> tuple[str, ...]:
    """The devices that a user names: "cuda:0,cuda:1", or "auto" for every GPU there is, else the CPU."""
    if device != "auto":
        return tuple(part.strip() for part in device.split(","))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(f"cuda:{number}" for number in range(count)) if count > 1 else (str(resolve_device(device)),)


def _compute_dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ModelError(f"model dtype {dtype!r} is not known; use auto, float32, float16 or bfloat16")
    found = getattr(torch, dtype)
    assert isinstance(found, torch.dtype)
    return found
