"""From a prompt to the text the model reads: the chat template, and where in it the instruction stands.

The template is rendered with a sentinel in place of the instruction, once for all prompts of a kind: what surrounds the
sentinel is template, and what stands between the same surroundings in the real rendering is the instruction. So no
template has to be known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import PromptError
from .controls import Controls
from .input_spec import InputSpec, input_spec_of
from .prompt import Prompt

SENTINEL = "Zq7instructionZq7"
_PRINTED_LIST = (f"'text': '{SENTINEL}", f'"text": "{SENTINEL}')


@dataclass(frozen=True)
class Rendered:
    """A prompt as the model's text.

    Attributes:
        text: the whole text, with one placeholder where a medium goes.
        start: index of the instruction's first character.
        end: index after its last character (a suffix is part of the instruction).
        add_special_tokens: whether the tokenizer is to add the special tokens itself; not where the template has.
    """

    text: str
    start: int
    end: int
    add_special_tokens: bool

    @property
    def instruction(self) -> str:
        """What the user typed, as it stands in the text."""
        return self.text[self.start : self.end]


def render(
    model: Any, prompt: Prompt, *, system: str | None = None, suffix: str | None = None, raw: bool = False
) -> Rendered:
    """Renders one prompt with the model's chat template, up to and including the assistant header.

    Args:
        model: a model loaded by `refusal_plugin.models.load`.
        prompt: the prompt; its medium is not read.
        system: system text; None leaves the template its own default.
        suffix: text appended inside the user turn, after one space.
        raw: no chat template, the text alone; text prompts only.

    Raises:
        PromptError: no chat template; a template without a system role, or one that drops the medium, or drops or
            changes the system text or the instruction; a text that holds a control token of the model.
    """
    spec = input_spec_of(model)
    return render_all(spec, [prompt], Controls.of(spec), system=system, suffix=suffix, raw=raw)[0]


def render_all(
    spec: InputSpec,
    prompts: Sequence[Prompt],
    controls: Controls,
    *,
    system: str | None = None,
    suffix: str | None = None,
    raw: bool = False,
) -> list[Rendered]:
    """Renders several prompts at once, each as `render` does alone.

    Raises:
        PromptError: as `render`; where several prompts are unfit, not always for the first of them.
    """
    texts = [prompt.text if suffix is None else f"{prompt.text} {suffix}" for prompt in prompts]
    for prompt, text in zip(prompts, texts, strict=True):
        _refuse(prompt, text, controls, system, raw)
    if raw:
        return [Rendered(text, 0, len(text), add_special_tokens=True) for text in texts]
    owner = next((part for part in (spec.processor, spec.tokenizer) if getattr(part, "chat_template", None)), None)
    if owner is None:
        asked = f"render prompt {prompts[0].id!r}"
        raise PromptError(asked, "the model has no chat template", "use raw=True, or load a chat model")
    around = {prompt.modality: _around(spec, prompt, owner, system) for prompt in prompts}
    turns = [
        _conversation(spec, prompt, text, system, around[prompt.modality].as_parts)
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    return [
        _found(spec, prompt, owner, system, text, full, why)
        for prompt, text, (full, why) in zip(prompts, texts, _rendered_all(owner, turns), strict=True)
    ]


def _refuse(prompt: Prompt, text: str, controls: Controls, system: str | None, raw: bool) -> None:
    """Raises PromptError for what is wrong before a template is asked."""
    asked = f"render prompt {prompt.id!r}"
    controls.refuse_text(text, f"{asked}: its text")
    if system is not None:
        controls.refuse_text(system, f"{asked}: its system text")
    if raw and system is not None:
        raise PromptError(asked, "raw=True has no place for a system text", "put it into the text")
    if raw and prompt.medium is not None:  # what must surround a placeholder, only the template knows
        raise PromptError(asked, f"raw=True has no place for its {prompt.modality}", "use a model with a template")


def _found(
    spec: InputSpec, prompt: Prompt, owner: Any, system: str | None, text: str, full: str | None, why: str
) -> Rendered:
    """The instruction in a template's text."""
    asked = f"render prompt {prompt.id!r}"
    around = _around(spec, prompt, owner, system)
    if full is not None and around.bare is not None and not around.fits(full):  # a template may tell the time
        around = _around(spec, prompt, owner, system, anew=True)
    bare, why, template = around.bare, why or around.why, f"the chat template of {_name(owner)}"
    if around.lost:
        do = "drop the system text, or load the model with another template"
        raise PromptError(asked, f"{template} {around.lost} the system text", do)
    if bare is None or full is None:
        raise PromptError(asked, f"{template} fails ({why})", "drop the system text, or use raw=True")
    before, found, after = bare.partition(SENTINEL)
    if not found or SENTINEL in after:
        raise PromptError(asked, f"{template} does not show the user's text once", "use raw=True")
    inner = full[len(before) : len(full) - len(after)]
    if full != before + inner + after or inner.strip() != text.strip():
        raise PromptError(asked, f"{template} changes with the user's text", "reword the text, or use raw=True")
    return Rendered(full, len(before), len(before) + len(inner), _tokenizer_adds(spec, full))


@dataclass(frozen=True)
class _Around:
    """What a template puts around the user's text, as `SENTINEL` shows it.

    Attributes:
        bare: the text with `SENTINEL` in place of the user's; None where the template fails.
        as_parts: whether the template takes content as a list of parts.
        why: why it fails.
        lost: what the template does with the system text if it is not left whole: "drops", "changes"; else "".
    """

    bare: str | None
    as_parts: bool
    why: str
    lost: str

    def fits(self, full: str) -> bool:
        before, _, after = (self.bare or "").partition(SENTINEL)
        return full.startswith(before) and full.endswith(after)


_KNOWN: WeakKeyDictionary[Any, dict[tuple[str, str, str | None], _Around]] = WeakKeyDictionary()
"""By processor or tokenizer: rendering the template once per prompt instead of twice."""


def _around(spec: InputSpec, prompt: Prompt, owner: Any, system: str | None, *, anew: bool = False) -> _Around:
    try:
        known = _KNOWN.setdefault(owner, {})
    except TypeError:  # a processor that cannot be hashed or referred to weakly
        known = {}
    key = (str(owner.chat_template), prompt.modality, system)
    if anew or key not in known:
        # Older templates take one string: given parts they fail, each in its own way, or print the list as it is.
        as_parts = True
        bare, why = _rendered(owner, _conversation(spec, prompt, SENTINEL, system, as_parts))
        if bare is None or SENTINEL not in bare or any(mark in bare for mark in _PRINTED_LIST):
            as_parts = False
            bare, why = _rendered(owner, _conversation(spec, prompt, SENTINEL, system, as_parts))
        lost = "" if bare is None or system is None else _lost(spec, prompt, owner, system, as_parts)
        known[key] = _Around(bare, as_parts, why, lost)
    return known[key]


def _lost(spec: InputSpec, prompt: Prompt, owner: Any, system: str, as_parts: bool) -> str:
    """What becomes of the system text: "" where it stands whole, but for blanks around it, where any other would stand.

    A template can drop it, put its own in its place, cut it, or filter words: seen in the place that a sentinel takes.
    """
    own = "Zq7systemZq7"
    shown, _ = _rendered(owner, _conversation(spec, prompt, SENTINEL, own, as_parts))
    if shown is None or own not in shown:
        return "drops"
    for _ in range(2):  # a template may tell the time, which may pass between two renderings
        full, _why = _rendered(owner, _conversation(spec, prompt, SENTINEL, system, as_parts))
        for left in (system, system.strip(), system.lstrip(), system.rstrip()):
            if full == shown.replace(own, left):
                return ""
        shown, _ = _rendered(owner, _conversation(spec, prompt, SENTINEL, own, as_parts))
        if shown is None:
            break
    return "changes"


def _name(owner: Any) -> str:
    """What errors call the holder of a template."""
    named = getattr(owner, "name_or_path", "") or getattr(getattr(owner, "tokenizer", None), "name_or_path", "")
    return str(named) or type(owner).__name__


def _conversation(
    spec: InputSpec, prompt: Prompt, text: str, system: str | None, as_parts: bool
) -> list[dict[str, object]]:
    """The turns before the answer, the user's content as a list of parts or as one string."""
    user: object = _placeholder(spec, prompt) + text
    before: object = system
    if as_parts:
        media = [{"type": prompt.modality}] if prompt.medium is not None else []
        user = [*media, {"type": "text", "text": text}]
        before = [{"type": "text", "text": system}]
    turns: list[dict[str, object]] = [] if system is None else [{"role": "system", "content": before}]
    return [*turns, {"role": "user", "content": user}]


def _rendered(owner: Any, messages: list[dict[str, object]]) -> tuple[str | None, str]:
    """The template's text, or None and the reason why it fails."""
    try:
        return str(owner.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)), ""
    except Exception as error:
        return None, " ".join(str(error).split())[:160]


def _rendered_all(owner: Any, conversations: list[list[dict[str, object]]]) -> list[tuple[str | None, str]]:
    """The same for several conversations: in one call where that works, which takes half of the time."""
    if len(conversations) > 1:
        try:
            found = owner.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)
        except Exception:  # one of them fails, or the template's owner takes one at a time
            found = None
        if isinstance(found, list) and len(found) == len(conversations) and all(isinstance(t, str) for t in found):
            return [(text, "") for text in found]
    return [_rendered(owner, turns) for turns in conversations]


def _placeholder(spec: InputSpec, prompt: Prompt) -> str:
    """The placeholder of the prompt's medium and a line break; "" for a text prompt or if none is known."""
    if prompt.modality not in spec.media_ids:
        return ""
    return f"{spec.tokenizer.convert_ids_to_tokens(spec.media_ids[prompt.modality])}\n"


def _tokenizer_adds(spec: InputSpec, text: str) -> bool:
    """Whether the tokenizer is still to add its special tokens to a rendered text: as transformers itself decides.

    A tokenizer's chat template holds them. A processor adds them unless the text opens with the first of them.
    """
    if spec.processor is None:
        return False
    first = spec.tokenizer.bos_token
    return first is None or not text.startswith(first)
