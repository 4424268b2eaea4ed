"""Tiny configurations of the families of transformers, made from their own defaults by rules on the names of fields."""

from __future__ import annotations

import re
from typing import Any

WORDS, LONGEST, CLASSES = 64, 12, ("ham", "spam", "eggs")
"""The size of the vocabulary, the length of the longest text, and the classes of a classifier."""

RULES: tuple[tuple[int, str], ...] = (
    (WORDS, r"(unpadded_|decoder_|src_|tgt_)?vocab_size|n_words|vocab_size_per_layer_input"),
    (WORDS, r".*_vocab_size_base|pronunciation_vocab_size|shape_vocab_size|entity_vocab_size"),
    (WORDS, r"audio_vocab_size|encoder_hash_byte_group_vocab|codebook_size|num_hash_buckets"),
    (WORDS, r"ngram_vocab_size_base"),
    (32, r"hidden_size(_global)?|d_model|n_embd|emb_dim|dim|embedding_(size|dim)|lru_width|embed_dim"),
    (32, r"word_embed_proj_dim|(input|output)_embedding_size|attention_hidden_size|pooler_hidden_size"),
    (32, r"true_hidden_size|d_latents|dim_model_base|(pronunciation|shape)_embed_dim|entity_emb_size"),
    (32, r"out_hidden_size|output_channels|vector_quantization_hidden_d.*|vision_output_dim"),
    (32, r"projector_(input|output)_dim|prediction_head_size|adapter_out_dim|backbone_hidden_size"),
    (48, r".*intermediate_size(_mlp)?|.*ffn_dim|d_ff|dff|dim_ff|d_inner|hidden_dim|ffn_hidden_size"),
    (48, r"mlp_dim|feed_forward_size"),
    (2, r"num_(hidden|decoder|encoder)?_?layers|n_layers?|(en|de)coder_layers|num_blocks|depth"),
    (2, r"num_global_layers|conf_num_hidden_layers|num_layers_per_stack|num_self_attends_per_block"),
    (4, r"(swa_|conf_)?num_attention_heads|n_heads?|num_heads|.*_attention_heads|attention_heads"),
    (4, r"linear_num_value_heads|index_n_heads|mamba_n_heads|mamba_num_heads|n_mamba_heads"),
    (4, r"linear_num_heads"),
    (2, r"(swa_)?num_key_value_heads|num_kv_heads|linear_num_key_heads|num_query_groups"),
    (8, r"(swa_|global_)?head_dim|d_kv|d_head|kv_channels|attention_head_(dim|size)|dim_head"),
    (8, r"linear_(key|value)_head_dim|linear_head_dim|v_head_dim|qk_(nope|rope)_head_dim|index_head_dim"),
    (4, r"rotary_dim"),
    (16, r"qk_head_dim"),
    (8, r"(kv|q|o)_lora_rank|.*_rank"),
    (4, r"num_experts|n_routed_experts|num_local_experts|moe_num_experts|zero_expert_num"),
    (2, r"num_experts_per_tok(en)?|moe_k|moe_topk|top_k_experts|topk_group|n_group|num_expert_group"),
    (128, r"max_position_embeddings|n_positions|n_ctx|max_seq_len|model_max_length|context_length"),
    (128, r"max_target_positions|max_source_positions|num_position_embeddings"),
    (128, r"original_max_position_embeddings"),
    (16, r"sliding_window(_size)?|attention_window_size|window_size|local_attention|attention_chunk_size"),
    (16, r"keep_window_size|.*chunk_size|.*chunk_length|segment_means_seq_len"),
    (8, r"num_latents|num_landmarks|num_hash|mamba_d_state|state_size|ssm_state_size"),
    (16, r"mamba_d_head|mamba_head_dim|mamba_headdim"),
    (64, r"mamba_d_ssm"),
    (8, r"index_topk|hc_lowrank|d_rel|ple_embed_dim|heads_per_ngram"),
    (28, r"image_size"),
    (14, r"patch_size"),
)
"""The small value of the fields whose whole name matches; the first that matches counts."""

SPECIAL = {"pad": 0, "bos": 1, "eos": 2}
"""The numbers of special tokens; all others are the last token of the vocabulary."""

FOUR = {"num_hidden_layers": 4}
OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("lfm3", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "qwen4_exp_text", "recurrent_gemma"), FOUR
    ),
    **{kind: {"text_config": FOUR} for kind in ("qwen3_5", "qwen3_5_moe", "qwen4_exp")},
    **{kind: {"head_dim": 8, "num_key_value_heads": 2} for kind in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "bailing_hybrid": {"layer_group_size": 2, "linear_num_heads": 4},
    "bamba": {"attn_layer_indices": [1]},
    "dots1": {
        "n_routed_experts": 4,
        "moe_intermediate_size": 16,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "num_experts_per_tok": 2,
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "cohere_compass_text": {"num_hidden_layers": 4},
    "esm": {"vocab_size": WORDS, "pad_token_id": 0, "mask_token_id": 3},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "hrm_text": {"num_layers_per_stack": 2},
    "esmc": {"num_key_value_heads": 4},
    "lilt": {"num_attention_heads": 4, "hidden_size": 48},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "mobilebert": {"embedding_size": 32, "hidden_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"n_groups": 2, "layers_block_type": ["mamba", "attention"]},
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local", "lsh"]},
    "t5": {"decoder_start_token_id": 0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layer_types": ["linear_attention", "hybrid"]},
    "zamba2": {"layer_types": ["linear_attention", "hybrid"]},
}
"""What the rules do not get right, by the type of the model."""


def config(kind: str, classes: int | None = None) -> Any:
    """Return a tiny configuration of the model type ``kind``, for a number of classes."""
    from transformers import CONFIG_MAPPING

    made = CONFIG_MAPPING[kind](**_joined(small(CONFIG_MAPPING[kind]()), OVERRIDES.get(kind, {})))
    if classes is not None:
        made.num_labels = classes
    return made


def small(default: Any) -> dict[str, Any]:
    """Return the fields of a configuration that a tiny model changes, those of its parts included."""
    changed = {name: value for name, old in default.to_dict().items() if (value := _small(name, old)) is not None}
    parts = {name: getattr(default, name, None) for name in default.sub_configs}
    if getattr(default, "kv_lora_rank", None):
        changed["num_key_value_heads"] = changed["num_attention_heads"]  # as latent attention needs it
    return changed | {name: small(part) for name, part in parts.items() if part is not None}


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    both = {name: first[name] | value for name, value in second.items() if isinstance(first.get(name), dict)}
    return first | second | both


def _small(name: str, old: Any) -> Any:
    if re.search("_token_(id|index)s?$", name) and old is not None:
        return SPECIAL.get(name.split("_")[0], WORDS - 1)
    if not isinstance(old, int) or isinstance(old, bool) or old < 2:
        return None
    return next((value for value, rule in RULES if re.fullmatch(rule, name)), None)
