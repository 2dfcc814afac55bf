"""Prompts as text and as tokens, many in one call of the chat template and of the tokenizer; media are not read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        if prompt.modality not in spec.modalities:
            found = f"it holds {prompt.modality}, the model takes {', '.join(spec.modalities)}"
            raise PromptError(asked_of(prompt), found, "filter by modality")
    rendered = render_all(spec, prompts, controls or Controls.of(spec), system=system, suffix=suffix, raw=raw)
    if not spec.tokenizer.is_fast:
        do = "load the model with its fast tokenizer"
        raise PromptError(asked_of(prompts[0]), "the tokenizer gives no character offsets", do)
    made: dict[int, Text] = {}
    for adds in (True, False):
        places = [place for place, text in enumerate(rendered) if text.add_special_tokens is adds]
        if places:
            found = spec.tokenizer(
                [rendered[place].text for place in places],
                add_special_tokens=adds,
                return_offsets_mapping=offsets,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            where = found["offset_mapping"] if offsets else [[]] * len(places)
            for place, ids, spans in zip(places, found["input_ids"], where, strict=True):
                made[place] = Text(prompts[place], rendered[place], ids, spans)
    return [made[place] for place in range(len(prompts))]


def asked_of(prompt: Prompt) -> str:
    """What errors say was asked."""
    return f"encode prompt {prompt.id!r}"
