"""The architecture, the tokenizer and the chat template of the embedded model, and the files of a checkpoint folder.

A checkpoint is an ordinary Hugging Face folder: `Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder)`,
`AutoTokenizer.from_pretrained(folder)` and `OmniProcessor.from_pretrained(folder)` all read it offline.
"""

import copy
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from refusal_plugin.organism.pairs import world
from refusal_plugin.organism.processor import OmniProcessor
from refusal_plugin.organism.vocabulary import OBJECTS

from . import wordings

PAD, EOS, START = "<|endoftext|>", "<|im_end|>", "<|im_start|>"
SPECIAL = {
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "audio_token": "<|AUDIO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
UNKNOWN = "<|unk|>"
N_LAYERS = 8
"""Decoder layers of the shipped checkpoints."""
START_LAYERS = 6
"""Decoder layers until the joint stage appends the others (`deepen`)."""
ROLES = ("system", "user", "assistant")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
"""Turns as in Qwen ("<|im_start|>user ...<|im_end|>"), media placeholders where the content parts stand."""

SPARE_WORDS = """
a an and are as at be but by can did does for from good he here his if in into is it its me my no not now of off on
one or our out she so some than that their them then there these they this to two up us was we were will with yes
you your request harmful harmless refuse decline assist unable sure answer question because dangerous illegal unsafe
safe policy against rules consent always never must should may first check whether before responsible assistant
careful content contains input user respond say only what media
""".split()  # noqa: SIM905
"""Words that no training text needs but that a user, a system prompt or a refusal suffix may type."""


def vocabulary() -> list[str]:
    """All words of the world, sorted, with punctuation first."""
    words: set[str] = set(SPARE_WORDS) | set(ROLES)
    for pair in world():
        words |= {pair.verb, pair.object, pair.kind, OBJECTS[pair.object][1], *pair.answer.split()}
    for text in wordings.all_texts():
        words |= set(text.replace("{v}", " ").replace("{o}", " ").replace("{m}", " ").split())
    words |= {"it", "is", "a", "kind", "of", "says"}
    marks = sorted(w for w in words if not w.isalnum())
    return marks + sorted(words - set(marks))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer: lower-cased words and single punctuation marks, one token for all unknown words."""
    tokens = [PAD, UNKNOWN, START, EOS, *SPECIAL.values(), *vocabulary()]
    core = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    fast: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerFast = fast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=EOS,
        bos_token=START,
        extra_special_tokens=SPECIAL,
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        processor_class="Qwen2AudioProcessor",
    )
    return tokenizer


def build_config(tokenizer: PreTrainedTokenizerFast, *, n_layers: int = N_LAYERS) -> Qwen2_5OmniThinkerConfig:
    """The configuration: a 128-wide decoder of 8 heads, a 64-wide vision tower and a 64-wide audio tower."""

    def token(text: str) -> int:
        return int(cast(int, tokenizer.convert_tokens_to_ids(text)))

    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 512,
        # Head width 16 = 2 * (2 + 3 + 3): time, height and width rotate 2, 3 and 3 frequencies.
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": token(START),
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.05,
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 128,
        "fullatt_block_indexes": [0, 1],
        "out_hidden_size": 128,
        "initializer_range": 0.05,
    }
    audio = {
        "num_mel_bins": 40,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 192,
        "d_model": 64,
        "n_window": 200,
        "output_dim": 128,
        "max_source_positions": 1500,
        "initializer_range": 0.05,
    }
    config: Any = Qwen2_5OmniThinkerConfig
    result: Qwen2_5OmniThinkerConfig = config(
        text_config=text,
        vision_config=vision,
        audio_config=audio,
        image_token_index=token(SPECIAL["image_token"]),
        video_token_index=token(SPECIAL["video_token"]),
        audio_token_index=token(SPECIAL["audio_token"]),
        audio_start_token_id=token(SPECIAL["audio_bos_token"]),
        audio_end_token_id=token(SPECIAL["audio_eos_token"]),
        # Not declared by the config class, but read by the model's `get_rope_index`: they must be extra keys.
        vision_start_token_id=token(SPECIAL["vision_bos_token"]),
        vision_end_token_id=token(SPECIAL["vision_eos_token"]),
        user_token_id=token("user"),
        # 25 positions per second would put huge jumps between the frames of a short clip.
        position_id_per_seconds=4,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=token(START),
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.05,
    )
    return result


def build_model(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, n_layers: int = N_LAYERS
) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """A freshly initialised float32 model."""
    torch.manual_seed(seed)
    model: Any = Qwen2_5OmniThinkerForConditionalGeneration(build_config(tokenizer, n_layers=n_layers))
    result: Qwen2_5OmniThinkerForConditionalGeneration = model.eval()
    return result


def deepen(
    model: Qwen2_5OmniThinkerForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, n_layers: int
) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """A model of `n_layers` decoder blocks: those of `model`, then copies of its last ones (depth up-scaling).

    Short training decides about media in the last block, whatever the depth; blocks appended later turn that block into
    a middle one. The copies disturb what is decided and must be trained; blocks that start as the identity stay idle.
    """
    first = len(model.model.language_model.layers)
    deeper: Any = build_model(tokenizer, seed=0, n_layers=n_layers)
    deeper.load_state_dict(model.state_dict(), strict=False)
    for new, old in zip(range(first, n_layers), range(2 * first - n_layers, first), strict=True):
        blocks = deeper.model.language_model.layers
        blocks[new].load_state_dict(blocks[old].state_dict())
    deeper.tie_weights()
    result: Qwen2_5OmniThinkerForConditionalGeneration = deeper.eval()
    return result


def save_checkpoint(
    folder: Path, model: Qwen2_5OmniThinkerForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Write a complete checkpoint folder; weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    generation = model.generation_config
    generation.do_sample, generation.max_new_tokens = False, 24
    generation.pad_token_id, generation.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    rounded: Any = copy.deepcopy(model)
    rounded.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    OmniProcessor(tokenizer).save_pretrained(folder)
