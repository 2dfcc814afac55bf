"""What a model takes: modalities, context length, chat template.

A modality needs two things: a tower in the model, known from its configuration, and a processor that turns the medium
into tensors. Text alone needs neither.
"""

from collections.abc import Iterator
from typing import Any

from ..prompts.prompt import Modality
from .processors import processor_class_for, reads

_LONGEST = 10**9  # tokenizers without a limit say 1e30


def text_config(config: Any) -> Any:
    """The configuration of the language part (the configuration itself for a text model)."""
    find = getattr(config, "get_text_config", None)
    return find() if callable(find) else config


def configurations(config: Any) -> Iterator[Any]:
    """A configuration and those nested in it, outermost first, but for the language part.

    An assembled model (Qwen-Omni: thinker, talker, vocoder) keeps towers and placeholders one level further down.
    """
    language = text_config(config)
    waiting = [config]
    while waiting:
        part = waiting.pop(0)
        yield part
        nested = [getattr(part, name, None) for name in getattr(part, "sub_configs", {})]
        waiting += [inner for inner in nested if inner is not None and inner is not language]


def architecture_modalities(config: Any) -> tuple[Modality, ...]:
    """The modalities a model has towers for, in the order text, image, video, audio.

    Video counts where the model knows a video placeholder token, or where its processor in transformers has a part for
    clips (InternVL and SmolVLM write a clip as images); else a model with images takes no video, though it may be given
    several images.
    """
    found: list[Modality] = ["text"]
    if _has(config, "vision_config", "vision_tower", "image_token_id", "image_token_index"):
        found.append("image")
    if _has(config, "video_token_id", "video_token_index") or ("image" in found and _reads_clips(config)):
        found.append("video")
    if _has(config, "audio_config", "audio_token_id", "audio_token_index"):
        found.append("audio")
    return tuple(found)


def _reads_clips(config: Any) -> bool:
    kind = processor_class_for(config)
    return kind is not None and "video_processor" in kind.get_attributes()


def usable_modalities(config: Any, processor: Any | None) -> tuple[Modality, ...]:
    """The modalities that can be put in here: the model has a tower and the processor has a part for them.

    A processor of Hugging Face is looked at for its parts. Any other one may say what it takes with an attribute
    `modalities`, and without that is trusted with all the model has towers for.
    """
    towers = architecture_modalities(config)
    if processor is None:
        return ("text",)
    said = getattr(processor, "modalities", None)
    if said is None and not any(kind.__module__.startswith("transformers.") for kind in type(processor).__mro__):
        said = towers
    if said is not None:
        return tuple(modality for modality in towers if modality == "text" or modality in said)
    return tuple(m for m in towers if m == "text" or reads(processor, m))


def context_length(config: Any, tokenizer: Any | None) -> int | None:
    """The longest prompt in tokens: from the configuration, else the tokenizer; None if neither sets a limit."""
    language = text_config(config)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(language, name, None)
        if isinstance(value, int) and 0 < value < _LONGEST:
            return value
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if isinstance(limit, int | float) and 0 < limit < _LONGEST else None


def chat_template(processor: Any | None, tokenizer: Any | None) -> str | None:
    """The chat template in force: the processor's, else the tokenizer's; of several the one called "default"."""
    for owner in (processor, tokenizer):
        template = getattr(owner, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        if isinstance(template, str) and template:
            return template
    return None


def head_count(config: Any) -> int:
    """Query heads per layer from the configuration; 0 if it names none, or a different number for each layer."""
    language = text_config(config)
    for name in ("num_attention_heads", "n_head", "n_heads", "num_heads"):
        value = getattr(language, name, None)
        if isinstance(value, int):
            return value
    return 0


def injected_between_layers(config: Any, skipped: int = 0) -> str | None:
    """What the model writes into the stream between the layers when it is given media, in words; None for most.

    Qwen3-VL adds features of the vision tower to the first layers (DeepStack), Llama 3.2 Vision runs blocks of
    cross-attention; no prompt of text shows it.

    Args:
        config: the model's configuration.
        skipped: blocks of the decoder that a text prompt passes by.
    """
    if skipped:
        return f"{skipped} blocks of cross-attention write between the layers when there is an image"
    found = (getattr(part, "deepstack_visual_indexes", None) for part in configurations(config))
    indexes = next(filter(None, found), None)
    if not indexes:
        return None
    return f"DeepStack adds vision features between the first {len(indexes)} layers, which no head or MLP writes"


def _has(config: Any, *names: str) -> bool:
    return any(getattr(part, name, None) is not None for part in configurations(config) for name in names)
