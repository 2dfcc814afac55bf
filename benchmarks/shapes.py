"""The models that are measured, each with a pristine twin that nothing has wrapped, and prompts of mixed length.

Random weights cost what trained weights cost. Words are whole tokens, and the template begins with a system text of two
dozen tokens, as Qwen2.5's does.
"""

import gc
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

import refusal_plugin as rp
from refusal_plugin.prompts import Prompt, PromptSet

SIZES: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1024,
    },
    "0.1B": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "7B": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
}
WORDS = 1000
SYSTEM = " ".join(f"w{k}" for k in range(20))
PARTS = (
    "{{ bos_token }}{% for message in messages %}{{ ' <' + message['role'] + '> ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}{{ '<image> ' }}{% endif %}{% endfor %}{% endif %}{{ ' <eos> ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
TEMPLATE = (
    "{{ bos_token }}<system> " + SYSTEM + " <eos> {% for message in messages %}"
    "{{ '<' + message['role'] + '> ' + message['content'] + ' <eos> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@dataclass(frozen=True, eq=False)
class Shape:
    """A model under measurement.

    Attributes:
        name: in the table.
        model: as `load` returns it.
        bare: the same weights in a module that was never traced or hooked.
    """

    name: str
    model: Any = field(repr=False)
    bare: nn.Module = field(repr=False)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return int(rp.anatomy(self.model).n_layers)

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return int(rp.anatomy(self.model).d_model)


@cache
def organism() -> Shape:
    """The embedded model, on the CPU also where there is a GPU."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    from refusal_plugin.organism import checkpoint_path

    bare = Thinker.from_pretrained(checkpoint_path("organism"), dtype=torch.float32)
    return Shape("organism", rp.load("organism", device="cpu"), bare.eval().requires_grad_(False))


@cache
def qwen(size: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Shape:
    """A random Qwen2 of a size in `SIZES`; it never ends an answer early."""
    twins = []
    for _ in range(2):
        twins.append(random_qwen(size, device=device, dtype=dtype).eval().requires_grad_(False))
    kind = "" if dtype == torch.float32 else f" {str(dtype).removeprefix('torch.')}"
    name = size + kind + ("" if device == "cpu" else f" on {device}")
    return Shape(name, rp.load(twins[0], tokenizer=words_tokenizer()), twins[1])


@cache
def llava(size: str = "0.1B", *, tower: int = 6, side: int = 32) -> Shape:
    """A random LLaVA: a tower of some blocks over side x side patches, each a token of a decoder of a size."""
    import transformers as hugging

    tokenizer = words_tokenizer(PARTS, ("<image>",))
    picture, patch = 14 * side, 14
    images = {"size": {"shortest_edge": picture}, "crop_size": {"height": picture, "width": picture}}
    kind = getattr(hugging, "CLIPImageProcessorPil", hugging.CLIPImageProcessor)
    processor = hugging.LlavaProcessor(  # type: ignore[no-untyped-call]
        kind(**images),
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        chat_template=PARTS,
        num_additional_image_tokens=1,
    )
    vision = hugging.CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=tower,
        num_attention_heads=12,
        image_size=picture,
        patch_size=patch,
    )
    text = hugging.Qwen2Config(**SIZES[size], tie_word_embeddings=True, max_position_embeddings=4096)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    config = hugging.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image_id, tie_word_embeddings=True
    )
    twins = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            twins.append(hugging.LlavaForConditionalGeneration(config).eval().requires_grad_(False))
    return Shape(f"{size} with {side * side:,} image tokens", rp.load(twins[0], processor=processor), twins[1])


def pictures(n: int, *, seed: int = 0) -> list[Any]:
    """Random pictures."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(n)]


def random_qwen(
    size: str, layers: int | None = None, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Random weights, the same every time; of the size's number of layers or another one, drawn on the device."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = SIZES[size] | ({} if layers is None else {"num_hidden_layers": layers})
    config = Qwen2Config(**sizes, tie_word_embeddings=True, max_position_embeddings=4096)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        module: nn.Module = Qwen2ForCausalLM(config).to(dtype)
    module.generation_config.eos_token_id = None  # type: ignore[union-attr]
    module.generation_config.pad_token_id = 0  # type: ignore[union-attr]
    return module


def words_tokenizer(template: str = TEMPLATE, more: tuple[str, ...] = ()) -> Any:
    """A word-level tokenizer of `WORDS` words, and more special ones."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>", "<system>", *more]
    words = {word: k for k, word in enumerate([*special, *(f"w{k}" for k in range(WORDS))])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>", "<system>", "<eos>", *more],
        model_max_length=4096,
    )
    tokenizer.chat_template = template
    return tokenizer


def word_prompts(n: int, *, shortest: int = 8, longest: int = 40, seed: int = 0) -> PromptSet:
    """Half "harmful", half "benign" prompts of random words: the first hundred words belong to the harmful ones."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        harmful = k % 2 == 0
        length = int(rng.integers(shortest, longest + 1))
        words = rng.integers(0, 100, length) if harmful else rng.integers(100, WORDS, length)
        made.append(
            Prompt(
                " ".join(f"w{w}" for w in words),
                role="harmful" if harmful else "benign",
                pair=f"{seed}-{k // 2}",
                id=f"{seed}-{k}",
            )
        )
    return PromptSet(made)


def mixed(shape: Shape, n: int) -> PromptSet:
    """Text prompts of mixed length for a shape."""
    if shape.name == "organism":
        from refusal_plugin.organism.data import organism_prompts

        return PromptSet(list(organism_prompts(split="test", modality="text"))[:n])
    return word_prompts(n)


def forget() -> None:
    """Free the models."""
    organism.cache_clear()
    qwen.cache_clear()
    llava.cache_clear()
    gc.collect()
