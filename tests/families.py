"""Tiny random models of more than a hundred families, made of transformers' configuration classes."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tests.family_shapes import (
    BASE,
    BORDER,
    GROUPED,
    LIMIT,
    MAMBA,
    MLA,
    MOE,
    SLIDING,
    T5,
    T5GEMMA,
    WINDOW,
    TextFamily,
    decoder,
    encoder,
    layers,
    rope,
)
from tests.tiny_models import VOCABULARY, tiny_tokenizer

TEXT: dict[str, TextFamily] = {
    # encoders with learned positions
    "bert": encoder("BertConfig"),
    "roberta": encoder("RobertaConfig"),
    "xlm-roberta": encoder("XLMRobertaConfig"),
    "camembert": encoder("CamembertConfig"),
    "xlm-roberta-xl": encoder("XLMRobertaXLConfig"),
    "roberta-prelayernorm": encoder("RobertaPreLayerNormConfig"),
    "xmod": encoder("XmodConfig", languages=["en_XX"], default_language="en_XX"),
    "data2vec-text": encoder("Data2VecTextConfig"),
    "ibert": encoder("IBertConfig"),
    "electra": encoder("ElectraConfig", embedding_size=16),
    "distilbert": encoder("DistilBertConfig", dim=32, hidden_dim=64, n_layers=3, n_heads=4),
    "albert": encoder("AlbertConfig", embedding_size=16),
    "albert-two-groups": encoder("AlbertConfig", embedding_size=16, num_hidden_groups=2, num_hidden_layers=4),
    "ernie": encoder("ErnieConfig"),
    "mobilebert": encoder("MobileBertConfig", embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16),
    "squeezebert": encoder("SqueezeBertConfig", embedding_size=32),
    "convbert": encoder("ConvBertConfig", embedding_size=32),
    "rembert": encoder("RemBertConfig", input_embedding_size=16),
    "megatron-bert": encoder("MegatronBertConfig"),
    "roformer": encoder("RoFormerConfig", embedding_size=32),
    "layoutlm": encoder("LayoutLMConfig"),
    "layoutlmv3": encoder("LayoutLMv3Config", visual_embed=False, coordinate_size=5, shape_size=6),
    "lilt": encoder("LiltConfig", hidden_size=24, channel_shrink_ratio=2),
    "markuplm": encoder("MarkupLMConfig", xpath_unit_hidden_size=4),
    "bros": encoder("BrosConfig"),
    "splinter": encoder("SplinterConfig"),
    "nystromformer": encoder("NystromformerConfig", num_landmarks=8, segment_means_seq_len=8),
    "nystromformer-landmarks": encoder("NystromformerConfig", num_landmarks=8, segment_means_seq_len=LIMIT),
    "yoso": encoder("YosoConfig"),
    "mra": encoder("MraConfig"),
    "esm": encoder("EsmConfig", position_embedding_type="absolute", mask_token_id=3),
    "esm-rotary": encoder("EsmConfig", position_embedding_type="rotary", mask_token_id=3),
    "canine": encoder("CanineConfig"),
    "luke": encoder("LukeConfig", entity_vocab_size=10, entity_emb_size=16),
    "tapas": encoder("TapasConfig"),
    "roc-bert": encoder("RoCBertConfig", pronunciation_vocab_size=10, shape_vocab_size=10),
    "visual-bert": encoder("VisualBertConfig"),
    "lxmert": encoder("LxmertConfig"),
    "bert-generation": encoder("BertGenerationConfig"),
    # encoders with relative or rotary positions
    "mpnet": encoder("MPNetConfig"),
    "deberta": encoder(
        "DebertaConfig", relative_attention=True, pos_att_type=["c2p", "p2c"], max_relative_positions=16
    ),
    "deberta-v2": encoder("DebertaV2Config", relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=8),
    "deberta-v2-conv": encoder("DebertaV2Config", relative_attention=True, conv_kernel_size=3),
    "t5-encoder": encoder("T5Config", model="T5EncoderModel", **T5),
    "mt5-encoder": encoder("MT5Config", model="MT5EncoderModel", **T5),
    "umt5-encoder": encoder("UMT5Config", model="UMT5EncoderModel", **T5),
    "longt5-encoder": encoder("LongT5Config", model="LongT5EncoderModel", local_radius=7, **T5),
    "longt5-global-encoder": encoder(
        "LongT5Config",
        model="LongT5EncoderModel",
        encoder_attention_type="transient-global",
        local_radius=7,
        global_block_size=8,
        **T5,
    ),
    "switch-encoder": encoder(
        "SwitchTransformersConfig",
        model="SwitchTransformersEncoderModel",
        num_experts=2,
        expert_capacity=8,
        num_sparse_encoder_layers=1,
        **T5,
    ),
    "t5gemma-encoder": encoder("T5GemmaConfig", model="T5GemmaEncoderModel", encoder=T5GEMMA, is_encoder_decoder=False),
    "dpr": encoder("DPRConfig"),
    "modernbert": encoder("ModernBertConfig", local_attention=BORDER, global_attn_every_n_layers=2),
    "nomic-bert": encoder("NomicBertConfig"),
    "eurobert": encoder("EuroBertConfig"),
    "jina-embeddings-v3": encoder("JinaEmbeddingsV3Config"),
    "gte": encoder("GteConfig"),
    # encoders that pad, sum or sample inside
    "longformer": encoder("LongformerConfig", attention_window=[8, 8, 8]),
    "big-bird": encoder("BigBirdConfig", block_size=8, num_random_blocks=1),
    "big-bird-full": encoder("BigBirdConfig", attention_type="original_full"),
    "fnet": encoder("FNetConfig", tpu_short_seq_length=LIMIT),
    "funnel": encoder(
        "FunnelConfig",
        model="FunnelModel",
        without=("num_hidden_layers",),
        block_sizes=[2, 2],
        d_model=32,
        n_head=4,
        d_head=8,
        d_inner=64,
    ),
    "reformer": encoder(
        "ReformerConfig",
        attn_layers=["local", "lsh", "local"],
        attention_head_size=8,
        local_attn_chunk_length=8,
        lsh_attn_chunk_length=8,
        axial_pos_shape=[8, 12],
        axial_pos_embds_dim=[16, 16],
        feed_forward_size=64,
        num_hashes=1,
        num_buckets=4,
        is_decoder=False,
    ),
    "xlnet": encoder("XLNetConfig", without=("max_position_embeddings",), d_model=32, n_layer=3, n_head=4, d_inner=64),
    "xlm": encoder("XLMConfig", emb_dim=32, n_layers=3, n_heads=4),
    "flaubert": encoder("FlaubertConfig", emb_dim=32, n_layers=3, n_heads=4),
    # decoders with learned positions
    "openai-gpt": decoder("OpenAIGPTConfig"),
    "gpt2": decoder("GPT2Config"),
    "gpt-neo": decoder("GPTNeoConfig", attention_types=[[["global", "local", "global"], 1]], window_size=BORDER),
    "gpt-bigcode": decoder("GPTBigCodeConfig"),
    "ctrl": decoder("CTRLConfig", dff=64),
    "opt": decoder("OPTConfig", ffn_dim=64, word_embed_proj_dim=32),
    "opt-projected": decoder("OPTConfig", ffn_dim=64, word_embed_proj_dim=16, do_layer_norm_before=False),
    "xglm": decoder("XGLMConfig", d_model=32, ffn_dim=64, num_layers=3, attention_heads=4),
    "biogpt": decoder("BioGptConfig"),
    "imagegpt": decoder("ImageGPTConfig"),
    # decoders with ALiBi
    "bloom": decoder("BloomConfig", n_layer=3, n_head=4),
    "mpt": decoder("MptConfig", d_model=32, n_heads=4, n_layers=3, max_seq_len=LIMIT),
    "falcon-alibi": decoder("FalconConfig", without=("head_dim",), alibi=True),
    # decoders with rotary positions
    "gptj": decoder("GPTJConfig", rotary_dim=4),
    "codegen": decoder("CodeGenConfig", rotary_dim=4),
    "gpt-neox": decoder("GPTNeoXConfig", rotary_pct=0.5),
    "gpt-neox-japanese": decoder("GPTNeoXJapaneseConfig"),
    "falcon": decoder("FalconConfig", without=("head_dim",)),
    "falcon-new": decoder("FalconConfig", without=("head_dim",), new_decoder_architecture=True, num_kv_heads=2),
    "llama": decoder("LlamaConfig"),
    "llama-linear": decoder("LlamaConfig", **rope("linear", factor=2.0)),
    "llama-dynamic": decoder("LlamaConfig", **rope("dynamic", factor=2.0, original_max_position_embeddings=BORDER)),
    "llama-yarn": decoder("LlamaConfig", **rope("yarn", factor=4.0, original_max_position_embeddings=BORDER)),
    "llama3": decoder(
        "LlamaConfig",
        **rope(
            "llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=BORDER
        ),
    ),
    "mistral": decoder("MistralConfig", **WINDOW),
    "ministral": decoder("MinistralConfig", **WINDOW, **SLIDING),
    "starcoder2": decoder("Starcoder2Config", **WINDOW),
    "gemma": decoder("GemmaConfig"),
    "gemma2": decoder("Gemma2Config", **WINDOW, query_pre_attn_scalar=8),
    "gemma3": decoder("Gemma3TextConfig", **WINDOW, **SLIDING),
    "gemma3n": decoder(
        "Gemma3nTextConfig",
        **WINDOW,
        **SLIDING,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        activation_sparsity_pattern=[0.0, 0.0, 0.0],
        num_kv_shared_layers=0,
        altup_num_inputs=2,
    ),
    "gemma4": decoder(
        "Gemma4TextConfig",
        **WINDOW,
        **layers("sliding_attention", "sliding_attention", "full_attention"),
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        global_head_dim=8,
    ),
    "vaultgemma": decoder("VaultGemmaConfig", **WINDOW),
    "phi": decoder("PhiConfig"),
    "phi3": decoder("Phi3Config", **WINDOW),
    "phi3-long": decoder(
        "Phi3Config",
        original_max_position_embeddings=BORDER,
        **rope(
            "longrope",
            short_factor=[1.0] * 4,
            long_factor=[4.0] * 4,
            factor=4.0,
            original_max_position_embeddings=BORDER,
        ),
    ),
    "qwen2": decoder("Qwen2Config"),
    "qwen2-window": decoder("Qwen2Config", **WINDOW, max_window_layers=1),
    "qwen3": decoder("Qwen3Config"),
    "stablelm": decoder("StableLmConfig"),
    "cohere": decoder("CohereConfig"),
    "cohere2": decoder("Cohere2Config", **WINDOW, **SLIDING),
    "olmo": decoder("OlmoConfig"),
    "olmo2": decoder("Olmo2Config"),
    "olmo3": decoder("Olmo3Config", **WINDOW, **SLIDING),
    "granite": decoder("GraniteConfig", embedding_multiplier=2.0, residual_multiplier=0.5),
    "helium": decoder("HeliumConfig"),
    "glm": decoder("GlmConfig"),
    "glm4": decoder("Glm4Config"),
    "nemotron": decoder("NemotronConfig"),
    "persimmon": decoder("PersimmonConfig"),
    "smollm3": decoder("SmolLM3Config", no_rope_layers=[1, 0, 1]),
    "exaone4": decoder("Exaone4Config", **WINDOW, **SLIDING),
    "ernie4.5": decoder("Ernie4_5Config"),
    "seed-oss": decoder("SeedOssConfig"),
    "apertus": decoder("ApertusConfig"),
    "arcee": decoder("ArceeConfig"),
    "bitnet": decoder("BitNetConfig"),
    "diffllama": decoder("DiffLlamaConfig"),
    "hunyuan": decoder("HunYuanDenseV1Config"),
    "modernbert-decoder": decoder("ModernBertDecoderConfig", local_attention=BORDER),
    "nanochat": decoder("NanoChatConfig"),
    "minicpm3": decoder("MiniCPM3Config", **MLA),
    # mixtures of experts
    "mixtral": decoder("MixtralConfig", **MOE),
    "qwen2-moe": decoder("Qwen2MoeConfig", **MOE, shared_expert_intermediate_size=32),
    "qwen3-moe": decoder("Qwen3MoeConfig", **MOE),
    "olmoe": decoder("OlmoeConfig", **MOE),
    "phimoe": decoder("PhimoeConfig", **MOE),
    "granitemoe": decoder("GraniteMoeConfig", **MOE),
    "gpt-oss": decoder("GptOssConfig", **MOE, **WINDOW, **SLIDING, **rope("default")),
    "deepseek-v2": decoder("DeepseekV2Config", **MOE, **MLA, **GROUPED, topk_method="greedy"),
    "deepseek-v3": decoder("DeepseekV3Config", head_dim=4, **MOE, **MLA, **GROUPED),
    "dbrx": decoder(
        "DbrxConfig",
        d_model=32,
        n_heads=4,
        n_layers=3,
        max_seq_len=LIMIT,
        attn_config={"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0},
        ffn_config={"hidden_size": 32, "ffn_hidden_size": 32, "moe_top_k": 2},
    ),
    "llama4": decoder("Llama4TextConfig", **MOE, intermediate_size_mlp=64, attention_chunk_size=BORDER),
    "jetmoe": decoder("JetMoeConfig", **MOE, kv_channels=8),
    "glm4-moe": decoder("Glm4MoeConfig", **MOE, **GROUPED),
    "ernie4.5-moe": decoder("Ernie4_5_MoeConfig", **MOE, moe_num_experts=4, moe_k=2),
    "dots1": decoder("Dots1Config", **MOE, **GROUPED, **WINDOW),
    "minimax": decoder(
        "MiniMaxConfig", **MOE, **layers("full_attention", "linear_attention", "full_attention"), block_size=8
    ),
    # state spaces, recurrences and hybrids
    "mamba": decoder("MambaConfig", state_size=8),
    "mamba2": decoder("Mamba2Config", state_size=8, num_heads=8, head_dim=8, n_groups=1, chunk_size=16),
    "falcon-mamba": decoder("FalconMambaConfig", state_size=8),
    "rwkv": decoder("RwkvConfig", attention_hidden_size=32, context_length=LIMIT),
    "recurrent-gemma": decoder("RecurrentGemmaConfig", lru_width=32, attention_window_size=BORDER),
    "jamba": decoder("JambaConfig", **MOE, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=8),
    "bamba": decoder("BambaConfig", **MAMBA, attn_layer_indices=[1]),
    "zamba": decoder(
        "ZambaConfig",
        mamba_d_state=8,
        n_mamba_heads=2,
        num_hidden_layers=5,
        layers_block_type=["mamba", "hybrid", "mamba", "mamba", "hybrid"],
    ),
    "zamba2": decoder(
        "Zamba2Config",
        mamba_d_state=8,
        mamba_ngroups=1,
        n_mamba_heads=8,
        mamba_headdim=8,
        chunk_size=16,
        layers_block_type=["mamba", "hybrid", "mamba"],
        num_mem_blocks=1,
    ),
    "falcon-h1": decoder("FalconH1Config", **MAMBA, mamba_d_ssm=64),
    "nemotron-h": decoder(
        "NemotronHConfig",
        layers_block_type=["linear_attention", "full_attention", "mlp", "moe"],
        **MOE,
        n_routed_experts=4,
        moe_shared_expert_intermediate_size=16,
        ssm_state_size=8,
        mamba_num_heads=8,
        mamba_head_dim=8,
        n_groups=1,
        chunk_size=16,
    ),
    "granitemoehybrid": decoder("GraniteMoeHybridConfig", **MOE, **MAMBA, **layers("mamba", "attention", "mamba")),
    "lfm2": decoder("Lfm2Config", **layers("conv", "full_attention", "conv")),
    "qwen3-next": decoder(
        "Qwen3NextConfig",
        **MOE,
        **layers("linear_attention", "full_attention", "linear_attention"),
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "olmo-hybrid": decoder("OlmoHybridConfig", **layers("linear_attention", "full_attention", "linear_attention")),
    "xlstm": decoder(
        "xLSTMConfig", without=("head_dim",), hidden_size=64, num_heads=4, qk_dim_factor=1.0, chunk_size=16
    ),
    # encoder-decoders
    "t5": encoder("T5Config", **T5),
    "bart": encoder(
        "BartConfig",
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        d_model=32,
        encoder_layers=3,
        decoder_layers=3,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
    ),
    "mbart": encoder(
        "MBartConfig",
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        d_model=32,
        encoder_layers=3,
        decoder_layers=3,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
    ),
    "led": encoder(
        "LEDConfig",
        max_encoder_position_embeddings=LIMIT,
        max_decoder_position_embeddings=LIMIT,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        d_model=32,
        encoder_layers=3,
        decoder_layers=3,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
    ),
    "pegasus": encoder("PegasusConfig", d_model=32, encoder_layers=3, decoder_layers=3),
    "m2m-100": encoder("M2M100Config", d_model=32, encoder_layers=3, decoder_layers=3),
    "marian": encoder("MarianConfig", d_model=32, encoder_layers=3, decoder_layers=3),
    "longt5": encoder("LongT5Config", **T5),
    "switch-transformers": encoder(
        "SwitchTransformersConfig",
        **T5,
        num_experts=2,
        expert_capacity=64,
    ),
    "prophetnet": encoder(
        "ProphetNetConfig", without=("num_hidden_layers",), num_encoder_layers=3, num_decoder_layers=3
    ),
    "t5gemma": encoder("T5GemmaConfig", encoder=T5GEMMA, decoder=T5GEMMA),
}


def text_config(name: str) -> Any:
    family = TEXT[name]
    options = {**BASE, **family.options}
    for option in family.without:
        del options[option]
    return getattr(transformers, family.config)(**options)


def _randomized(model: Any) -> Any:
    """Weights large enough for attention, positions and gates to matter, unlike those of transformers' initializers."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.requires_grad_(False).named_parameters():
        if parameter.ndim > 1:
            large = "position" in name or "wpe" in name or "embed" in name
            parameter.normal_(std=1.0 if large else 0.2, generator=generator)
    return model.eval()


def text_model(name: str) -> Any:
    """A model without its head, the same at every call."""
    family = TEXT[name]
    torch.manual_seed(0)
    config = text_config(name)
    made = (
        transformers.AutoModel.from_config(config)
        if family.model is None
        else getattr(transformers, family.model)(config)
    )
    return _randomized(made)


def text_tokenizer(name: str) -> Any:
    """The test tokenizer without a limit of its own."""
    made = tiny_tokenizer(TEXT[name].tokenizer)
    made.model_max_length = int(1e30)
    return made
