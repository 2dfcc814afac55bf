"""Tiny random models of many families, built from their configuration classes, and a tokenizer to go with them.

    module, tokenizer = tiny_model("gemma2")

Hidden size 32, three layers, four heads, 64 words; every norm gain and every bias is random and not trivial, so that
code that forgets one of them fails. Nothing is downloaded. `FAMILIES` lists what there is, `MULTIMODAL` those with
towers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from refusal_plugin.models.tiny import randomise

VOCABULARY = 64
LAYERS = 3
WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>", *(f"w{index}" for index in range(VOCABULARY - 6))]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<' + message['role'] + '> ' + message['content'] + ' <eos> ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)

_SIZE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_IDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_VISION: dict[str, Any] = {
    "depth": 1,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "out_hidden_size": 32,
}


def tiny_tokenizer(
    template: str | None = TEMPLATE, names: Sequence[str] = WORDS, named: Mapping[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of `VOCABULARY` words, `w0` to `w57` and six special ones.

    Args:
        template: the chat template.
        names: the words in the order of their ids; those that are no `w...` are special.
        named: special tokens that the tokenizer is asked for by name ("image_token": "<image>").
    """
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens([name for name in names[4:] if not name.startswith("w")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens=dict(named or {}),
        model_max_length=128,
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_model(family: str, seed: int = 0) -> tuple[nn.Module, PreTrainedTokenizerFast]:
    """A random model of a family in evaluation mode, and a tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module: nn.Module = FAMILIES[family]()
        randomise(module)
    return module.eval(), tiny_tokenizer()


def _llama_like(kind: str, config_name: str = "", **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        config = getattr(transformers, config_name or f"{kind}Config")(**{**_SIZE, **options})
        built: nn.Module = getattr(transformers, f"{kind}ForCausalLM")(config)
        return built

    return build


def _causal(kind: str, **options: Any) -> Callable[[], nn.Module]:
    """A family whose configuration has names of its own for the sizes."""

    def build() -> nn.Module:
        config = getattr(transformers, f"{kind}Config")(**{**_IDS, **options})
        name = f"{kind}LMHeadModel" if hasattr(transformers, f"{kind}LMHeadModel") else f"{kind}ForCausalLM"
        built: nn.Module = getattr(transformers, name)(config)
        return built

    return build


def _text(**options: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    return {**_SIZE, "rope_parameters": rope, **options}


def _llava() -> nn.Module:
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**_SIZE), vision_config=_clip(), image_token_index=60, **_IDS
    )
    return transformers.LlavaForConditionalGeneration(config)


def _qwen2_audio() -> nn.Module:
    audio = {"num_mel_bins": 8, "encoder_layers": 5, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 16}
    config = transformers.Qwen2AudioConfig(
        audio_config={**audio, "max_source_positions": 16, "model_type": "qwen2_audio_encoder"},
        text_config={**_SIZE, "model_type": "qwen2"},
        audio_token_index=60,
        **_IDS,
    )
    return transformers.Qwen2AudioForConditionalGeneration(config)


def _qwen2_5_vl() -> nn.Module:
    vision = {**_VISION, "fullatt_block_indexes": [0]}
    config = transformers.Qwen2_5_VLConfig(
        text_config=_text(),
        vision_config=vision,
        image_token_id=60,
        video_token_id=61,
        vision_start_token_id=62,
        vision_end_token_id=63,
        **_IDS,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def _qwen2_vl() -> nn.Module:
    vision = {**_VISION, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    config = transformers.Qwen2VLConfig(
        text_config=_text(),
        vision_config=vision,
        image_token_id=60,
        video_token_id=61,
        vision_start_token_id=62,
        vision_end_token_id=63,
        **_IDS,
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


def _qwen3_vl() -> nn.Module:
    vision = {**_VISION, "deepstack_visual_indexes": [0]}
    config = transformers.Qwen3VLConfig(
        text_config=_text(head_dim=8),
        vision_config={**vision, "num_position_embeddings": 16},
        image_token_id=60,
        video_token_id=61,
        vision_start_token_id=62,
        vision_end_token_id=63,
        **_IDS,
    )
    return transformers.Qwen3VLForConditionalGeneration(config)


def _gemma3_multimodal() -> nn.Module:
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config={**_SIZE, "head_dim": 12, "sliding_window": 4, "query_pre_attn_scalar": 12},
        vision_config={**vision, "image_size": 16, "patch_size": 4},
        mm_tokens_per_image=4,
        image_token_index=60,
        boi_token_index=61,
        eoi_token_index=62,
        **_IDS,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def _gemma3n() -> nn.Module:
    config = transformers.Gemma3nTextConfig(
        **{**_SIZE, "intermediate_size": [64] * LAYERS, "head_dim": 8},
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0] * LAYERS,
        layer_types=["full_attention"] * LAYERS,
    )
    return transformers.Gemma3nForCausalLM(config)


def _omni() -> nn.Module:
    audio = {"num_mel_bins": 8, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 16}
    vision = {**_VISION, "fullatt_block_indexes": [0]}
    config = transformers.Qwen2_5OmniThinkerConfig(
        audio_config={**audio, "max_source_positions": 16, "n_window": 4, "output_dim": 32},
        vision_config=vision,
        text_config=_text(max_position_embeddings=8192),
        audio_token_index=56,
        image_token_index=57,
        video_token_index=58,
        audio_start_token_id=59,
        audio_end_token_id=60,
        position_id_per_seconds=25,
        **{"vision_start_token_id": 61, "vision_end_token_id": 62, **_IDS},
    )
    return transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)


def _qwen3_omni() -> nn.Module:
    audio = {
        "num_mel_bins": 8,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "d_model": 16,
        "n_window": 50,
        "n_window_infer": 400,
        "output_dim": 32,
        "downsample_hidden_size": 8,
        "max_source_positions": 1500,
    }
    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    config = transformers.Qwen3OmniMoeThinkerConfig(
        audio_config=audio,
        vision_config={**_VISION, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        text_config=_text(max_position_embeddings=8192, **moe),
        audio_token_id=56,
        image_token_id=57,
        video_token_id=58,
        audio_start_token_id=59,
        audio_end_token_id=60,
        vision_start_token_id=61,
        vision_end_token_id=62,
        position_id_per_seconds=25,
        **_IDS,
    )
    return transformers.Qwen3OmniMoeThinkerForConditionalGeneration(config)


def _clip() -> transformers.CLIPVisionConfig:
    return transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=8, patch_size=4
    )


def _llava_next() -> nn.Module:
    config = transformers.LlavaNextConfig(
        text_config=transformers.LlamaConfig(**_SIZE),
        vision_config=_clip(),
        image_token_index=60,
        image_grid_pinpoints=[[8, 16], [16, 8], [16, 16]],
        **_IDS,
    )
    return transformers.LlavaNextForConditionalGeneration(config)


def _llava_onevision() -> nn.Module:
    vision = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    config = transformers.LlavaOnevisionConfig(
        text_config=transformers.Qwen2Config(**_SIZE),
        vision_config=vision,
        image_token_index=60,
        video_token_index=61,
        vision_feature_layer=-1,
        image_grid_pinpoints=[[8, 16], [16, 8], [16, 16]],
        **_IDS,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config)


def _internvl() -> nn.Module:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": [8, 8],
        "patch_size": [4, 4],
    }
    config = transformers.InternVLConfig(
        text_config=transformers.Qwen2Config(**_SIZE),
        vision_config=vision,
        image_token_id=60,
        image_seq_length=1,
        **_IDS,
    )
    return transformers.InternVLForConditionalGeneration(config)


def _mllama() -> nn.Module:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
        "max_num_tiles": 2,
        "vision_output_dim": 32,
        "intermediate_layers_indices": [0],
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    }
    text = {**_SIZE, "num_hidden_layers": LAYERS + 1, "cross_attention_layers": [1], "rope_parameters": _ROPE}
    config = transformers.MllamaConfig(text_config=text, vision_config=vision, image_token_index=60, **_IDS)
    return transformers.MllamaForConditionalGeneration(config)


def _smolvlm() -> nn.Module:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    config = transformers.SmolVLMConfig(
        text_config=transformers.LlamaConfig(**_SIZE), vision_config=vision, image_token_id=60, scale_factor=2, **_IDS
    )
    return transformers.SmolVLMForConditionalGeneration(config)


def _mistral3() -> nn.Module:
    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 8,
        "image_size": 16,
        "patch_size": 4,
    }
    config = transformers.Mistral3Config(
        text_config={**_SIZE, "model_type": "mistral", "head_dim": 8},
        vision_config=vision,
        image_token_index=60,
        spatial_merge_size=2,
        vision_feature_layer=-1,
        **_IDS,
    )
    return transformers.Mistral3ForConditionalGeneration(config)


def _voxtral() -> nn.Module:
    audio = {
        "num_mel_bins": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "hidden_size": 16,
        "max_source_positions": 1500,
    }
    config = transformers.VoxtralConfig(
        audio_config=audio, text_config={**_SIZE, "model_type": "llama", "head_dim": 8}, audio_token_id=60, **_IDS
    )
    return transformers.VoxtralForConditionalGeneration(config)


_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_GPT: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 128}
_WIDE_HEADS: dict[str, Any] = {"head_dim": 12}

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "qwen2": _llama_like("Qwen2"),
    "qwen3": _llama_like("Qwen3", **_WIDE_HEADS),
    "llama": _llama_like("Llama", attention_bias=True, mlp_bias=True),
    "mistral": _llama_like("Mistral", sliding_window=4, **_WIDE_HEADS),
    "gemma": _llama_like("Gemma", **_WIDE_HEADS),
    "gemma2": _llama_like("Gemma2", sliding_window=4, query_pre_attn_scalar=12, **_WIDE_HEADS),
    "gemma3": _llama_like("Gemma3", "Gemma3TextConfig", sliding_window=4, query_pre_attn_scalar=12, **_WIDE_HEADS),
    "olmo2": _llama_like("Olmo2"),
    "olmo": _llama_like("Olmo"),
    "phi": _llama_like("Phi"),
    "phi3": _llama_like("Phi3"),
    "smollm3": _llama_like("SmolLM3"),
    "gpt2": _causal("GPT2", **_GPT),
    "gpt_neox": _llama_like("GPTNeoX"),
    "gptj": _causal("GPTJ", **_GPT, rotary_dim=4),
    "opt": _causal(
        "OPT",
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        ffn_dim=64,
        word_embed_proj_dim=32,
        max_position_embeddings=128,
    ),
    "cohere": _llama_like("Cohere", use_qk_norm=True),
    "falcon": _causal(
        "Falcon",
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        parallel_attn=True,
        bias=True,
    ),
    "bloom": _causal("Bloom", vocab_size=VOCABULARY, hidden_size=32, n_layer=LAYERS, n_head=4),
    "exaone4": _llama_like("Exaone4", sliding_window=4),
    "gpt_oss": _llama_like("GptOss", head_dim=8, num_local_experts=3, num_experts_per_tok=2),
    "deepseek_v3": _llama_like(
        "DeepseekV3",
        num_key_value_heads=4,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=12,
        n_routed_experts=4,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
    ),
    "qwen3_next": _llama_like(
        "Qwen3Next",
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["full_attention", "linear_attention", "full_attention"],
    ),
    "opt_post_norm": _causal(
        "OPT",
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        ffn_dim=64,
        word_embed_proj_dim=16,
        max_position_embeddings=128,
        do_layer_norm_before=False,
    ),
    "granite": _llama_like("Granite", residual_multiplier=0.22, embedding_multiplier=12.0, attention_multiplier=0.1),
    "glm4": _llama_like("Glm4", head_dim=8, partial_rotary_factor=0.5),
    "stablelm": _llama_like("StableLm", use_qkv_bias=True),
    "stablelm_parallel": _llama_like("StableLm", use_parallel_residual=True),
    "mixtral": _llama_like("Mixtral", num_local_experts=3, num_experts_per_tok=2),
    "llava": _llava,
    "qwen2_audio": _qwen2_audio,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "gemma3_multimodal": _gemma3_multimodal,
    "omni": _omni,
    "gemma3n": _gemma3n,
    "qwen3_vl": _qwen3_vl,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "internvl": _internvl,
    "mllama": _mllama,
    "smolvlm": _smolvlm,
    "mistral3": _mistral3,
    "voxtral": _voxtral,
    "qwen3_omni": _qwen3_omni,
}
MULTIMODAL = (
    "llava",
    "qwen2_audio",
    "qwen2_vl",
    "qwen2_5_vl",
    "gemma3_multimodal",
    "omni",
    "qwen3_vl",
    "llava_next",
    "llava_onevision",
    "internvl",
    "mllama",
    "smolvlm",
    "mistral3",
    "voxtral",
    "qwen3_omni",
)
