"""Loading models: by folder or hub id, or made of what is in memory already; and the digests that name them."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import torch
import transformers
from torch import nn

from hubstore.errors import MissingDependencyError, ModelError
from hubstore.models.adapters import Stack, find_stack, media_modalities
from hubstore.models.blocks import find_blocks
from hubstore.models.head import find_head
from hubstore.models.model import Kind, Model
from hubstore.models.unchanged import Restorer

HOST_BYTES = 64 << 20
"""Of weights on a GPU, read at once for their digest."""


def load_model(
    name: str,
    *,
    also: Sequence[str] = (),
    stack: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    attention: str | None = None,
    trust_remote_code: bool = False,
    head: bool = False,
) -> Model:
    """Load a model's trunk and tokenizer, and its head if asked, by folder or hub id.

    Args:
        name: a folder that `transformers` loads, or a model id of a hub.
        also: further models over the very same language model, which read other modalities: one for pictures and one
            for sounds then are one model.
        stack: of a pair of towers (CLIP, SigLIP, CLAP) "joint", what they share, or the blocks of one: "text",
            "image", "audio"; of a speech model (Whisper) "encoder" or "decoder". None for the first of these.
        revision: of a hub's model.
        dtype: what to compute in: "float32", "float16", "bfloat16", or "auto": the checkpoint's own dtype on a
            GPU and float32 on a CPU.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
        attention: transformers' attention implementation; None lets it choose.
        trust_remote_code: run the code that comes with the model. Only for models whose authors you trust.
        head: load final norm and unembedding too, which the lens, steering and generation need.

    Raises:
        ModelError: nothing loadable is there, it is no model that hubstore reads, or a head is asked for and it has
            none.
    """
    on = torch.device(_default_device() if device == "auto" else device)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    with _quiet_transformers():
        try:
            loaded = _auto_class(name, head, options).from_pretrained(
                name,
                dtype=_compute_dtype(dtype, on),
                **({"attn_implementation": attention} if attention else {}),
                **options,
            )
            tokenizer, processor = _read_with(name, loaded.base_model if head else loaded, stack, options)
        except (OSError, ValueError, KeyError, ImportError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(
                f"{name!r} could not be loaded as a model: {_first_line(error)} (give a folder with config.json, "
                "weights, and tokenizer or processor, or the id of a model on a hub you can reach)"
            ) from error
    model = wrap_model(
        loaded.base_model if head else loaded,
        tokenizer,
        name=name,
        revision=revision,
        device=on,
        language_model=loaded if head else None,
        processor=processor,
        stack=stack,
    )
    for other in also:
        model = _joined(model, load_model(other, dtype=dtype, device=device, attention=attention))
    return model


def _auto_class(name: str, head: bool, options: Mapping[str, Any]) -> Any:
    """The class of transformers that loads the model, with its head or without."""
    config = transformers.AutoConfig.from_pretrained(name, **options)
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


def _read_with(name: str, trunk: Any, stack: str | None, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """Tokenizer and processor, as far as the model has use for them."""
    if not media_modalities(trunk):
        return transformers.AutoTokenizer.from_pretrained(name, **options), None
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"{name} reads pictures or sounds; pip install 'hubstore[media]'") from error
    # transformers' own choice depends on what is installed, and pixels on it.
    processor = transformers.AutoProcessor.from_pretrained(name, backend="pil", **options)
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
        processor: what makes the inputs of a model that reads pictures or sounds.
        stack: see `load_model`.
    """
    found = find_stack(trunk, processor, name, stack)
    blocks = nn.ModuleList() if found.joint else find_blocks(found.trunk)
    config = found.trunk.config
    identity = {
        "id": Path(name).name if Path(name).is_dir() else name,
        "source": str(Path(name).resolve()) if Path(name).is_dir() else name,
        "revision": revision or getattr(trunk.config, "_commit_hash", None),
        "class": type(trunk).__name__,
        "type": trunk.config.model_type,
        "blocks": len(blocks),
        "width": found.width or int(config.hidden_size),
        "dtype": str(next(trunk.parameters()).dtype).removeprefix("torch."),
        "attention": getattr(config, "_attn_implementation", None),
        "weights": weights_digest(found.trunk),
        "tokenizer": tokenizer_digest(tokenizer) if tokenizer is not None and found.text else None,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    if stack is not None:
        identity["stack"] = stack
    if found.adapters:
        identity["media"] = _media_identity(found)
    for module in (trunk, language_model):
        if module is not None:
            module.eval().to(device).requires_grad_(False)
    kind = _kind(found)
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
    ours, theirs = model.identity, other.identity
    if ours["weights"] != theirs["weights"] or ours["kind"] != "causal":
        raise ModelError(
            f"{theirs['id']} is not over the language model of {ours['id']}: their weights differ; only models over "
            "one frozen language model can be read as one"
        )
    if not other.adapters or set(other.adapters) & set(model.adapters):
        reads = " and ".join(other.modalities)
        raise ModelError(f"{theirs['id']} reads {reads}, which adds nothing to {ours['id']}; leave it out")
    for adapter in other.adapters.values():
        for name, module in list(adapter.whole.named_modules()):
            if module is other.trunk:
                adapter.whole.set_submodule(name, model.trunk)
    identity = {
        **ours,
        "media": {**ours.get("media", {}), **theirs["media"]},
        "also": [*ours.get("also", []), theirs["source"]],
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


def _kind(stack: Stack) -> Kind:
    """Whether a token's state depends on later ones: change the last of eight tokens, and see whether others move."""
    if not stack.text or stack.joint:
        return "causal" if any(adapter.reader.decoder for adapter in stack.adapters.values()) else "encoder"
    trunk = stack.trunk
    embeddings = trunk.get_input_embeddings()
    vocabulary = int(embeddings.weight.shape[0])
    ids = torch.arange(8).remainder(vocabulary).add(min(16, vocabulary // 2)).remainder(vocabulary)[None]
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % vocabulary
    both = torch.cat([ids, other]).to(next(trunk.parameters()).device)
    restorer = Restorer(trunk)
    try:
        with torch.inference_mode():
            states = trunk(input_ids=both, attention_mask=torch.ones_like(both)).last_hidden_state.float()
            moved = float((states[0, :-1] - states[1, :-1]).norm() / states[0, :-1].norm())
            restorer.restore()
        # In a causal model nothing at all moves but for rounding; in a random, tiny encoder it moves by 1e-5. A
        # mixture's experts round otherwise where they get other tokens: what its last token passes on is still zero.
        if moved < 1e-6 or (moved < 0.5 and _passes_nothing_back(trunk, embeddings, both[:1])):
            return "causal"
    except Exception as error:  # whatever a model's own code raises
        raise ModelError(
            f"{type(trunk).__name__} cannot be run on eight tokens ({type(error).__name__}: {_first_line(error)}); "
            "hubstore cannot read it as it is: use another model"
        ) from error
    finally:
        restorer.restore()
    return "encoder"


def _passes_nothing_back(trunk: Any, embeddings: nn.Module, ids: torch.Tensor) -> bool:
    """Whether the gradient of all states but the last, by the last token's embedding, is zero; exact in any dtype."""
    embedded: list[torch.Tensor] = []

    def watch(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = embeddings.register_forward_hook(watch)
    try:
        with torch.enable_grad():
            states = trunk(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, :-1].float()
            (gradient,) = torch.autograd.grad(
                (states * torch.linspace(1, 2, states.shape[-1]).to(states)).sum(), embedded[:1]
            )
    except Exception:  # a kernel that has no gradient, or embeddings that give something else
        return False
    finally:
        handle.remove()
    passed = gradient.float().norm(dim=-1)[0]
    return bool(passed[-1] <= 1e-7 * passed.sum()) and bool(passed.sum() > 0)


def devices_of(device: str) -> tuple[str, ...]:
    """The devices that a user names: "cuda:0,cuda:1", or "auto" for every GPU there is, else the CPU."""
    if device != "auto":
        return tuple(part.strip() for part in device.split(","))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(f"cuda:{number}" for number in range(count)) if count > 1 else (_default_device(),)


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _compute_dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ModelError(f"model dtype {dtype!r} is not known; use auto, float32, float16 or bfloat16")
    found = getattr(torch, dtype)
    assert isinstance(found, torch.dtype)
    return found


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _quiet_transformers:  # noqa: N801 - reads as a with statement
    """No progress bars or advice from transformers while a model loads; warnings go back as they were."""

    def __enter__(self) -> None:
        self._level = transformers.logging.get_verbosity()
        self._bars = transformers.logging.is_progress_bar_enabled()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)

    def __exit__(self, *error: object) -> None:
        self._warnings.__exit__(None, None, None)
        transformers.logging.set_verbosity(self._level)
        if self._bars:
            transformers.logging.enable_progress_bar()
