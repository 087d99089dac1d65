"""Parts of the configurations of tiny models: sizes, windows, kinds of rope, experts."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.tiny_models import VOCABULARY

LIMIT = 96
"""Positions of a model, where its family has a limit; the longest text has more tokens."""

BORDER = 24
"""A length at which a model changes: a sliding window, the context it was first trained with."""

BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": LIMIT,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WINDOW = {"sliding_window": BORDER, "use_sliding_window": True}
MLA = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
GROUPED = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1}
MAMBA = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_chunk_size": 16, "mamba_n_groups": 1}


def rope(kind: str, **options: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **options}}


def layers(*kinds: str) -> dict[str, Any]:
    return {"layer_types": list(kinds)}


T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4}
T5GEMMA = {name: value for name, value in BASE.items() if name not in ("bos_token_id", "eos_token_id")}


class TextFamily(NamedTuple):
    """Its configuration class and options beside `BASE`, its kind of tokenizer, and its model class if not Auto's."""

    config: str
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed
    tokenizer: str = "bos"
    model: str | None = None
    without: tuple[str, ...] = ()


def encoder(config: str, model: str | None = None, without: tuple[str, ...] = (), **options: Any) -> TextFamily:
    return TextFamily(config, options, "encoder", model, without)


def decoder(config: str, model: str | None = None, without: tuple[str, ...] = (), **options: Any) -> TextFamily:
    return TextFamily(config, options, "bos", model, without)


SLIDING = layers("sliding_attention", "full_attention", "sliding_attention")
