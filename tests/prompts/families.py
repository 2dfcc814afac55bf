"""Processors of families that read video, tiny and without a checkpoint, with templates of one line."""

from collections.abc import Callable
from typing import Any

import pytest
from prompt_models import PARTS_TEMPLATE, WORDS
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """One token per word, digit and mark; the special tokens are single ones."""
    marks = [*"0123456789.:<>\n", "seconds", "Time", "s", "Frame", "from", "Ċ"]
    names = ["<|pad|>", "<|unk|>", "<|start|>", "<|end|>", *special]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*names, *WORDS, *marks])}, unk_token="<|unk|>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\d|[.:<>]"), "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|start|>", *special],
        extra_special_tokens=named,
        chat_template=None,
    )


def template(token: str) -> str:
    """The chat template of the other tests, with a family's own placeholder for a video."""
    return PARTS_TEMPLATE.replace("<{{ part['type'] }}> ", token)


SMALL = {"shortest_edge": 8 * 8, "longest_edge": 64 * 64 * 400}
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def qwen(name: str, **settings: Any) -> Any:
    import transformers

    words = tokenizer(*VISION, image_token="<|image_pad|>", video_token="<|video_pad|>")
    own = {"Qwen2_5_VL": "Qwen2VL", "Qwen3VL": "Qwen3VL"}[name]
    video = getattr(transformers, f"{own}VideoProcessor")(patch_size=8, size=SMALL, **settings)
    image = transformers.Qwen2VLImageProcessor(patch_size=8, size=SMALL)
    made = getattr(transformers, f"{name}Processor")
    return made(image, words, video, chat_template=template("<|vision_start|><|video_pad|><|vision_end|>"))


def qwen_omni() -> Any:
    import transformers

    names = {
        "image_token": "<|IMAGE|>",
        "video_token": "<|VIDEO|>",
        "audio_token": "<|AUDIO|>",
        "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    }
    return transformers.Qwen2_5OmniProcessor(
        transformers.Qwen2VLImageProcessor(patch_size=8, size=SMALL),
        transformers.Qwen2VLVideoProcessor(patch_size=8, size=SMALL),
        transformers.WhisperFeatureExtractor(),
        tokenizer(*names.values(), **names),
        chat_template=template("<|vision_bos|><|VIDEO|><|vision_eos|>"),
    )


def glm() -> Any:
    import transformers

    names = (
        "<|image|>",
        "<|video|>",
        "<|begin_of_image|>",
        "<|end_of_image|>",
        "<|begin_of_video|>",
        "<|end_of_video|>",
    )
    words = tokenizer(*names, image_token="<|image|>", video_token="<|video|>")
    return transformers.Glm46VProcessor(
        transformers.Glm46VImageProcessor(patch_size=8, size=SMALL),
        words,
        transformers.Glm46VVideoProcessor(patch_size=8, size=SMALL),
        chat_template=template("<|begin_of_video|><|video|><|end_of_video|>"),
    )


def llava_onevision(**settings: Any) -> Any:
    import transformers

    square = {"height": 16, "width": 16}
    return transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=[[16, 16]]),
        tokenizer("<image>", "<video>", image_token="<image>", video_token="<video>"),
        transformers.LlavaOnevisionVideoProcessor(size=square, **settings),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=template("<video> "),
    )


def internvl(**settings: Any) -> Any:
    import transformers

    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    square = {"height": 16, "width": 16}
    return transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(size=square, crop_to_patches=False),
        tokenizer(*names.values(), **names),
        transformers.InternVLVideoProcessor(size=square, **settings),
        image_seq_length=4,
        chat_template=template("<video> "),
    )


def video_llama() -> Any:
    import transformers

    return transformers.VideoLlama3Processor(
        transformers.VideoLlama3ImageProcessor(patch_size=8, size=SMALL),
        tokenizer("<image>", "<video>", image_token="<image>", video_token="<video>"),
        transformers.VideoLlama3VideoProcessor(patch_size=8, size=SMALL),
        chat_template=template("<video> "),
    )


def smolvlm() -> Any:
    import transformers

    pytest.importorskip("num2words", reason="num2words is not installed, which SmolVLM's processor asks for")

    names = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    size = {"longest_edge": 16}
    return transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(size=size, max_image_size=size),
        tokenizer("<video>", *names.values(), **names, video_token="<video>"),
        transformers.SmolVLMVideoProcessor(
            size=size,
            max_image_size=size,
            num_frames=64,
            fps=1,
            video_sampling={"max_frames": 64, "fps": 1, "video_size": size},
        ),
        image_seq_len=4,
        chat_template=template("<video> "),
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "qwen2.5-vl": lambda: qwen("Qwen2_5_VL"),
    "qwen3-vl": lambda: qwen("Qwen3VL"),
    "qwen2.5-omni": qwen_omni,
    "glm-4.6v": glm,
    "videollama3": video_llama,
    "smolvlm": smolvlm,
    "internvl of 8 frames": lambda: internvl(num_frames=8, do_sample_frames=True, initial_shift=True),
    "llava-onevision": llava_onevision,
    "llava-onevision of 8 frames": lambda: llava_onevision(num_frames=8, do_sample_frames=True),
}
