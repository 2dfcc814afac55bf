"""Tiny random checkpoints of an architecture, as they lie on a hub: weights, tokenizer, preprocessor files.

    tiny_checkpoint("qwen3_vl", folder)        load(folder) then loads it as it would load the real one

`tiny.toml` names the classes, sizes, special tokens and preprocessor files of each; a token in a configuration stands
for its id. Width 32, three layers; norms and biases are random and not trivial, so that code that forgets one fails.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ModelError

BASE = ("<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>", "<system>")
SIZE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "max_position_embeddings": 8192,
}
IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@cache
def architectures() -> dict[str, Any]:
    """What `tiny.toml` says, by the name of the architecture."""
    return tomllib.loads((files(__package__) / "tiny.toml").read_text(encoding="utf-8"))


def tiny_checkpoint(name: str, folder: str | Path, *, seed: int = 0) -> Path:
    """Write a random checkpoint of an architecture into a folder.

    Args:
        name: a table of `tiny.toml`.
        folder: where it goes.
        seed: of the weights.

    Returns:
        the folder.

    Raises:
        ModelError: no such architecture.
    """
    import transformers

    known = architectures()
    if name not in known:
        raise ModelError(f"make a tiny {name!r}", "no such architecture", f"use one of {', '.join(known)}")
    facts, target = known[name], Path(folder)
    places: dict[str, str] = facts.get("places", {})
    named: dict[str, str] = facts.get("named", {})
    tokenizer = tiny_tokenizer(facts.get("special", ()), named, chat_template(places))
    sizes = {**SIZE, **IDS, **facts.get("sizes", {})}
    given = {key: _ids(value, tokenizer) for key, value in facts.get("config", {}).items()}
    values = {**given, **IDS, "text_config": sizes} if places else {**sizes, **given}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = getattr(transformers, facts["model"])(getattr(transformers, facts["configuration"])(**values))
        randomise(module)
    # A placeholder of a medium that the model itself says would stand for a medium that is not there.
    module.get_output_embeddings().weight.data[len(BASE) + 257 :] = 0.0
    module.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for file, content in facts.get("files", {}).items():
        (target / f"{file}.json").write_text(json.dumps(content), encoding="utf-8")
    return target


def tiny_tokenizer(
    special: Iterable[str] = (), named: Mapping[str, str] | None = None, template: str | None = ""
) -> Any:
    """A byte-level tokenizer: 7 special tokens of its own, 256 bytes, then those of the architecture.

    Args:
        special: further special tokens.
        named: special tokens that processors ask the tokenizer for by an attribute ("image_token": "<image>").
        template: chat template; None for a base model, "" for `chat_template()`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

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
    make: Any = PreTrainedTokenizerFast
    tokenizer = make(
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


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    """Give norms random gains and every vector random values, so that no gain is 1 and no bias 0."""
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if name.endswith("weight") else 0.0))
        else:
            parameter.mul_(3.0)  # the usual 0.02 leaves attention nearly uniform and contributions tiny


def _ids(value: Any, tokenizer: Any) -> Any:
    """A token of the tokenizer as its id, anything else as it is."""
    return tokenizer.convert_tokens_to_ids(value) if isinstance(value, str) and value.startswith("<") else value
