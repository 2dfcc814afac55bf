"""The families: what each one has of its own. Everything else follows from its configuration class (see `sizes`)."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """How to build one architecture.

    Attributes:
        model_type: its name in transformers.
        config: what its configuration sets itself.
        head: class of the model; "" for the one that transformers' own table names.
        placeholders: by medium, what the chat template puts where the medium goes; none for a text model.
        soft: by medium, the token that stands for one piece of it where that is not the placeholder.
        named: special tokens that the processor asks the tokenizer for by name.
        ids: tokens of the configuration's `..._token_id`, by name without "_id", where no processor tells.
        image, video, audio, processor: arguments of the preprocessors.
        media: what a user can put in, where that is not what `placeholders` has.
        needs: packages that its classes ask for.
        frames: of a test video.
    """

    model_type: str
    config: Mapping[str, Any] = field(default_factory=dict)
    head: str = ""
    placeholders: Mapping[str, str] = field(default_factory=dict)
    soft: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)
    ids: Mapping[str, str] = field(default_factory=dict)
    image: Mapping[str, Any] = field(default_factory=dict)
    video: Mapping[str, Any] = field(default_factory=dict)
    audio: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    processor_class: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    @property
    def config_class(self) -> Any:
        from transformers import CONFIG_MAPPING

        return CONFIG_MAPPING[self.model_type]

    @property
    def model_class(self) -> Any:
        import transformers
        from transformers.models.auto import modeling_auto as auto

        tables = (
            auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
            auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
            auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        )
        name = self.head or next(table[self.model_type] for table in tables if self.model_type in table)
        return getattr(transformers, name)

    @property
    def hub_id(self) -> str:
        """The checkpoint that transformers' own documentation of the family names."""
        source = inspect.getsource(sys.modules[self.config_class.__module__])
        found = re.search(r"checkpoint=[\"']([\w.-]+/[\w.-]+)[\"']", source)
        return found[1] if found else ""


def _rope(*section: int) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(section or (2, 1, 1))}


_MROPE = {"text_config": {"rope_parameters": _rope()}}
_NOT_DECODERS = frozenset(
    [
        "bart",
        "bert",
        "bert-generation",
        "big_bird",
        "bigbird_pegasus",
        "biogpt",
        "blenderbot",
        "blenderbot-small",
        "camembert",
        "data2vec-text",
        "electra",
        "ernie",
        "marian",
        "mbart",
        "megatron-bert",
        "moshi",
        "musicgen",
        "musicgen_melody",
        "mvp",
        "openai-gpt",
        "pegasus",
        "plbart",
        "prophetnet",
        "reformer",
        "rembert",
        "roberta",
        "roberta-prelayernorm",
        "roc_bert",
        "roformer",
        "trocr",
        "whisper",
        "xglm",
        "xlm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xlnet",
        "xmod",
        "ctrl",
        "cpmant",
        "qwen4_exp_text",
        "gpt-sw3",
        "git",
        "beam",
        "blt",
        "hrm_text",
        "zamba",
        "gemma4_assistant",
        "gemma4_unified_assistant",
    ]
)
"""In transformers' table of causal models, but encoders, halves of encoder-decoders, or of before chat models."""

_GEMMA3N = {
    "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "activation_sparsity_pattern": [0.0] * 3,
}
_TEXT: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 12},
    "mistral": {"head_dim": 12},
    "gemma": {"head_dim": 12},
    "gemma2": {"head_dim": 12, "query_pre_attn_scalar": 12},
    "gemma3_text": {"head_dim": 12, "query_pre_attn_scalar": 12},
    "llama": {"attention_bias": True, "mlp_bias": True},
    "granite": {"residual_multiplier": 0.22, "embedding_multiplier": 12.0, "attention_multiplier": 0.1},
    "cohere": {"use_qk_norm": True},
    "stablelm": {"use_qkv_bias": True},
    "deepseek_v3": {"v_head_dim": 12},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {"head_dim": 8, "qk_rope_head_dim": 8, "qk_head_dim": 16},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "dbrx": {"attn_config": {"rope_theta": 10000.0}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "gemma3n_text": _GEMMA3N,
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "zamba2": {"attention_hidden_size": 64, "attention_head_dim": 16},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
}


def _text() -> dict[str, Family]:
    from transformers.models.auto import modeling_auto as auto

    media = {**auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, **auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES}
    names = [name for name in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in media and name not in _NOT_DECODERS]
    return {name: Family(name, _TEXT.get(name, {})) for name in sorted(names)}


_VISION = {
    "image": "<|vision_start|><|image_pad|><|vision_end|>",
    "video": "<|vision_start|><|video_pad|><|vision_end|>",
}


def _qwen(model_type: str, config: Mapping[str, Any] = _MROPE, **more: Any) -> Family:
    ids = {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
    return Family(model_type, config, placeholders=_VISION, ids=ids, **more)


_IMAGE = {"image": "<image>"}
_PINPOINTS = {"image_grid_pinpoints": [[56, 112], [112, 56]]}
_CLIP = {"vision_config": {"patch_size": 14}}
_SPLIT = {"vision_config": {"patch_size": 16}}
_TILES = {"size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 64}}
_TOWERS = {"vision_config": {}, "audio_config": {}}
_LLAVA = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
_GEMMA = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
_GEMMA_SOUND = {"boa_token": "<start_of_audio>", "eoa_token": "<end_of_audio>", "audio_token": "<audio_soft_token>"}
_DEEP = {
    "text_config": {"rope_parameters": _rope()},
    "vision_config": {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
}
_SOUND = {"feature_size": 16, "chunk_length": 1}
_ENCODER = {"max_source_positions": 50, "num_mel_bins": 16}
_PIXTRAL = {"patch_size": 16, "spatial_merge_size": 2}
_OMNI_VISION = {"image": "<|vision_bos|><|IMAGE|><|vision_eos|>", "video": "<|vision_bos|><|VIDEO|><|vision_eos|>"}
_OMNI = {**_OMNI_VISION, "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>"}
_OMNI_NAMES = {
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "audio_token": "<|AUDIO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
_OMNI_IDS = {
    "vision_start_token": "<|vision_bos|>",
    "vision_end_token": "<|vision_eos|>",
    "audio_start_token": "<|audio_bos|>",
    "audio_end_token": "<|audio_eos|>",
}
_GLM = {"image": "<|begin_of_image|><|image|><|end_of_image|>", "video": "<|begin_of_video|><|video|><|end_of_video|>"}
_GLM_IDS = {
    "image_start_token": "<|begin_of_image|>",
    "image_end_token": "<|end_of_image|>",
    "video_start_token": "<|begin_of_video|>",
    "video_end_token": "<|end_of_video|>",
}

_FAMILIES: tuple[Family, ...] = (
    _qwen("qwen2_vl"),
    _qwen("qwen2_5_vl"),
    _qwen("qwen3_vl", _DEEP),
    _qwen("qwen3_vl_moe", _DEEP, parts={"like": "qwen3_vl"}),
    _qwen("qwen3_5", {**_MROPE, "vision_config": {"num_position_embeddings": 16}}),
    _qwen("qwen3_5_moe", {**_MROPE, "vision_config": {"num_position_embeddings": 16}}),
    Family("llava", _CLIP, placeholders=_IMAGE, processor=_LLAVA),
    Family("vipllava", {**_CLIP, "vision_feature_layers": [-2, -1]}, placeholders=_IMAGE, processor=_LLAVA),
    Family("llava_next", {**_CLIP, **_PINPOINTS}, placeholders=_IMAGE, processor=_LLAVA, image=_PINPOINTS),
    Family(
        "llava_next_video",
        {**_CLIP, **_PINPOINTS},
        placeholders={**_IMAGE, "video": "<video>"},
        processor=_LLAVA,
        image=_PINPOINTS,
    ),
    Family(
        "llava_onevision",
        {**_CLIP, **_PINPOINTS},
        placeholders={**_IMAGE, "video": "<video>"},
        image=_PINPOINTS,
        processor={"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    ),
    Family("video_llava", _CLIP, placeholders={**_IMAGE, "video": "<video>"}, processor=_LLAVA),
    Family(
        "internvl",
        {"vision_config": {"image_size": [56, 56]}},
        placeholders={"image": "<IMG_CONTEXT>", "video": "<video>"},
        processor={"image_seq_length": 4},
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        ids={"image_token": "<IMG_CONTEXT>"},
    ),
    Family(
        "gemma3",
        {"mm_tokens_per_image": 4, "text_config": {"query_pre_attn_scalar": 12, "head_dim": 12}},
        placeholders={"image": "<start_of_image>"},
        soft={"image": "<image_soft_token>"},
        named=_GEMMA,
        processor={"image_seq_length": 4},
    ),
    Family(
        "gemma3n",
        {"text_config": _GEMMA3N, "vision_config": {"hidden_size": 2048}},
        audio={"feature_size": 128},
        placeholders={"image": "<image_soft_token>", "audio": "<audio_soft_token>"},
        named={**_GEMMA, **_GEMMA_SOUND},
        needs=("timm",),
    ),
    Family(
        "gemma4",
        _TOWERS,
        audio={"feature_size": 128},
        placeholders={"image": "<image_soft_token>", "video": "<|video|>", "audio": "<audio_soft_token>"},
        named={**_GEMMA, **_GEMMA_SOUND},
    ),
    Family(
        "gemma4_unified",
        {"vision_config": {}, "audio_config": {"audio_embed_dim": 640}},
        placeholders={"image": "<image_soft_token>", "video": "<|video|>", "audio": "<audio_soft_token>"},
        named={**_GEMMA, **_GEMMA_SOUND},
    ),
    Family("paligemma", placeholders=_IMAGE, image={"image_seq_length": 16}),
    Family("idefics2", placeholders=_IMAGE, named={"image_boundary_token": "<fake_token_around_image>"}),
    Family("idefics3", _SPLIT, placeholders=_IMAGE, image=_TILES, processor={"image_seq_len": 4}),
    Family(
        "smolvlm",
        _SPLIT,
        placeholders={**_IMAGE, "video": "<video>"},
        image=_TILES,
        video=_TILES,
        processor={"image_seq_len": 4},
        needs=("num2words",),
    ),
    Family(
        "mllama",
        {"text_config": {"cross_attention_layers": [1]}, "vision_config": {"vision_output_dim": 64}},
        placeholders={"image": "<|image|>"},
    ),
    Family("mistral3", placeholders={"image": "[IMG]"}, processor=_PIXTRAL),
    Family("mistral_large4", placeholders={"image": "[IMG]"}, processor=_PIXTRAL),
    Family(
        "lighton_ocr",
        placeholders={"image": "<|image_pad|>"},
        named={"image_break_token": "<|vision_pad|>", "image_end_token": "<|vision_end|>"},
        processor=_PIXTRAL,
    ),
    Family(
        "llama4",
        {
            "vision_config": {
                "vision_output_dim": 32,
                "projector_input_dim": 32,
                "projector_output_dim": 32,
                "intermediate_size": 128,
            }
        },
        placeholders={"image": "<|image|>"},
        soft={"image": "<|patch|>"},
    ),
    Family(
        "qwen2_audio",
        {"audio_config": _ENCODER},
        placeholders={"audio": "<|audio_bos|><|AUDIO|><|audio_eos|>"},
        audio=_SOUND,
    ),
    Family(
        "qwen2_5_omni",
        {"enable_audio_output": False, "thinker_config": {"text_config": {"rope_parameters": _rope()}}},
        placeholders=_OMNI,
        named=_OMNI_NAMES,
        ids=_OMNI_IDS,
        audio={"feature_size": 16},
    ),
    Family(
        "qwen2_5_omni_thinker",
        {"text_config": {"rope_parameters": _rope()}},
        placeholders=_OMNI,
        named=_OMNI_NAMES,
        ids=_OMNI_IDS,
        audio={"feature_size": 16},
        processor_class="Qwen2_5OmniProcessor",
        parts={"like": "qwen2_5_omni"},
    ),
    Family(
        "qwen3_omni_moe_thinker",
        _DEEP,
        placeholders=_OMNI,
        named=_OMNI_NAMES,
        ids=_OMNI_IDS,
        audio={"feature_size": 16},
        processor_class="Qwen3OmniMoeProcessor",
        parts={"like": "qwen3_omni_moe"},
    ),
    Family(
        "qwen3_omni_moe",
        {
            "enable_audio_output": False,
            "talker_config": {"text_config": {"shared_expert_intermediate_size": 16}},
            "thinker_config": _DEEP,
        },
        placeholders=_OMNI,
        named=_OMNI_NAMES,
        ids=_OMNI_IDS,
        audio={"feature_size": 16},
    ),
    Family("voxtral", {"audio_config": _ENCODER}, placeholders={"audio": "[AUDIO]"}, audio=_SOUND),
    Family(
        "phi4_multimodal",
        {"audio_config": {"input_size": 80}, "vision_config": {"image_size": 448, "crop_size": 448}},
        image={"size": {"height": 448, "width": 448}},
        audio={"feature_size": 80},
        placeholders={"image": "<|image|>", "audio": "<|audio|>"},
        named={"image_token": "<|image|>", "audio_token": "<|audio|>"},
    ),
    Family("glmasr", placeholders={"audio": "<|pad|>"}),
    Family(
        "qwen3_asr",
        placeholders={"audio": "<|audio_start|><|audio_pad|><|audio_end|>"},
        named={"audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"},
    ),
    Family("granite_speech", placeholders={"audio": "<|audio|>"}),
    Family("granite_speech_plus", placeholders={"audio": "<|audio|>"}),
    Family("fun_asr_nano", {"adaptor_config": {"intermediate_size": 8}}, placeholders={"audio": "<|AUDIO|>"}),
    Family("moss_transcribe_diarize", placeholders={"audio": "<|audio_start|><|audio_pad|><|audio_end|>"}),
    Family(
        "aria",
        {"vision_config": {"image_size": 490, "patch_size": 14}},
        image={"max_image_size": 490},
        placeholders={"image": "<fim_prefix><|img|><fim_suffix>"},
        named={"image_token": "<|img|>"},
    ),
    Family(
        "aya_vision",
        placeholders=_IMAGE,
        processor={"img_size": 56, "patch_size": 14, "downsample_factor": 2},
        soft={"image": "<|IMG_PATCH|>"},
    ),
    Family(
        "cohere2_vision",
        image={"patch_size": 2},
        placeholders={"image": "<|IMG_PATCH|>"},
        named={
            "boi_token": "<|START_OF_IMG|>",
            "eoi_token": "<|END_OF_IMG|>",
            "img_line_break_token": "<|IMG_LINE_BREAK|>",
        },
    ),
    Family(
        "cohere_compass",
        {"text_config": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}}},
        placeholders={"image": "<|IMAGE_PAD|>", "video": "<|VIDEO_PAD|>"},
    ),
    Family(
        "deepseek_vl",
        placeholders={"image": "<image_placeholder>"},
        named={"image_token": "<image_placeholder>"},
        processor={"num_image_tokens": 16},
    ),
    Family(
        "deepseek_vl_hybrid",
        {"high_res_vision_config": {"image_size": 64, "patch_size": 16}},
        image={"high_res_size": {"height": 64, "width": 64}},
        placeholders={"image": "<image_placeholder>"},
        named={"image_token": "<image_placeholder>"},
        processor={"num_image_tokens": 16},
    ),
    Family(
        "ernie4_5_vl_moe",
        {"text_config": {"rope_parameters": _rope(1, 1, 2)}},
        named={
            "image_start_token": "<|IMAGE_START|>",
            "image_end_token": "<|IMAGE_END|>",
            "video_start_token": "<|VIDEO_START|>",
            "video_end_token": "<|VIDEO_END|>",
        },
        placeholders={
            "image": "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
            "video": "<|VIDEO_START|><|VIDEO_PLACEHOLDER|><|VIDEO_END|>",
        },
        video={"draw_on_frames": False},
    ),
    Family("exaone4_5", placeholders=_VISION),
    Family(
        "fuyu",
        image={"size": {"height": 60, "width": 60}},
        placeholders={"image": "|SPEAKER|"},
        soft={"image": "|SPEAKER|"},
        ids={"image_newline_token": "|NEWLINE|"},
    ),
    Family("glm4v", {"text_config": {"rope_parameters": _rope()}}, placeholders=_GLM, ids=_GLM_IDS),
    Family(
        "glm4v_moe",
        {"text_config": {"head_dim": 16, "rope_parameters": _rope()}},
        placeholders=_GLM,
        ids=_GLM_IDS,
        parts={"like": "glm4v"},
    ),
    Family("glm46v", {"text_config": {"rope_parameters": _rope()}}, placeholders=_GLM, ids=_GLM_IDS),
    Family("glm5_next", placeholders=_GLM, ids=_GLM_IDS),
    Family(
        "glm_ocr",
        {"text_config": {"rope_parameters": _rope()}},
        placeholders=_GLM,
        ids=_GLM_IDS,
        processor_class="Glm46VProcessor",
        parts={"like": "glm46v"},
    ),
    Family(
        "hunyuan_vl",
        {
            "text_config": {
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 1, 1]}
            }
        },
        placeholders=_IMAGE,
        named={"image_start_token": "<img>", "image_end_token": "</img>"},
    ),
    Family("hyperclovax_vision_v2", placeholders=_VISION),
    Family(
        "janus",
        placeholders={"image": "<image_placeholder>"},
        named={"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"},
        processor={"num_image_tokens": 16},
    ),
    Family(
        "kimi_k25",
        placeholders={"image": "<|media_start|><|media_pad|><|media_end|>", "video": "<|kimi_k25_video_placeholder|>"},
    ),
    Family("lfm2_vl", placeholders=_IMAGE),
    Family(
        "minicpmv4_6",
        named={
            "image_start_token": "<image>",
            "image_end_token": "</image>",
            "slice_start_token": "<slice>",
            "slice_end_token": "</slice>",
            "image_id_start_token": "<image_id>",
            "image_id_end_token": "</image_id>",
        },
        placeholders={"image": "<|image_pad|>", "video": "<|video_pad|>"},
    ),
    Family(
        "minimax_m3_vl",
        placeholders={"image": "]<]image[>[", "video": "]<]video[>["},
        soft={"image": "]<]image[>[", "video": "]<]video[>["},
        ids={"vision_start_token": "]<]start of image[>[", "vision_end_token": "]<]end of image[>["},
    ),
    Family(
        "molmo2",
        image={"size": {"height": 378, "width": 378}},
        placeholders={"image": "<|image|>", "video": "<|video|>"},
        soft={"image": "<im_patch>"},
        ids={
            "image_patch": "<im_patch>",
            "image_start_token": "<im_start>",
            "low_res_image_start_token": "<low_res_im_start>",
            "image_end_token": "<im_end>",
            "frame_start_token": "<frame_start>",
            "frame_end_token": "<frame_end>",
        },
    ),
    Family(
        "nemotron_h_omni",
        {"vision_config": {"video_temporal_patch_size": 2}},
        parts={"feature_extractor": "ParakeetFeatureExtractor"},
        placeholders={**_IMAGE, "video": "<video>", "audio": "<so_embedding>"},
    ),
    Family(
        "ovis2",
        placeholders=_IMAGE,
        soft={"image": "<IMG_ATOM>"},
        named={"image_token": "<image>"},
        processor={"image_seq_length": 16},
    ),
    Family(
        "paddleocr_vl",
        {"text_config": {"rope_parameters": _rope()}},
        placeholders={"image": "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"},
    ),
    Family(
        "qianfan_ocr",
        placeholders=_IMAGE,
        soft={"image": "<IMG_CONTEXT>"},
        named={"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"},
        processor={"image_seq_length": 4},
    ),
    Family("step3p7", {"text_config": {"sliding_window": 8}}, placeholders={"image": "<im_patch>"}),
    Family("video_llama_3", placeholders={"image": "<|image_pad|>", "video": "<|video_pad|>"}),
    Family("muse_glimmer", placeholders={"image": "<|patch|>", "video": "<|video|>"}),
    Family(
        "inkling_mm_model",
        placeholders={
            "image": "<|content_image|><|unused_200054|>",
            "audio": "<|content_audio_input|><|unused_200053|>",
        },
    ),
)
MEDIA: dict[str, Family] = {family.model_type: family for family in _FAMILIES}


def families() -> dict[str, Family]:
    """Every family by its name in transformers: text first."""
    return {**_text(), **MEDIA}
