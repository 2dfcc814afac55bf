"""From a prompt to the text the model reads: the chat template, and where in it each text of the conversation stands.

The template is rendered with a sentinel in place of every text, once for all prompts of a kind: what surrounds the
sentinels is template, and what stands between the same surroundings in the real rendering are the texts. So no template
has to be known.

A given beginning of the answer follows, word for word, what the template opens the answer with and the blanks that it
puts there in a finished one. That is what transformers' `continue_final_message` renders, but for templates that
rewrite finished answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

from ..errors import PromptError
from .controls import Controls
from .conversation import Kind, Part, Turn, asked_turn
from .input_spec import InputSpec, input_spec_of
from .prompt import GIVEN, Prompt
from .thinking import MARKS

SENTINEL = "Zq{}instructionZq{}"
_MARK = re.compile(r"Zq(\d+)instructionZq\1")
_PRINTED_LIST = re.compile(r"""['"]text['"]: ['"]Zq\d+instructionZq""")
Form: TypeAlias = Literal["parts", "mixed", "string"]
FORMS: tuple[Form, ...] = ("parts", "mixed", "string")
"""How a template takes contents: as lists of parts; as strings where there is text alone; as strings."""


@dataclass(frozen=True)
class Span:
    """Where one text stands.

    Attributes:
        turn: number of its turn among the prompt's messages; -1 for a system text that the prompt itself has not.
        start: index of its first character.
        end: index after its last character (a suffix is part of the text).
    """

    turn: int
    start: int
    end: int


@dataclass(frozen=True)
class Rendered:
    """A prompt as the model's text.

    Attributes:
        text: the whole text, with one placeholder where a medium goes.
        spans: where the texts of the conversation stand, in their order.
        asked: number of the turn that is answered: the user's last.
        add_special_tokens: whether the tokenizer is to add the special tokens itself; not where the template has.
    """

    text: str
    spans: tuple[Span, ...]
    asked: int
    add_special_tokens: bool

    @property
    def end(self) -> int:
        """Index after the last character of the instruction."""
        return max(span.end for span in self.spans if span.turn == self.asked)

    @property
    def instruction(self) -> str:
        """The text of the user's last turn, as it stands in the whole, its pieces one a line."""
        return "\n".join(self.text[span.start : span.end] for span in self.spans if span.turn == self.asked)


@dataclass(frozen=True)
class _Asked:
    """A prompt as it is asked.

    Attributes:
        prompt: whose it is.
        turns: its turns, a further system text and a suffix put in, without the beginning of the answer.
        given: what the template gets beside them.
    """

    prompt: Prompt
    turns: tuple[Turn, ...]
    given: dict[str, Any]

    @property
    def texts(self) -> list[tuple[int, str]]:
        """Number of the turn and text, of every text."""
        return [(n, part.value) for n, turn in enumerate(self.turns) for part in turn.parts if part.kind == "text"]

    @property
    def shape(self) -> tuple[Any, ...]:
        """What a template's text depends on beside the texts."""
        kinds = tuple((turn.role, tuple(part.kind for part in turn.parts)) for turn in self.turns)
        return kinds, json.dumps(self.given, sort_keys=True), bool(self.prompt.prefill)

    @property
    def name(self) -> str:
        return f"render prompt {self.prompt.id!r}"

    def called(self, turn: int) -> str:
        """What errors call the text of a turn."""
        role = self.turns[turn].role
        return "user's" if turn == len(self.turns) - 1 else "system" if role == "system" else f"turn {turn + 1}'s"


def render(
    model: Any, prompt: Prompt, *, system: str | None = None, suffix: str | None = None, raw: bool = False
) -> Rendered:
    """Renders one prompt with the model's chat template, up to and including the assistant header.

    Args:
        model: a model loaded by `refusal_plugin.models.load`.
        prompt: the prompt; its media are not read.
        system: system text, in front of the prompt's own; None leaves that, or the template's default.
        suffix: text appended inside the last user turn, after one space.
        raw: no chat template, the text alone; text prompts of one user turn only.

    Raises:
        PromptError: no chat template; a template without a system role, or one that drops a medium, or drops or
            changes a text of the conversation, or takes no tools, no documents or no word about thinking; a text that
            holds a control token of the model.
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
    every = [_asked(prompt, system, suffix) for prompt in prompts]
    for asked in every:
        _refuse(asked, controls, system, raw)
    if raw:
        return [Rendered(text, (Span(0, 0, len(text)),), 0, True) for asked in every for _, text in asked.texts]
    owner = next((part for part in (spec.processor, spec.tokenizer) if getattr(part, "chat_template", None)), None)
    if owner is None:
        raise PromptError(every[0].name, "the model has no chat template", "use raw=True, or load a chat model")
    arounds = [_around(spec, asked, owner) for asked in every]
    turns = [_messages(spec, asked.turns, around.form) for asked, around in zip(every, arounds, strict=True)]
    full = _rendered_all(owner, turns, [asked.given for asked in every])
    return [_found(spec, asked, owner, text, why) for asked, (text, why) in zip(every, full, strict=True)]


def _asked(prompt: Prompt, system: str | None, suffix: str | None) -> _Asked:
    turns = list(prompt.turns[: asked_turn(prompt.turns) + 1])
    if suffix is not None:
        parts = list(turns[-1].parts)
        last = max(n for n, part in enumerate(parts) if part.kind == "text")
        parts[last] = Part("text", f"{parts[last].value} {suffix}")
        turns[-1] = Turn("user", tuple(parts))
    if system is not None:
        own = turns[0].role == "system"
        told = f"{system}\n\n{turns[0].text}" if own else system
        turns = [Turn("system", (Part("text", told),)), *turns[own:]]
    given = {name: getattr(prompt, name) for name in GIVEN if getattr(prompt, name) is not None}
    if "thinking" in given:
        given["enable_thinking"] = given.pop("thinking")
    return _Asked(prompt, tuple(turns), given)


def _refuse(asked: _Asked, controls: Controls, system: str | None, raw: bool) -> None:
    """Raises PromptError for what is wrong before a template is asked."""
    for turn, text in asked.texts:
        what = {"user's": "its", "system": "its system"}.get(asked.called(turn), f"its {asked.called(turn)}")
        controls.refuse_text(text, f"{asked.name}: {what} text")
    controls.refuse_text(MARKS.sub("", asked.prompt.prefill), f"{asked.name}: the beginning of its answer")
    if raw and system is not None:
        raise PromptError(asked.name, "raw=True has no place for a system text", "put it into the text")
    if raw and asked.prompt.media:  # what must surround a placeholder, only the template knows
        found = f"raw=True has no place for its {asked.prompt.modality}"
        raise PromptError(asked.name, found, "use a model with a template")
    if raw and (len(asked.prompt.turns) > 1 or len(asked.texts) > 1 or asked.given):
        raise PromptError(asked.name, "raw=True has place for one text", "put it all into the text")


def _found(spec: InputSpec, asked: _Asked, owner: Any, full: str | None, why: str) -> Rendered:
    """The texts of a conversation in a template's text."""
    around = _around(spec, asked, owner)
    places, wrong = around.places(full, asked)
    if wrong is not None and around.pieces:  # a template may tell the time
        around = _around(spec, asked, owner, anew=True)
        full, why = _rendered(owner, _messages(spec, asked.turns, around.form), asked.given)
        places, wrong = around.places(full, asked)
    template = f"the chat template of {_name(owner)}"
    if around.lost:
        raise PromptError(asked.name, f"the chat template of {_name(owner)} {around.lost[0]}", around.lost[1])
    if full is None or not around.pieces:
        do = "drop the system text, or use raw=True" if len(asked.turns) < 3 else "give turns that it takes"
        raise PromptError(asked.name, f"{template} fails ({why or around.why})", do)
    if wrong is not None:
        told = asked.called(wrong)
        if told == "system":
            do = "drop the system text, or load the model with another template"
            raise PromptError(asked.name, f"{template} changes the system text", do)
        raise PromptError(asked.name, f"{template} changes with the {told} text", "reword the text, or use raw=True")
    own = len(asked.turns) - 1 - asked_turn(asked.prompt.turns)  # 1 where a system text was put in front
    spans = [Span(turn - own, start, end) for turn, start, end in places]
    text = full
    if asked.prompt.prefill:
        begin = len(full) + len(around.lead)
        text += around.lead + asked.prompt.prefill
        spans.append(Span(len(asked.prompt.turns) - 1, begin, len(text)))
    return Rendered(text, tuple(spans), asked_turn(asked.prompt.turns), _tokenizer_adds(spec, text))


@dataclass(frozen=True)
class _Around:
    """What a template puts around the texts of conversations of one shape, as sentinels show it.

    Attributes:
        pieces: the template's text before, between and behind the sentinels; empty where it fails.
        order: which of the conversation's texts stands in each gap; one may stand in several.
        form: how the template takes contents.
        why: why it fails.
        lost: what the template does to a text or a medium that it does not show as it should, and what to do.
        lead: blanks between what opens the answer and its beginning.
    """

    pieces: tuple[str, ...]
    order: tuple[int, ...]
    form: Form
    why: str
    lost: tuple[str, str] | None = None
    lead: str = ""

    def places(self, full: str | None, asked: _Asked) -> tuple[list[tuple[int, int, int]], int | None]:
        """Turn, start and end of every text in a rendering, but for blanks; and the turn where it differs, if any."""
        found: list[tuple[int, int, int]] = []
        texts, last = asked.texts, len(asked.turns) - 1
        if full is None or not self.pieces or not full.startswith(self.pieces[0]):
            return [], last
        place = len(self.pieces[0])
        for n, (which, after) in enumerate(zip(self.order, self.pieces[1:], strict=True), start=1):
            turn, core = texts[which][0], texts[which][1].strip()
            if n == len(self.order):
                end = len(full) - len(after)
                fits = end >= place and full.endswith(after) and full[place:end].strip() == core
            else:
                begin = _behind_blanks(full, core, place)
                end = _behind_blanks(full, after, begin + len(core))
                fits = full.startswith(core, begin) and full.startswith(after, end)
            if not fits:
                return [], turn
            found.append((turn, place, end))
            place = end + len(after)
        return found, None


def _behind_blanks(text: str, wanted: str, place: int) -> int:
    """Where `wanted` begins, at `place` or behind the blanks there."""
    while not text.startswith(wanted, place) and text[place : place + 1].isspace():
        place += 1
    return place


_KNOWN: WeakKeyDictionary[Any, dict[tuple[Any, ...], _Around]] = WeakKeyDictionary()
"""By processor or tokenizer: rendering the template once per prompt instead of twice."""


def _around(spec: InputSpec, asked: _Asked, owner: Any, *, anew: bool = False) -> _Around:
    try:
        known = _KNOWN.setdefault(owner, {})
    except TypeError:  # a processor that cannot be hashed or referred to weakly
        known = {}
    key = (str(owner.chat_template), *asked.shape)
    if anew or key not in known:
        known[key] = _shown(spec, asked, owner)
    return known[key]


def _shown(spec: InputSpec, asked: _Asked, owner: Any) -> _Around:
    """What a template makes of sentinels in the place of the texts."""
    texts = asked.texts
    heard = [n for n, (turn, _) in enumerate(texts) if asked.turns[turn].role != "system"]
    marked = _marked(asked.turns)
    # Older templates take one string: given parts they fail, each in its own way, or print the list as it is.
    for form in FORMS:
        bare, why = _rendered(owner, _messages(spec, marked, form), asked.given)
        order = [int(number) for number in _MARK.findall(bare or "")]
        if bare is not None and not set(heard) - set(order) and not _PRINTED_LIST.search(bare):
            break
    if bare is None:
        return _Around((), (), form, why)
    lost = _lost(spec, asked, owner, form, bare, order)
    lead = ""
    if asked.prompt.prefill:
        answer = Turn("assistant", (Part("text", SENTINEL.format(len(texts), len(texts))),))
        ended, _ = _rendered(
            owner, _messages(spec, (*marked, answer), form), {**asked.given, "add_generation_prompt": False}
        )
        between = (ended or "").partition(answer.text)[0].removeprefix(bare)
        lead = between if between.isspace() else ""
    return _Around(tuple(_MARK.split(bare)[::2]), tuple(order), form, why, lost, lead)


def _lost(
    spec: InputSpec, asked: _Asked, owner: Any, form: Form, bare: str, order: list[int]
) -> tuple[str, str] | None:
    """What of a conversation does not reach a template's text, and what to do; None where all of it does."""
    for n, (turn, _) in enumerate(asked.texts):
        told = asked.called(turn)
        if told == "system" and n not in order:
            return "drops the system text", "drop the system text, or load the model with another template"
        if told != "system" and order.count(n) != 1:
            return f"does not show the {told} text once", "use raw=True"
    known = {"enable_thinking"} & set(asked.given)
    if known and not re.search(r"\benable_thinking\b", str(owner.chat_template)):
        return "knows no thinking to turn on or off (no enable_thinking)", "leave thinking away"
    for name in set(asked.given) - known:
        less = {other: value for other, value in asked.given.items() if other != name}
        if _rendered(owner, _messages(spec, _marked(asked.turns), form), less)[0] == bare:
            return f"ignores the {name}", f"leave the {name} away, or load the model with another template"
    media = [(t, p) for t, turn in enumerate(asked.turns) for p, part in enumerate(turn.parts) if part.kind != "text"]
    for t, p in media if len(media) > 1 else ():
        parts = asked.turns[t].parts
        without = Turn(asked.turns[t].role, (*parts[:p], *parts[p + 1 :]))
        fewer = (*asked.turns[:t], *([without] if without.parts else ()), *asked.turns[t + 1 :])
        if _rendered(owner, _messages(spec, _marked(fewer), form), asked.given)[0] == bare:
            return f"drops the {parts[p].kind} of turn {t + 1}", "use another model or template"
    return None


def _marked(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Turns with sentinels in the place of their texts."""
    numbers = iter(range(sum(len(turn.parts) for turn in turns)))

    def mark(part: Part) -> Part:
        if part.kind != "text":
            return part
        number = next(numbers)
        return Part("text", SENTINEL.format(number, number))

    return tuple(Turn(turn.role, tuple(mark(part) for part in turn.parts)) for turn in turns)


def _name(owner: Any) -> str:
    """What errors call the holder of a template."""
    named = getattr(owner, "name_or_path", "") or getattr(getattr(owner, "tokenizer", None), "name_or_path", "")
    return str(named) or type(owner).__name__


def _messages(spec: InputSpec, turns: Sequence[Turn], form: Form) -> list[dict[str, object]]:
    """Turns as a template takes them, each content as a list of parts or as one string."""
    made: list[dict[str, object]] = []
    for turn in turns:
        content: object = [
            {"type": "text", "text": part.value} if part.kind == "text" else {"type": part.kind} for part in turn.parts
        ]
        if form == "string" or (form == "mixed" and not turn.media):
            lines = [part.value if part.kind == "text" else _placeholder(spec, part.kind) for part in turn.parts]
            content = "\n".join(line for line in lines if line)
        made.append({"role": turn.role, "content": content})
    return made


def _rendered(owner: Any, messages: list[dict[str, object]], given: dict[str, Any]) -> tuple[str | None, str]:
    """The template's text, or None and the reason why it fails."""
    try:
        options = {"tokenize": False, "add_generation_prompt": True, **given}
        return str(owner.apply_chat_template(messages, **options)), ""
    except Exception as error:
        return None, " ".join(str(error).split())[:160]


def _rendered_all(
    owner: Any, conversations: list[list[dict[str, object]]], given: list[dict[str, Any]]
) -> list[tuple[str | None, str]]:
    """The same for several conversations: in one call where that works, which takes half of the time."""
    if len(conversations) > 1 and not any(given):
        try:
            found = owner.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)
        except Exception:  # one of them fails, or the template's owner takes one at a time
            found = None
        if isinstance(found, list) and len(found) == len(conversations) and all(isinstance(t, str) for t in found):
            return [(text, "") for text in found]
    return [_rendered(owner, turns, more) for turns, more in zip(conversations, given, strict=True)]


def _placeholder(spec: InputSpec, kind: Kind) -> str:
    """The placeholder of a medium; "" if none is known."""
    known = spec.media_ids.get(kind)
    return "" if known is None else str(spec.tokenizer.convert_ids_to_tokens(known))


def _tokenizer_adds(spec: InputSpec, text: str) -> bool:
    """Whether the tokenizer is still to add its special tokens to a rendered text: as transformers itself decides.

    A tokenizer's chat template holds them. A processor adds them unless the text opens with the first of them.
    """
    if spec.processor is None:
        return False
    first = spec.tokenizer.bos_token
    return first is None or not text.startswith(first)
