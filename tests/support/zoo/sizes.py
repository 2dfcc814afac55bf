"""From a family's configuration class to a configuration of a few thousand parameters.

A class is asked for its defaults and every size among them is replaced by what its NAME says it is: widths by 32,
depths by 3, heads by 4. So a family needs data only where its own arithmetic ties sizes together, and a new one is
usually tiny without a line. All kinds of layers that the defaults have are kept, in their order of appearance.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

VOCABULARY = 512
WIDTH, HEADS, LAYERS, CONTEXT = 32, 4, 3, 2048
PATCHES = 4
"""Patches along the side of an image."""

_INTEGERS: tuple[tuple[str, int], ...] = (
    # The first pattern that matches the whole name wins.
    (r".*vocab(ulary)?_size.*|padded_vocab_size", VOCABULARY),
    (r"position_embedding_size", 1024),
    (r"(pad|unk)_token_(id|index)", 0),
    (r"bos_token_(id|index)", 1),
    (r"eos_token_(id|index)", 2),
    (r"decoder_start_token_id", 1),
    (r"(moe|expert|shared)_.*(intermediate|ffn).*_size|expert_ffn_hidden_size|.*expert_intermediate_size", 16),
    (
        r".*(intermediate|ffn|inner|feedforward)_(size|dim|hidden_size).*|n_inner|d_ff|.*ffn_dim|mlp_dim|.*mlp_hidden_size",
        64,
    ),
    (r"(.*_)?num_(hidden_)?layers|(num_)?(.*_)?(depth|layers|blocks)|n_layers?|num_decoder_layers|num_blocks", LAYERS),
    (r"qk_rope_head_dim|qk_nope_head_dim|v_head_dim|.*linear_(key|value)_head_dim", 8),
    (r"linear_num_(key|value)_heads", 2),
    (r"n_mamba_heads|mamba_n_heads|mamba_num_heads", 4),
    (r"mamba_d_head|mamba_headdim|mamba_head_dim", 16),
    (r"mamba_d_state|ssm_state_size", 8),
    (r"rotary_dim", 4),
    (r"[qok]v?_lora_rank|.*lora_rank", 16),
    (r"(.*_)?(attention_)?head_dim|(.*_)?head_size|d_kv|kv_channels|.*head_dim", 8),
    (r"(.*_)?(num_)?(key_value|kv)_heads|n_kv_heads?|.*num_query_groups|.*kv_heads", 2),
    (r"(.*_)?num_(attention_|encoder_|decoder_)?heads|(.*_)?attention_heads|n_heads?|num_heads|.*num_heads", HEADS),
    (
        r"(hidden|embed|embedding|model|d|n|output|out|projection|word_embed_proj|proj|decoder_hidden|encoder_hidden|"
        r"projector|.*_out_hidden|.*_hidden|.*_embed|.*_embedding|connector)_(size|dim|embd|model|dims|hidden_size)|"
        r"d_model|n_embd|dim|hidden_dim|embed_dim|out_hidden_size|lru_width|output_proj_dims|.*hidden_size|.*hidden_dim",
        WIDTH,
    ),
    (r"(num|n)_(local_|routed_)?experts|moe_num_experts|.*num_experts|n_routed_experts", 4),
    (r"num_experts_per_(tok|token)|moe_k|.*top_?k.*experts|experts_per_token|moe_topk|.*num_selected_experts", 2),
    (r"n_group|topk_group|num_expert_group|.*n_groups?|n_shared_experts|num_shared_experts|first_k_dense_replace", 1),
    (r"max_position_embeddings|n_positions|max_seq_len|seq_length|max_sequence_length|n_ctx|model_max_length", CONTEXT),
    (r"max_source_positions|max_target_positions", 64),
    (r"(attention_)?sliding_window(_size)?|attention_window_size", 8),
    (r"num_mel_bins|.*num_mel_bins|feature_size", 16),
    (r"index_(n_heads|head_dim)", 8),
)
_RULES = tuple((re.compile(pattern), value) for pattern, value in _INTEGERS)


def size_of(name: str, default: int) -> int:
    """The tiny value of an integer of a configuration; the default itself where it is smaller or is no size."""
    for pattern, value in _RULES:
        if pattern.fullmatch(name):
            if name.endswith(("token_id", "token_index")):
                return value
            return value if name.endswith("num_experts") else min(value, default) if default > 0 else default
    return default


def tiny_values(kind: type, override: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Keyword arguments that make a tiny configuration of a class, nested ones included.

    Args:
        kind: a configuration class of transformers.
        override: what the family sets itself; a mapping under the name of a nested configuration goes to that one.
    """
    override = dict(override or {})
    found: dict[str, Any] = {}
    default = kind()
    nested = dict(getattr(kind, "sub_configs", {}) or {})
    for name, value in vars(default).items():
        if name.startswith("_") or (name in override and name not in nested):
            continue
        if value is None and isinstance(override.get(name), Mapping) and name in nested:
            value = _default(nested[name], override[name])
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            found[name] = _nested(value, override.pop(name, None))
        elif (tiny := _tiny(name, value, default)) is not None:
            found[name] = tiny
    for name in ("image_size", "img_size"):
        patch = override.get("patch_size", getattr(default, "patch_size", None))
        if isinstance(getattr(default, name, None), int) and isinstance(patch, int) and name not in override:
            found[name] = PATCHES * patch
    return found | override


def _default(kind: Any, override: Mapping[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING

    return (CONFIG_MAPPING[override["model_type"]] if "model_type" in override else kind)()


def _nested(value: Any, override: Any) -> Any:
    if override is not None and not isinstance(override, Mapping):
        return override
    override = dict(override or {})
    kind = type(value)
    if (model_type := override.pop("model_type", None)) is not None:
        from transformers import CONFIG_MAPPING

        kind = CONFIG_MAPPING[model_type]
    return kind(**tiny_values(kind, override))


_WHERE_NONE = {"head_dim": 8, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _tiny(name: str, value: Any, config: Any) -> Any:
    """A smaller value, or None where the default may stay."""
    if value is None:
        return _WHERE_NONE.get(name)
    if isinstance(value, bool):
        return None
    if name == "num_key_value_heads" and value == getattr(config, "num_attention_heads", None):
        return HEADS
    if isinstance(value, int):
        small = size_of(name, value)
        return small if small != value else None
    if name in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
        small = _rope(value)
        return small if small != value else None
    if isinstance(value, list | tuple) and value:
        return _list(name, list(value), config)
    return None


def _rope(value: dict[str, Any]) -> dict[str, Any]:
    found = {key: _rope(inner) if isinstance(inner, dict) else inner for key, inner in value.items()}
    if "mrope_section" in found:
        found["mrope_section"] = [2, 1, 1]
    for name in ("short_factor", "long_factor"):
        if name in found:
            found[name] = [1.0] * 4
    return found


def _list(name: str, value: list[Any], config: Any) -> list[Any] | None:
    depth = next(
        (d for n in ("num_hidden_layers", "n_layer", "num_layers") if isinstance(d := getattr(config, n, None), int)), 0
    )
    if len(value) == depth or name in ("layer_types", "layers_block_type", "block_types", "mlp_layer_types"):
        kinds = list(dict.fromkeys(value))
        if all(isinstance(kind, int) for kind in kinds):
            kinds = [size_of(name, kind) for kind in kinds]
        return [kinds[index % len(kinds)] for index in range(LAYERS)]
    if all(isinstance(item, int) for item in value):
        if re.search(r"ind(ex|ic)|layer", name):
            return [0]
        small = [size_of(name, item) for item in value]
        return small if small != value else None
    return None
