"""Tokenizers and chat templates small enough to read, and the InputSpec of a model that uses them."""

from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from refusal_plugin.models import module_inputs

WORDS = """how do i bake bread kill a process ? . please answer the image video clip now user assistant
system""".split()  # noqa: SIM905
PARTS_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }} "
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] | trim }}"
    "{% else %}<{{ part['type'] }}> {% endif %}{% endfor %}{% endif %} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant {% endif %}"
)
STRING_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<|start|>user {{ m['content'] | trim }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def word_tokenizer(template: str | None = PARTS_TEMPLATE) -> PreTrainedTokenizerFast:
    """One token per word; special tokens for turns, media, the unknown."""
    special = ["<|pad|>", "<|unk|>", "<|start|>", "<|end|>", "<image>", "<video>", "<audio>"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *WORDS])}, unk_token="<|unk|>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|start|>", "<image>", "<video>", "<audio>"],
        chat_template=template,
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as in most hub models, with a template made of ordinary characters."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    template = (
        "{% for m in messages %}USER: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}BOT:{% endif %}"
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>", chat_template=template)


def tiny(module: torch.nn.Module, tokenizer: Any, processor: Any = None, **limits: Any) -> SimpleNamespace:
    """A module with what encodes its prompts."""
    module.eval().requires_grad_(False)
    return SimpleNamespace(
        module=module, tokenizer=tokenizer, source=module_inputs(module, tokenizer, processor, **limits)
    )
