"""What an extraction is asked for, and what that comes to for a model: all that decides the bytes of its store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from hubstore.checks import check_count, whole_number
from hubstore.errors import ModelError, Parameter, StoreError
from hubstore.forward import Padding
from hubstore.forward.compiled import packed_tokens
from hubstore.media import MEDIA
from hubstore.media.reading import MediaTask
from hubstore.models import Model
from hubstore.store import DTYPES, Layout
from hubstore.store.layout import COMPRESSORS, POOLINGS
from hubstore.store.records import of_known_fields

SHARD_ROWS = 8192
CHUNK_ROWS = 256
TOKEN_CHUNK_ROWS = 16
"""Where every token is a row, a shard has few items: their pooled rows, one each, fill no chunk of 256."""

BATCHINGS = ("auto", "packed", "padded")
COMPILES = ("auto", "on", "off")
MEMORY_BUDGET = 1 << 30
"""Bytes of one shard while it is assembled, over all layers and poolings; two are in memory at a time."""


@dataclass(frozen=True)
class Settings:
    """How states are extracted.

    Args:
        poolings: any of "last", "mean", "first", "tokens", "media" and "text"; the first is the store's default.
        layers: layer names, or "all" for 0 to the last block, without "final": what the final norm makes of the last
            block, the last point of the paper's curves, is kept where it is named too, as in ("all", "final").
        dtype: the store's: "auto" keeps bfloat16 and float16 as computed and turns float32 into float16.
        template: what the model reads; "{text}" stands for the item's text.
        media_template: what goes with an image or audio clip; "{media}" stands for it, "{text}" for its item's text.
        previews: whether a thumbnail or a short clip of each is kept in the store.
        max_tokens: longest sequence; None for the model's own limit. Longer texts are cut and counted.
        media_tokens: tokens in a batch of images or audio, padding included; None for 2048 on a CPU and 65536 on a
            GPU.
        batch_tokens: tokens in a batch, padding included; None for 2048 on a CPU, and on a GPU for 16384 padded and,
            packed, for 65536 down to 8192 by the model's size (`packed_tokens`). A longer item goes alone.
        padding: "right" or "left", where batches are padded.
        batching: "packed" lays items end to end, "padded" pads them; "auto" packs half-precision models on
            a GPU. A model that cannot be packed is padded, as the self-check finds.
        compile: whether full packed batches go through compiled blocks: "on", "off", or "auto": on a GPU, where
            the run is long enough for compiling to pay.
        memory_budget: bytes of a shard being assembled.
        compressor: "none" or "blosc-lz4-bitshuffle" (worth it for bfloat16).
    """

    poolings: tuple[str, ...] = ("mean",)
    layers: tuple[str, ...] = ("all",)
    dtype: str = "auto"
    template: str = "{text}"
    media_template: str = MEDIA
    previews: bool = False
    max_tokens: int | None = None
    batch_tokens: int | None = None
    media_tokens: int | None = None
    padding: Padding = "right"
    batching: str = "auto"
    compile: str = "auto"
    memory_budget: int = MEMORY_BUDGET
    compressor: str = "none"

    def __post_init__(self) -> None:
        """Refuse a number that is none, such as 0, which is not None; StoreError."""
        for name in ("max_tokens", "batch_tokens", "media_tokens", "memory_budget"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_count(name, value, error=StoreError))

    def resolve(self, model: Model) -> ResolvedSettings:
        """These settings with every choice that depends on the model made.

        Raises:
            ModelError: a layer or length that the model does not have.
            StoreError: an unknown pooling, dtype or compressor, or a template without {text}.
        """
        for pooling in self.poolings:
            if pooling not in POOLINGS:
                raise StoreError(f"pooling {pooling!r} is not known; use any of {', '.join(POOLINGS)}")
        if len(set(self.poolings)) != len(self.poolings) or not self.poolings:
            raise StoreError(f"poolings {', '.join(self.poolings)}: name each once, and at least one")
        if self.compressor not in COMPRESSORS:
            raise StoreError(f"compressor {self.compressor!r} is not known; use {' or '.join(COMPRESSORS)}")
        if self.dtype != "auto" and self.dtype not in DTYPES:
            raise StoreError(f"dtype {self.dtype!r} is not known; use auto, {', '.join(DTYPES)}")
        if self.padding not in ("right", "left"):
            raise StoreError(f"padding {self.padding!r} is not known; use right or left")
        for name, choices in (("batching", BATCHINGS), ("compile", COMPILES)):
            if getattr(self, name) not in choices:
                raise StoreError(f"{name} {getattr(self, name)!r} is not known; use {', '.join(choices)}")
        if self.template.count("{text}") != 1:
            raise StoreError(f"template {self.template!r} must hold {{text}} exactly once")
        self._check_media(model)
        limit = self.max_tokens or model.max_tokens
        if not 0 < limit <= model.max_tokens:
            raise ModelError(
                Parameter("max_tokens"), f" {limit}: {model.identity['id']} takes 1 to {model.max_tokens} tokens"
            )
        gpu = model.device.type == "cuda"
        # In float32 there is no FlashAttention: items of every length would be attended to one after the other.
        fast = gpu and model.dtype in (torch.float16, torch.bfloat16)
        batching = self.batching if self.batching != "auto" else "packed" if fast else "padded"
        packed = batching == "packed"
        on_gpu = packed_tokens(model.blocks) if packed else 16384
        made = {
            "layers": _resolve_layers(self.layers, model),
            "dtype": _resolve_dtype(self.dtype, model.dtype),
            "max_tokens": limit,
            "batch_tokens": self.batch_tokens or (on_gpu if gpu else 2048),
            "media_tokens": self.media_tokens or (65536 if gpu else 2048),
            "batching": batching,
            "compile": self.compile if packed and (gpu or self.compile == "on") else "off",
        }
        return ResolvedSettings(**{**vars(self), **made})

    def _check_media(self, model: Model) -> None:
        name, readers = model.identity["id"], [adapter.reader for adapter in model.adapters.values()]
        for reader in readers:
            reader.check(self.media_template, name)
        if model.joint and "tokens" in self.poolings:
            raise ModelError(f"{name} gives each item one vector; it has no tokens to keep")
        if "text" in self.poolings and not any(reader.takes_text for reader in readers):
            raise ModelError(f"{name} reads no text beside a medium; leave out pooling text")

    def to_json(self) -> dict[str, Any]:
        """As kept in the store, to be compared and to append by."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """Back from the store; one that knows of no packing padded its batches."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in {"batching": "padded", "compile": "off", **data}.items()
        }
        return of_known_fields(cls, values, "a setting")

    @classmethod
    def of_store(cls, attributes: Mapping[str, Any]) -> Settings:
        """Those that a store was made with, for what is added to it or asked of it now."""
        settings = cls.from_json(attributes["settings"])
        widened = settings.batching != "packed" and settings.batch_tokens == settings.max_tokens
        if widened and any(is_older(entry) for entry in attributes["corpora"][:1]):
            return replace(settings, batch_tokens=None)
        return settings


@dataclass(frozen=True)
class ResolvedSettings(Settings):
    """Settings with every choice made for one model: no "auto", "all" or None is left."""

    max_tokens: int = field(kw_only=True)
    batch_tokens: int = field(kw_only=True)
    media_tokens: int = field(kw_only=True)

    def layout(self, width: int) -> Layout:
        """The store's shapes: as many rows to a shard as the memory budget holds, 8192 at most."""
        row_bytes = DTYPES[self.dtype].itemsize * width * len(self.layers) * len(self.poolings)
        chunk_rows = TOKEN_CHUNK_ROWS if "tokens" in self.poolings and len(self.poolings) > 1 else CHUNK_ROWS
        rows = SHARD_ROWS
        while rows > CHUNK_ROWS and rows * row_bytes > self.memory_budget:
            rows //= 2
        return Layout(
            layers=self.layers,
            poolings=self.poolings,
            dtype=self.dtype,
            width=width,
            shard_rows=rows,
            chunk_rows=chunk_rows,
            compressor=self.compressor,
        )


def is_older(entry: Mapping[str, Any]) -> bool:
    """Whether a corpus of a store was extracted when padded batches were of no fewer tokens than the longest item.

    Generations then had no shards' numbers.
    """
    return bool(entry["generations"]) and "shards" not in entry["generations"][0]


def _resolve_layers(layers: Sequence[str], model: Model) -> tuple[str, ...]:
    names = model.layer_names()
    chosen: set[str] = set()
    for layer in layers:
        if layer == "all":
            chosen.update(names[:-1] or names)
        elif layer in names:
            chosen.add(layer)
        elif (number := whole_number(layer)) is not None and -model.depth - 1 <= number < 0:
            chosen.add((names[:-1] or names)[number])
        else:
            blocks = f"0 to {model.depth} and final" if not model.joint else "final only, where its towers meet"
            raise ModelError(f"{model.identity['id']} has no layer {layer!r}; it has {blocks}")
    return tuple(layer for layer in names if layer in chosen)


def _resolve_dtype(dtype: str, computed: torch.dtype) -> str:
    if dtype != "auto":
        return dtype
    return "bfloat16" if computed is torch.bfloat16 else "float16"


def media_task(model: Model, settings: Settings) -> MediaTask:
    """How the model's images and audio are read."""
    readers = {modality: adapter.reader for modality, adapter in model.adapters.items()}
    return MediaTask(readers, settings.media_template, settings.previews)
