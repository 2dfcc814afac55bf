"""A real aligned model with ears, put together from two public checkpoints and the projector of this package.

Whisper's encoder, a projector and an aligned decoder make transformers' `AudioFlamingo3ForConditionalGeneration`. Only
the projector is new (1.26 million parameters, float16; `spoken_projector/` holds it and its model card); encoder and
decoder stay as they were published, so that what the model refuses it refuses by its own alignment.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from .probe import one_line

NAME = "spoken"
FILES = Path(__file__).parent / "spoken_projector"
WINDOW = 10
"""Seconds of sound the encoder takes at once; longer sounds are cut into windows, as the class does."""


@dataclass(frozen=True)
class Part:
    """A public checkpoint, pinned.

    Attributes:
        repository: its hub id.
        revision: commit on the hub.
        files: what is taken of it.
    """

    repository: str
    revision: str
    files: tuple[str, ...]


DECODER = Part(
    "Qwen/Qwen2.5-Coder-0.5B-Instruct",
    "ea3f2471cf1b1f0db85067f1ef93848e38e88c25",
    ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
)
ENCODER = Part(
    "openai/whisper-base",
    "e37978b90ca9030d5170a5c07aadb050351a65bb",
    ("config.json", "model.safetensors", "preprocessor_config.json"),
)

AUDIO_TOKEN = "<|vision_pad|>"
"""A placeholder of the decoder's own vocabulary that its text never uses: nothing is added to its embeddings."""
CHAT = """{%- if messages[0].role != 'system' %}<|im_start|>system
You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>
{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content %}
{%- if part.type == 'audio' %}{{ '<|vision_pad|>\n' }}{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
"""The decoder's own template without tools; a sound stands before the text of its turn, on a line of its own."""


def projector_tensors(path: Path = FILES / "projector.safetensors") -> dict[str, Tensor]:
    """The projector's weights: `linear_1` and `linear_2`, float16."""
    from safetensors.torch import load_file

    return load_file(path)


def assemble(
    decoder: Path, encoder: Path, projector: Mapping[str, Tensor], dtype: torch.dtype = torch.bfloat16
) -> tuple[Any, Any]:
    """The model and its processor from the folders of its parts, in memory.

    Args:
        decoder: folder of the decoder's checkpoint.
        encoder: folder of Whisper base.
        projector: weights of the projector.
        dtype: of all weights.

    Returns:
        an `AudioFlamingo3ForConditionalGeneration` and an `AudioFlamingo3Processor`.

    Raises:
        ModelError: a part is not what the projector was made for.
    """
    import transformers
    from safetensors.torch import load_file

    hugging: Any = transformers  # its own annotations miss options that its classes take

    text, speech = (json.loads((folder / "config.json").read_text()) for folder in (decoder, encoder))
    asked = f"assemble {NAME!r}"
    for what, written, wanted in (
        ("decoder", text, ("qwen2", 896)),
        ("encoder", speech, ("whisper", 512)),
    ):
        found = (written.get("model_type"), written.get("hidden_size") or written.get("d_model"))
        if found != wanted:
            raise ModelError(asked, f"the {what} is {found[0]} of width {found[1]}", f"give {wanted[0]} of {wanted[1]}")
    tokenizer = hugging.AutoTokenizer.from_pretrained(decoder)
    extractor = hugging.WhisperFeatureExtractor(feature_size=speech["num_mel_bins"], chunk_length=WINDOW)
    processor = hugging.AudioFlamingo3Processor(extractor, tokenizer, chat_template=CHAT, audio_token=AUDIO_TOKEN)
    audio = {
        "num_mel_bins": speech["num_mel_bins"],
        "num_hidden_layers": speech["encoder_layers"],
        "num_attention_heads": speech["encoder_attention_heads"],
        "intermediate_size": speech["encoder_ffn_dim"],
        "hidden_size": speech["d_model"],
        "max_source_positions": WINDOW * 50,
    }
    config = hugging.AudioFlamingo3Config(
        audio_config={"model_type": "audioflamingo3_encoder"} | audio,
        text_config=text | {"tie_word_embeddings": False},
        audio_token_id=tokenizer.convert_tokens_to_ids(AUDIO_TOKEN),
        tie_word_embeddings=False,
    )
    weights: dict[str, Tensor] = {}
    for name, tensor in load_file(decoder / "model.safetensors").items():
        weights[name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name] = tensor
    weights.setdefault("lm_head.weight", weights["model.language_model.embed_tokens.weight"].clone())
    for name, tensor in load_file(encoder / "model.safetensors").items():
        if name.startswith("model.encoder."):
            weights[name.replace("model.encoder", "model.audio_tower")] = tensor
    positions = "model.audio_tower.embed_positions.weight"
    weights[positions] = weights[positions][: WINDOW * 50].clone()
    weights |= {f"model.multi_modal_projector.{name}": tensor for name, tensor in projector.items()}
    with torch.device("meta"):
        model = hugging.AudioFlamingo3ForConditionalGeneration(config)
    try:
        model.load_state_dict({name: tensor.to(dtype) for name, tensor in weights.items()}, assign=True)
    except RuntimeError as error:
        raise ModelError(asked, f"the parts do not fit ({one_line(error)})", "give the pinned checkpoints") from error
    for module in model.modules():  # what is computed from the configuration, not read, is still on "meta"
        if hasattr(module, "inv_freq"):
            rotary: Any = module
            fresh = type(rotary)(config.text_config)
            rotary.inv_freq, rotary.original_inv_freq = fresh.inv_freq, fresh.inv_freq.clone()
    model.generation_config = hugging.GenerationConfig.from_pretrained(decoder)
    return model.eval().requires_grad_(False), processor


def assembled_folder(decoder: Path | None = None, encoder: Path | None = None) -> Path:
    """The assembled model as a checkpoint folder in the user's cache, made once.

    Args:
        decoder: folder of the decoder's checkpoint; None fetches the pinned one from the hub.
        encoder: folder of Whisper base; likewise.

    Raises:
        ModelError: a part cannot be had, or does not fit.
    """
    projector = FILES / "projector.safetensors"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refusal-plugin"
    folder = cache / f"{NAME}-{hashlib.sha256(projector.read_bytes()).hexdigest()[:12]}"
    given = decoder is not None or encoder is not None
    if (folder / "config.json").is_file() and not given:
        return folder
    model, processor = assemble(decoder or _fetched(DECODER), encoder or _fetched(ENCODER), projector_tensors())
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)
    return folder


def _fetched(part: Part) -> Path:
    """The pinned files of a part, from the hub or its cache; an interrupted download goes on where it stopped."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(part.repository, revision=part.revision, allow_patterns=list(part.files)))
    except Exception as error:
        found = f"{part.repository} cannot be had here ({type(error).__name__}: {one_line(error)})"
        do = "connect to the hub once, or name folders of both parts: refusal-plugin assemble DECODER ENCODER"
        raise ModelError(f"load {NAME!r}", found, do) from error
