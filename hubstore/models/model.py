"""A model as hubstore sees it: its trunk, its blocks, its tokenizer and where it came from."""

from __future__ import annotations

import hashlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import torch
import transformers
from torch import nn

from hubstore.errors import ModelError
from hubstore.models.blocks import find_blocks
from hubstore.models.head import Head, find_head

Kind = Literal["encoder", "causal"]

HOST_BYTES = 64 << 20
"""Of weights on a GPU, read at once for their digest."""

UNBOUNDED = 1 << 20
"""Tokenizers write a huge number where they know no limit."""


@dataclass(frozen=True)
class Model:
    """A loaded model: its trunk, and its head where that was asked for.

    Args:
        trunk: the module that turns token ids into hidden states, in eval mode on its device.
        tokenizer: its tokenizer.
        blocks: the blocks of the residual stream, in order; layer i is the output of block i.
        kind: "encoder" when a token's state depends on later tokens, "causal" when it does not.
        identity: id, revision, digests, dtype, attention and class, as kept in the store.
        head: final norm and unembedding, where the model was loaded with them.
    """

    trunk: Any
    tokenizer: Any
    blocks: nn.ModuleList
    kind: Kind
    identity: Mapping[str, Any]
    head: Head | None = None

    @property
    def device(self) -> torch.device:
        """Where the trunk is."""
        device: torch.device = next(self.trunk.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        found: torch.dtype = next(p.dtype for p in self.trunk.parameters() if p.is_floating_point())
        return found

    @property
    def width(self) -> int:
        """Elements of a hidden state."""
        return int(self.trunk.config.hidden_size)

    @property
    def depth(self) -> int:
        """Blocks of the whole model."""
        return int(self.identity["blocks"])

    @cached_property
    def max_tokens(self) -> int:
        """The longest sequence it takes, special tokens included."""
        config = self.trunk.config
        limits = [
            getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or UNBOUNDED,
            getattr(self.tokenizer, "model_max_length", None) or UNBOUNDED,
        ]
        return int(min(limits))

    @cached_property
    def pad_id(self) -> int:
        """A token id to pad with; masked wherever it stands."""
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(self.tokenizer, name, None)
            if value is not None:
                return int(value)
        return 0

    @cached_property
    def leading_special(self) -> int:
        """Special tokens before the text of a causal model (its BOS): one state, the same for every item."""
        if self.kind != "causal":
            return 0
        bos = getattr(self.tokenizer, "bos_token_id", None)
        return int(bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos])

    @cached_property
    def takes_position_ids(self) -> bool:
        """Whether positions can be given to its forward."""
        return "position_ids" in inspect.signature(self.trunk.forward).parameters

    def require_head(self) -> Head:
        """Its head; ModelError, saying how to have one, where it was loaded without."""
        if self.head is None:
            raise ModelError(f"{self.identity['id']} was loaded without its head; load_model(..., head=True) keeps it")
        return self.head

    def layer_names(self) -> tuple[str, ...]:
        """ "0" (the embedding output) to the number of blocks, then "final" (after the final norm)."""
        return (*map(str, range(self.depth + 1)), "final")


def load_model(
    name: str,
    *,
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
        revision: of a hub's model.
        dtype: what to compute in: "float32", "float16", "bfloat16", or "auto": the checkpoint's own dtype on a
            GPU and float32 on a CPU.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
        attention: transformers' attention implementation; None lets it choose.
        trust_remote_code: run the code that comes with the model. Only for models whose authors you trust.
        head: load final norm and unembedding too, which the lens, steering and generation need.

    Raises:
        ModelError: nothing loadable is there, it is no encoder or decoder-only language model, or a head is asked
            for and it has none.
    """
    on = torch.device(_default_device() if device == "auto" else device)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    with _quiet_transformers():
        try:
            config = transformers.AutoConfig.from_pretrained(name, **options)
            if getattr(config, "is_encoder_decoder", False):
                raise ModelError(
                    f"{name} is an encoder-decoder ({config.model_type}); hubstore reads text through encoders and "
                    "decoder-only models"
                )
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
            kind = transformers.AutoModelForCausalLM if head else transformers.AutoModel
            loaded = kind.from_pretrained(
                name,
                dtype=_compute_dtype(dtype, on),
                **({"attn_implementation": attention} if attention else {}),
                **options,
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(
                f"{name!r} could not be loaded as a language model: {_first_line(error)} "
                "(give a folder with config.json, weights and tokenizer, or the id of a model on a hub you can reach)"
            ) from error
    trunk = loaded.base_model if head else loaded
    language_model = loaded if head else None
    return wrap_model(trunk, tokenizer, name=name, revision=revision, device=on, language_model=language_model)


def wrap_model(
    trunk: Any,
    tokenizer: Any,
    *,
    name: str,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    language_model: Any = None,
) -> Model:
    """Make a `Model` of a trunk and a tokenizer that are already in memory.

    Args:
        trunk: without the head.
        tokenizer: its tokenizer.
        name: a folder or a hub's id.
        revision: of a hub's model.
        device: where it is to run.
        language_model: the whole causal model that the trunk is part of, for its head; None for a model without.
    """
    blocks = find_blocks(trunk)
    identity = {
        "id": Path(name).name if Path(name).is_dir() else name,
        "source": str(Path(name).resolve()) if Path(name).is_dir() else name,
        "revision": revision or getattr(trunk.config, "_commit_hash", None),
        "class": type(trunk).__name__,
        "type": trunk.config.model_type,
        "blocks": len(blocks),
        "width": int(trunk.config.hidden_size),
        "dtype": str(next(trunk.parameters()).dtype).removeprefix("torch."),
        "attention": getattr(trunk.config, "_attn_implementation", None),
        "weights": weights_digest(trunk),
        "tokenizer": tokenizer_digest(tokenizer),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    for module in (trunk, language_model):
        if module is not None:
            module.eval().to(device).requires_grad_(False)
    kind = _kind(trunk)
    if language_model is not None and kind != "causal":
        raise ModelError(f"{name} is an encoder: it has no next token to read or to steer; use a causal language model")
    head = None if language_model is None else find_head(language_model, trunk, blocks)
    return Model(trunk, tokenizer, blocks, kind, {**identity, "kind": kind}, head)


def weights_digest(trunk: nn.Module) -> str:
    """SHA-256 over name, shape, dtype and CRC32C of every tensor: the same for the same weights in any file layout."""
    digest = hashlib.sha256()
    for name, tensor in sorted(trunk.state_dict().items()):
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


@torch.inference_mode()
def _kind(trunk: Any) -> Kind:
    """Change the last of eight tokens: a causal model's first seven states do not move."""
    vocabulary = int(trunk.get_input_embeddings().weight.shape[0])
    ids = torch.arange(8).remainder(vocabulary).add(min(16, vocabulary // 2)).remainder(vocabulary)[None]
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % vocabulary
    both = torch.cat([ids, other]).to(next(trunk.parameters()).device)
    states = trunk(input_ids=both, attention_mask=torch.ones_like(both)).last_hidden_state.float()
    moved = (states[0, :-1] - states[1, :-1]).norm() / states[0, :-1].norm()
    # In a causal model nothing at all moves but for rounding; in a random, tiny encoder it moves by 1e-5.
    return "causal" if moved < 1e-6 else "encoder"


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
