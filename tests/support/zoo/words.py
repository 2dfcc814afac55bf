"""One tokenizer for every family: bytes as words, no merges, the special tokens a family asks for; and its template."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

BASE = ("<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>", "<system>")
_SPECIAL = re.compile(r"[\"'](<\|?[A-Za-z_][\w/.-]*\|?>|<\|[\w-]+\|>|</?\w+>|\[[A-Z_]+\])[\"']")


def tiny_tokenizer(
    special: Iterable[str] = (), named: Mapping[str, str] | None = None, template: str | None = ""
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: 7 special tokens of its own, 256 bytes, then those of the family.

    Args:
        special: further special tokens.
        named: special tokens that processors ask the tokenizer for by an attribute ("image_token": "<image>").
        template: chat template; None for a base model, "" for `chat_template()`.
    """
    named = dict(named or {})
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters.insert(24 - len(BASE), "[AUDIO]")  # Voxtral's processor asks for the token of number 24
    vocabulary = {word: index for index, word in enumerate((*BASE, *letters))}
    byte_level = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    byte_level.decoder = decoders.ByteLevel()
    more = [
        token for token in dict.fromkeys((*BASE[4:], "[AUDIO]", *special, *named.values())) if token not in BASE[:4]
    ]
    byte_level.add_special_tokens(more)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=more,
        extra_special_tokens=named,
        model_max_length=2048,
    )
    tokenizer.chat_template = chat_template({}) if template == "" else template
    return tokenizer


def chat_template(placeholders: Mapping[str, str]) -> str:
    """A chat template that takes content as text or as parts, with a placeholder for each medium."""
    media = "".join(
        f"{{% elif part['type'] == '{medium}' %}}{{{{ '{text}' }}}}" for medium, text in placeholders.items()
    )
    return (
        "<bos>{% for message in messages %}<{{ message['role'] }}>"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}" + media + "{% endif %}{% endfor %}{% endif %}<eos>"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )


def special_tokens_of(kind: type) -> list[str]:
    """Strings in the source of a class's module that look like special tokens.

    The source is read from its file: where a package is missing, a class may be a stand-in and its module not imported.
    """
    found = find_spec(kind.__module__)
    source = Path(found.origin).read_text(encoding="utf-8") if found is not None and found.origin else ""
    return [token for token in dict.fromkeys(_SPECIAL.findall(source)) if token not in ("<s>", "</s>")][:160]
