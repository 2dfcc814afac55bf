"""Building a family: module, tokenizer and processor, all with random weights and none from anywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from refusal_plugin.models.tiny import chat_template, randomise, tiny_tokenizer

from .families import Family
from .sizes import PATCHES, VOCABULARY, tiny_values
from .words import special_tokens_of


@dataclass(frozen=True)
class Built:
    """A tiny checkpoint.

    Attributes:
        family: which.
        module: random weights, in evaluation mode.
        tokenizer: with the special tokens of the family.
        processor: of the family's class; None for a text model, or where it cannot be made here.
        why: the reason why there is no processor.
    """

    family: Family
    module: nn.Module
    tokenizer: Any
    processor: Any | None
    why: str = ""

    def save(self, folder: Any) -> None:
        """Write the checkpoint as users find it on a hub."""
        self.module.save_pretrained(folder)
        (self.tokenizer if self.processor is None else self.processor).save_pretrained(folder)


def build(family: Family, seed: int = 0) -> Built:
    """A random model of a family, and what belongs to it."""
    kind = processor_class(family)
    template = chat_template(family.placeholders)
    special = special_tokens_of(kind) if kind is not None else []
    marks = [
        mark for medium, text in family.placeholders.items() if text != _soft(family, medium) for mark in _marks(text)
    ]
    named = {f"{medium}_token": _soft(family, medium) for medium in family.placeholders}
    tokenizer = tiny_tokenizer([*special, *marks, *family.ids.values()], {**named, **family.named}, template)
    values = tiny_values(family.config_class, family.config)
    config = family.config_class(**values)
    processor, why = None, ""
    if kind is not None:
        try:
            processor = _processor(family, kind, tokenizer, config)
            processor.chat_template = template
        except Exception as error:
            if not isinstance(error, ImportError):
                raise
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    _set_ids(config, family, tokenizer, processor)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module: nn.Module = family.model_class(config)
        randomise(module)
    return Built(family, module.eval(), tokenizer, processor, why)


def _marks(text: str) -> list[str]:
    return re.findall(r"<[^<>\s]+>|\[\w+\]", text)


def _soft(family: Family, medium: str) -> str:
    """The token that stands for one piece of a medium: the one in the middle of its placeholder."""
    marks = _marks(family.placeholders[medium])
    return family.soft.get(medium) or marks[len(marks) // 2]


def processor_class(family: Family) -> Any:
    """The family's processor class; None for a text model."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    if not family.placeholders:
        return None
    return getattr(transformers, family.processor_class or PROCESSOR_MAPPING_NAMES[family.model_type])


def _processor(family: Family, kind: Any, tokenizer: Any, config: Any) -> Any:
    parts = {}
    for name in kind.get_attributes():
        if "tokenizer" in name:
            parts[name] = tokenizer
            continue
        part = _part_class(family, name)
        if part is not None:
            medium = "image" if "image" in name else "video" if "video" in name else "audio"
            parts[name] = _part(part, getattr(family, medium), config, medium)
    return kind(**parts, **family.processor)


def _part_class(family: Family, name: str) -> Any:
    """The class of a preprocessor: what the family says, else what transformers' tables say."""
    import transformers
    from transformers.models.auto import feature_extraction_auto, image_processing_auto
    from transformers.utils import is_torchvision_available

    if name in family.parts:
        return getattr(transformers, family.parts[name])
    key = family.parts.get("like", family.model_type)
    if "image" in name:
        found = image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES[key]
        order = ("torchvision", "pil") if is_torchvision_available() else ("pil", "torchvision")
        chosen = next(found[backend] for backend in order if found.get(backend))
    elif "video" in name:
        if not is_torchvision_available():
            raise ImportError("video processors need torchvision")
        chosen = _video_name(key, family)
    else:
        chosen = feature_extraction_auto.FEATURE_EXTRACTOR_MAPPING_NAMES[key]
    return getattr(transformers, chosen)


def _video_name(key: str, family: Family) -> str:
    from transformers.models.auto import video_processing_auto

    found = video_processing_auto.VIDEO_PROCESSOR_MAPPING_NAMES[key]
    return found if isinstance(found, str) else str(found["torchvision"])


def _part(kind: Any, override: Mapping[str, Any], config: Any, medium: str) -> Any:
    """A preprocessor of small images or few sound features."""
    default = kind()
    given: dict[str, Any] = {}
    if medium == "audio":
        if "feature_size" in vars(default) and default.feature_size > 1:
            given["feature_size"] = 16
    else:
        side = PATCHES * (_vision(config, "patch_size") or 14)
        for name, theirs in _SHARED.items():
            size = next((found for other in theirs if (found := _vision(config, other))), None)
            if size and isinstance(getattr(default, name, None), int):
                given[name] = size
        for name in ("size", "crop_size", "max_image_size"):
            size = getattr(default, name, None)
            if size and not isinstance(size, int):
                given[name] = {key: _pixels(key, value, side) for key, value in dict(size).items() if value}
    return kind(**{**given, **override})


def _pixels(key: str, value: int, side: int) -> int:
    """A side in pixels, or an area where the default is one."""
    if value > 20_000 or (key == "shortest_edge" and value > 2_500):
        return side * side // 4 if key == "shortest_edge" else side * side
    return side


_SHARED = {
    "patch_size": ("patch_size",),
    "merge_size": ("spatial_merge_size", "merge_size"),
    "temporal_patch_size": ("temporal_patch_size",),
}
"""What a preprocessor of images has in common with the tower, and what the tower calls it."""


def _vision(config: Any, name: str) -> int | None:
    vision = getattr(getattr(config, "thinker_config", config), "vision_config", None)
    size = getattr(vision, name, None)
    return size if isinstance(size, int) else None


def _set_ids(config: Any, family: Family, tokenizer: Any, processor: Any) -> None:
    """Point the configuration's token ids at the tokenizer's."""
    seen: list[Any] = [config]
    while seen:
        part = seen.pop()
        if any(f"{medium}_token_{end}" in vars(part) for medium in ("image", "audio") for end in ("id", "index")):
            for stem in family.ids:
                vars(part).setdefault(f"{stem}_id", VOCABULARY)
        for name, value in list(vars(part).items()):
            if hasattr(value, "to_dict") and hasattr(value, "model_type"):
                seen.append(value)
            stem = re.fullmatch(r"(\w+_token|image_patch)_(id|index)", name)
            if stem is None or stem[1] in ("bos_token", "eos_token", "pad_token", "unk_token", "decoder_start_token"):
                continue
            found = _id_of(stem[1], family, tokenizer, processor)
            if found is not None:
                setattr(part, name, found)
            elif isinstance(value, int) and value >= VOCABULARY:
                setattr(part, name, 3)  # a token that never comes


def _id_of(stem: str, family: Family, tokenizer: Any, processor: Any) -> int | None:
    word = family.ids.get(stem)
    medium = stem.removesuffix("_token")
    if word is None:
        word = family.soft.get(medium)
    if word is None:
        for owner in (processor, tokenizer):
            found = getattr(owner, f"{stem}_id", None)
            if isinstance(found, int):
                return found
        word = getattr(processor, stem, None) or getattr(tokenizer, stem, None)
    if word is None and medium in family.placeholders:
        word = _soft(family, medium)
    return int(tokenizer.convert_tokens_to_ids(word)) if isinstance(word, str) else None
