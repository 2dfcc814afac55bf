"""Tiny multimodal checkpoints as they lie on a hub: weights, tokenizer, and preprocessor files written by hand.

    save("qwen2_5_vl", folder)

The files are written rather than saved by a processor, because a processor with a video part cannot even be made where
torchvision is missing, and that is one of the cases to test. `MEDIA` says what each family takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from refusal_plugin.prompts import Prompt
from tests.support import torchvision
from tests.support.tiny import FAMILIES, WORDS, randomise, tiny_tokenizer

HAS_VIDEO = not torchvision.enable()
"""Whether video processors can be made here; asked before anything of transformers imports torchvision."""


@dataclass(frozen=True)
class Media:
    """What a checkpoint of a family has beside its weights.

    Attributes:
        takes: its modalities beside text.
        tokens: texts of token ids that stand for something else than a word.
        placeholders: what the chat template writes for a medium.
        files: preprocessor files by name.
        named: tokens that the tokenizer is asked for by name.
    """

    takes: tuple[str, ...]
    tokens: Mapping[int, str]
    placeholders: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]]
    named: Mapping[str, str] = field(default_factory=dict)


_QWEN_TOKENS = {60: "<|image_pad|>", 61: "<|video_pad|>", 62: "<|vision_start|>", 63: "<|vision_end|>"}
_QWEN_PLACES = {kind: f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("image", "video")}
_QWEN_PATCHES = {
    "patch_size": 4,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 64,
    "max_pixels": 1024,
    "size": {"shortest_edge": 64, "longest_edge": 1024},
}


def _qwen(name: str, tokens: Mapping[int, str] = _QWEN_TOKENS) -> Media:
    image = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": f"{name}Processor", **_QWEN_PATCHES}
    return Media(("image", "video"), tokens, _QWEN_PLACES, {"preprocessor_config.json": image})


def _omni(name: str) -> Media:
    sound = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 8, "n_fft": 400, "hop_length": 160}
    both = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": name, **_QWEN_PATCHES, **sound}
    tokens = {
        56: "<|AUDIO|>",
        57: "<|IMAGE|>",
        58: "<|VIDEO|>",
        59: "<|audio_bos|>",
        60: "<|audio_eos|>",
        61: "<|vision_bos|>",
        62: "<|vision_eos|>",
    }
    places = {
        "image": "<|vision_bos|><|IMAGE|><|vision_eos|>",
        "video": "<|vision_bos|><|VIDEO|><|vision_eos|>",
        "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>",
    }
    words = dict(zip(_OMNI_NAMES, tokens.values(), strict=True))
    return Media(("image", "video", "audio"), tokens, places, {"preprocessor_config.json": both}, words)


_OMNI_NAMES = (
    "audio_token",
    "image_token",
    "video_token",
    "audio_bos_token",
    "audio_eos_token",
    "vision_bos_token",
    "vision_eos_token",
)
_WHISPER = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 8}
_SQUARE = {"height": 8, "width": 8}

MEDIA: dict[str, Media] = {
    "llava": Media(
        ("image",),
        {60: "<image>"},
        {"image": "<image>"},
        {
            "preprocessor_config.json": {
                "image_processor_type": "CLIPImageProcessor",
                "processor_class": "LlavaProcessor",
                "size": {"shortest_edge": 8},
                "crop_size": _SQUARE,
            },
            "processor_config.json": {
                "processor_class": "LlavaProcessor",
                "patch_size": 4,
                "vision_feature_select_strategy": "default",
                "num_additional_image_tokens": 1,
            },
        },
    ),
    "llava_next": Media(
        ("image",),
        {60: "<image>"},
        {"image": "<image>"},
        {
            "preprocessor_config.json": {
                "image_processor_type": "LlavaNextImageProcessor",
                "processor_class": "LlavaNextProcessor",
                "size": {"shortest_edge": 8},
                "crop_size": _SQUARE,
                "image_grid_pinpoints": [[8, 16], [16, 8], [16, 16]],
            },
            "processor_config.json": {
                "processor_class": "LlavaNextProcessor",
                "patch_size": 4,
                "vision_feature_select_strategy": "default",
                "num_additional_image_tokens": 1,
            },
        },
    ),
    "llava_onevision": Media(
        ("image", "video"),
        {60: "<image>", 61: "<video>"},
        {"image": "<image>", "video": "<video>"},
        {
            "preprocessor_config.json": {
                "image_processor_type": "LlavaOnevisionImageProcessor",
                "processor_class": "LlavaOnevisionProcessor",
                "size": _SQUARE,
                "image_grid_pinpoints": [[8, 16], [16, 8], [16, 16]],
            },
            "video_preprocessor_config.json": {
                "video_processor_type": "LlavaOnevisionVideoProcessor",
                "size": _SQUARE,
                "processor_class": "LlavaOnevisionProcessor",
            },
            "processor_config.json": {
                "processor_class": "LlavaOnevisionProcessor",
                "num_image_tokens": 4,
                "vision_feature_select_strategy": "full",
            },
        },
    ),
    "qwen2_vl": _qwen("Qwen2VL"),
    "qwen2_5_vl": _qwen("Qwen2_5_VL"),
    "qwen3_vl": _qwen("Qwen3VL"),
    "internvl": Media(
        ("image", "video"),
        {59: "<video>", 60: "<IMG_CONTEXT>", 61: "<img>", 62: "</img>"},
        {"image": "<IMG_CONTEXT>", "video": "<video>"},
        {
            "preprocessor_config.json": {
                "image_processor_type": "GotOcr2ImageProcessor",
                "processor_class": "InternVLProcessor",
                "size": _SQUARE,
                "crop_to_patches": False,
            },
            "video_preprocessor_config.json": {
                "video_processor_type": "InternVLVideoProcessor",
                "size": _SQUARE,
                "processor_class": "InternVLProcessor",
            },
            "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": 1},
        },
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    ),
    "qwen2_audio": Media(
        ("audio",),
        {60: "<|AUDIO|>", 61: "<|audio_bos|>", 62: "<|audio_eos|>"},
        {"audio": "<|audio_bos|><|AUDIO|><|audio_eos|>"},
        {
            "preprocessor_config.json": {
                **_WHISPER,
                "processor_class": "Qwen2AudioProcessor",
                "chunk_length": 1,
                "hop_length": 500,
            }
        },
    ),
    "mllama": Media(
        ("image",),
        {60: "<|image|>"},
        {"image": "<|image|>"},
        {
            "preprocessor_config.json": {
                "image_processor_type": "MllamaImageProcessor",
                "processor_class": "MllamaProcessor",
                "size": _SQUARE,
                "max_image_tiles": 2,
            }
        },
    ),
    "gemma3_multimodal": Media(
        ("image",),
        {60: "<image_soft_token>", 61: "<start_of_image>", 62: "<end_of_image>"},
        {"image": "<start_of_image>"},
        {
            "preprocessor_config.json": {
                "image_processor_type": "Gemma3ImageProcessor",
                "processor_class": "Gemma3Processor",
                "size": {"height": 16, "width": 16},
            },
            "processor_config.json": {"processor_class": "Gemma3Processor", "image_seq_length": 4},
        },
        {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
    ),
    "smolvlm": Media(
        ("image", "video"),
        {59: "<video>", 60: "<image>", 61: "<fake_token_around_image>", 62: "<global-img>", 63: "<end_of_utterance>"},
        {"image": "<image>", "video": "<video>"},
        {
            "preprocessor_config.json": {
                "image_processor_type": "SmolVLMImageProcessor",
                "processor_class": "SmolVLMProcessor",
                "size": {"longest_edge": 8},
                "max_image_size": {"longest_edge": 8},
                "do_image_splitting": False,
                "video_sampling": {"video_size": {"longest_edge": 8}, "fps": 1, "max_frames": 8},
            },
            "processor_config.json": {"processor_class": "SmolVLMProcessor", "image_seq_len": 1},
        },
        {
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "video_token": "<video>",
        },
    ),
    "mistral3": Media(
        ("image",),
        {60: "[IMG]", 61: "[IMG_BREAK]", 62: "[IMG_END]"},
        {"image": "[IMG]"},
        {
            "preprocessor_config.json": {
                "image_processor_type": "PixtralImageProcessor",
                "processor_class": "PixtralProcessor",
                "size": {"longest_edge": 16},
                "patch_size": 4,
            },
            "processor_config.json": {"processor_class": "PixtralProcessor", "patch_size": 4, "spatial_merge_size": 2},
        },
    ),
    "voxtral": Media(
        ("audio",),
        {60: "[AUDIO]", 61: "[BEGIN_AUDIO]"},
        {"audio": "[BEGIN_AUDIO][AUDIO]"},
        {"preprocessor_config.json": {**_WHISPER, "processor_class": "VoxtralProcessor"}},
    ),
    "omni": _omni("Qwen2_5OmniProcessor"),
    "qwen3_omni": _omni("Qwen3OmniMoeProcessor"),
}
ASSEMBLED = {
    "omni": ("qwen2_5_omni", "Qwen2_5OmniModel"),
    "qwen3_omni": ("qwen3_omni_moe", "Qwen3OmniMoeForConditionalGeneration"),
}
"""Families that lie on a hub as one part of an assembled model: its type and architecture."""


def media_tokenizer(family: str) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer with the family's placeholders, and a chat template that takes content as parts."""
    media = MEDIA[family]
    words = [media.tokens.get(index, word) for index, word in enumerate(WORDS)]
    places = "".join(
        f"{{% elif p['type'] == '{kind}' %}}{{{{ '{text} ' }}}}" for kind, text in media.placeholders.items()
    )
    template = (
        "{{ bos_token }}{% for message in messages %}{{ ' <' + message['role'] + '> ' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for p in message['content'] %}"
        "{% if p['type'] == 'text' %}{{ p['text'] }}" + places + "{% endif %}{% endfor %}{% endif %}{{ ' <eos> ' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
    )
    return tiny_tokenizer(template, words, media.named)


def save(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint of a family and return its folder."""
    media = MEDIA[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = FAMILIES[family]()
        randomise(module)
    module.save_pretrained(folder)
    media_tokenizer(family).save_pretrained(folder)
    for name, content in media.files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def assemble(family: str, folder: Path) -> Path:
    """Turn a checkpoint into that of the assembled model, as on a hub: the part is its "thinker"."""
    model_type, architecture = ASSEMBLED[family]
    part = json.loads((folder / "config.json").read_text())
    whole = {"model_type": model_type, "architectures": [architecture], "thinker_config": part}
    (folder / "config.json").write_text(json.dumps(whole))
    tensors = load_file(folder / "model.safetensors")
    renamed = {f"thinker.{name}": value for name, value in tensors.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def nest(folder: Path) -> Path:
    """Rewrite the preprocessor files into one `processor_config.json`, as transformers 5 saves a processor."""
    names = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
    files = {name: json.loads((folder / name).read_text()) for name in names if (folder / name).is_file()}
    first = files.pop("preprocessor_config.json")
    kinds = {"image_processor_type": "image_processor", "feature_extractor_type": "feature_extractor"}
    nested: dict[str, Any] = {part: first for key, part in kinds.items() if key in first}
    video = files.pop("video_preprocessor_config.json", None)
    if video is not None or first.get("image_processor_type") == "Qwen2VLImageProcessor":
        nested["video_processor"] = video or {**first, "video_processor_type": "Qwen2VLVideoProcessor"}
    whole = {"processor_class": first["processor_class"], **files.pop("processor_config.json", {}), **nested}
    for name in names:
        (folder / name).unlink(missing_ok=True)
    (folder / "processor_config.json").write_text(json.dumps(whole))
    return folder


def prompt(kind: str, text: str = "w1 w2 w3", seed: int = 0, **size: Any) -> Prompt:
    """A prompt with a random medium: an image of 16 x 16, a clip of `frames`, or a sound of `seconds`."""
    draw = np.random.default_rng(seed)
    frames, seconds = size.get("frames", 4), size.get("seconds", 0.5)
    side = (size.get("height", 16), size.get("width", 16), 3)
    made: dict[str, dict[str, Any]] = {
        "text": {},
        "image": {"image": draw.integers(0, 256, side, dtype=np.uint8)},
        "video": {"video": draw.integers(0, 256, (frames, *side), dtype=np.uint8)},
        "audio": {"audio": (draw.normal(size=int(seconds * 16_000)) * 0.1).clip(-1, 1).astype(np.float32)},
    }
    return Prompt(text, id=f"{kind}-{seed}", **made[kind])
