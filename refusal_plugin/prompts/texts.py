"""Prompts as text and as tokens, many in one call of the chat template and of the tokenizer; media are not read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import PromptError
from .chat import Rendered, render_all
from .controls import Controls
from .input_spec import InputSpec
from .prompt import Prompt


@dataclass(frozen=True)
class Text:
    """A prompt's rendered text and its tokens, placeholders as single tokens.

    Attributes:
        prompt: whose text it is.
        rendered: the text.
        ids: its token ids.
        offsets: the characters of each token, (begin, end); empty where they were not asked for.
    """

    prompt: Prompt
    rendered: Rendered
    ids: list[int]
    offsets: list[tuple[int, int]]


def texts_of(
    spec: InputSpec,
    prompts: Sequence[Prompt],
    controls: Controls | None = None,
    *,
    system: str | None = None,
    suffix: str | None = None,
    raw: bool = False,
    offsets: bool = False,
) -> list[Text]:
    """Prompts as text and as tokens, media unread; in one call of the tokenizer.

    Args:
        spec: what encoding needs to know about the model.
        prompts, system, suffix, raw: as for `encode`.
        controls: the model's control tokens, where they are known already.
        offsets: whether the tokens' characters are wanted.

    Raises:
        PromptError: as for `encode`, where that does not need the media.
    """
    for prompt in prompts:
        if any(part.kind not in spec.modalities for part in prompt.media):
            found = f"it holds {prompt.modality}, the model takes {', '.join(spec.modalities)}"
            raise PromptError(asked_of(prompt), found, "filter by modality")
    rendered = render_all(spec, prompts, controls or Controls.of(spec), system=system, suffix=suffix, raw=raw)
    fast = getattr(spec.tokenizer, "is_fast", False)
    made: dict[int, Text] = {}
    for adds in (True, False):
        places = [place for place, text in enumerate(rendered) if text.add_special_tokens is adds]
        if places:
            asked = {"return_offsets_mapping": offsets, "return_token_type_ids": False} if fast else {}
            found = spec.tokenizer(
                [rendered[place].text for place in places],
                add_special_tokens=adds,
                return_attention_mask=False,
                **asked,
            )
            where = found["offset_mapping"] if offsets and fast else [[]] * len(places)
            if offsets and not fast:
                each = zip(places, found["input_ids"], strict=True)
                where = [_spans(spec.tokenizer, rendered[n].text, ids, prompts[n]) for n, ids in each]
            for place, ids, spans in zip(places, found["input_ids"], where, strict=True):
                made[place] = Text(prompts[place], rendered[place], ids, spans)
    return [made[place] for place in range(len(prompts))]


def _spans(tokenizer: Any, text: str, ids: list[int], prompt: Prompt) -> list[tuple[int, int]]:
    """The characters of each token, for a tokenizer that does not tell: what every token adds to the decoded text.

    A token that stands for part of a character adds nothing until the last of them.
    """
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    ends, read = [], 0
    for n in range(len(ids)):
        shown = str(tokenizer.decode(ids[: n + 1], **options))
        # A token at the beginning that the text does not spell (a "begin of sequence" the tokenizer adds) has no place.
        head = str(tokenizer.decode(ids[:1], **options)) if not text.startswith(shown) else ""
        shown = shown.removeprefix(head)
        whole = shown.rstrip("\ufffd")
        if not text.startswith(whole):
            do = "load the model with a fast tokenizer (tokenizer.json)"
            raise PromptError(asked_of(prompt), "the tokenizer gives no character offsets and changes the text", do)
        read = max(read, len(whole))
        ends.append(read)
    return list(zip([0, *ends], ends, strict=False))


def asked_of(prompt: Prompt) -> str:
    """What errors say was asked."""
    return f"encode prompt {prompt.id!r}"


def common_beginning(left: Sequence[int], right: Sequence[int]) -> int:
    """Number of tokens with which both begin."""
    shorter = min(len(left), len(right))
    return next((k for k in range(shorter) if left[k] != right[k]), shorter)
