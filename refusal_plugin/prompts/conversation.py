"""Conversations in the chat format of transformers: turns, and the parts each of them is made of.

    [{"role": "system", "content": "Be brief."},
     {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "and this ?"}]},
     {"role": "assistant", "content": "It shows"}]

A last assistant turn is the beginning of the answer, which the model continues. The short form of a prompt (`text=`,
`image=`, ... `system=`) says a conversation of one user turn: its media in the order of `MEDIA`, then its text.

This module imports neither torch nor NumPy nor Pillow.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

from ..errors import PromptError

Kind: TypeAlias = Literal["text", "image", "video", "audio"]
Medium: TypeAlias = Literal["image", "video", "audio"]
Speaker: TypeAlias = Literal["system", "user", "assistant"]
MEDIA: tuple[Medium, ...] = get_args(Medium)
SPEAKERS: tuple[Speaker, ...] = get_args(Speaker)


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of a turn.

    Attributes:
        kind: "text" or one of `MEDIA`.
        value: the text, or the medium: a file or the medium itself, as `Prompt` takes them.
    """

    kind: Kind
    value: Any


@dataclass(frozen=True, eq=False)
class Turn:
    """What one side says at a time."""

    role: Speaker
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """Its texts, one a line; "" where it has none."""
        return "\n".join(part.value for part in self.parts if part.kind == "text")

    @property
    def media(self) -> tuple[Part, ...]:
        """Its images, videos and sounds, in order."""
        return tuple(part for part in self.parts if part.kind != "text")

    def saying(self, text: str) -> Turn:
        """The turn with another text where its first one stands, and no further one."""
        first = next(n for n, part in enumerate(self.parts) if part.kind == "text")
        kept = [(n, part) for n, part in enumerate(self.parts) if part.kind != "text" or n == first]
        return Turn(self.role, tuple(Part("text", text) if n == first else part for n, part in kept))


def short_turns(text: str, system: str | None, media: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The conversation that a prompt's short form says."""
    shown = [Part(kind, media[kind]) for kind in MEDIA if media.get(kind) is not None]
    asked = Turn("user", (*shown, Part("text", text)))
    return (asked,) if system is None else (Turn("system", (Part("text", system),)), asked)


def short_form(turns: Sequence[Turn]) -> dict[str, Any] | None:
    """The same as fields of the short form; None for a conversation that it cannot say."""
    asked, before = turns[-1], turns[:-1]
    kinds = [part.kind for part in asked.parts]
    plain = kinds == [*(kind for kind in MEDIA if kind in kinds), "text"]
    told = all(turn.role == "system" and [part.kind for part in turn.parts] == ["text"] for turn in before)
    if asked.role != "user" or not plain or not told or len(before) > 1:
        return None
    system = {"system": before[0].text} if before else {}
    return {**system, **{part.kind: part.value for part in asked.parts}}


def read_turns(messages: object, name: str) -> tuple[Turn, ...]:
    """A conversation, checked.

    Args:
        messages: turns in transformers' chat format; a medium lies under the name of its type, or under "path".
        name: of the prompt, for errors.

    Raises:
        PromptError: not such a list, an unknown role, type or key, an empty text, no user turn with a text before the
            answer, a system turn that is not the first, or media in the beginning of the answer.
    """
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence) or not messages:
        raise PromptError(name, "its messages are no list of turns", "give [{'role': 'user', 'content': ...}, ...]")
    turns = tuple(_turn(turn, f"turn {n}", name) for n, turn in enumerate(messages, start=1))
    late = [n for n, turn in enumerate(turns[1:], start=2) if turn.role == "system"]
    if late:
        raise PromptError(name, f"its turn {late[0]} is a system turn", "let the conversation begin with it")
    asked = asked_turn(turns)
    if asked < 0 or turns[asked].role != "user":
        raise PromptError(name, "no user turn stands before the answer", "end with one, or with one and an answer")
    if not turns[asked].text:
        raise PromptError(name, "the text of its last user turn is empty", "say what the user asks beside the media")
    if asked < len(turns) - 1 and turns[-1].media:
        raise PromptError(name, f"its answer begins with {turns[-1].media[0].kind}", "let it begin with text")
    return turns


def asked_turn(turns: Sequence[Turn]) -> int:
    """Number of the turn that is answered, the last of the user's; a last assistant turn is the answer's beginning."""
    return len(turns) - 1 - (turns[-1].role == "assistant")


def as_messages(turns: Iterable[Turn]) -> tuple[dict[str, Any], ...]:
    """Turns in transformers' chat format, every content a list of parts."""
    return tuple(
        {"role": turn.role, "content": [{"type": part.kind, part.kind: part.value} for part in turn.parts]}
        for turn in turns
    )


def outline(turns: Iterable[Turn]) -> list[Any]:
    """Turns as JSON, media by their kind alone: what ids and hashes are made of beside the media's content."""
    return [
        [turn.role, [[part.kind, part.value if part.kind == "text" else None] for part in turn.parts]] for turn in turns
    ]


def placed(messages: object, base: os.PathLike[str]) -> object:
    """Messages with the paths of their media taken from a folder; whatever is malformed is left to `read_turns`.

    Raises:
        ValueError: a medium that is no path.
    """
    if not isinstance(messages, list):
        return messages
    return [
        {**turn, "content": [_placed(part, base) for part in turn["content"]]}
        if isinstance(turn, dict) and isinstance(turn.get("content"), list)
        else turn
        for turn in messages
    ]


def _placed(part: Any, base: os.PathLike[str]) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in MEDIA:
        return part
    key = kind if kind in part else "path"
    value = part.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{kind} is no path")
    return {**part, key: os.path.join(base, value)}


def _turn(turn: object, where: str, name: str) -> Turn:
    """One turn, checked."""
    if not isinstance(turn, Mapping) or set(turn) != {"role", "content"}:
        found = f"the keys {', '.join(map(str, turn))}" if isinstance(turn, Mapping) else f"a {type(turn).__name__}"
        raise PromptError(name, f"its {where} is {found}", "give role and content")
    role, content = turn["role"], turn["content"]
    if role not in SPEAKERS:
        raise PromptError(name, f"its {where} has role {str(role)[:40]!r}", f"use {', '.join(SPEAKERS)}")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, (list, tuple)) or not parts:
        raise PromptError(name, f"its {where} has no content", "give a text or a list of parts")
    return Turn(role, tuple(_part(part, where, name) for part in parts))


def _part(part: object, where: str, name: str) -> Part:
    """One part of a turn, checked."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or kind not in ("text", *MEDIA):
        found = f"a part of type {str(kind)[:40]!r}" if isinstance(part, Mapping) else f"a {type(part).__name__}"
        raise PromptError(name, f"its {where} holds {found}", f"use text, {', '.join(MEDIA)}")
    keys = set(part) - {"type"}
    key = kind if kind in keys else "path"
    if keys != {key} or part[key] is None or (key == "path" and kind == "text"):
        raise PromptError(
            name, f"a {kind} of its {where} has the keys {', '.join(map(str, part))}", f"give type and {kind}"
        )
    if kind == "text":
        require_text(name, f"{where}", part["text"])
        if not part["text"].strip():
            raise PromptError(name, f"a text of its {where} is empty", "leave it out")
    return Part(cast("Kind", kind), part[key])


def require_text(name: str, what: str, value: object) -> None:
    """Raises PromptError unless `value` is a string that can be written as UTF-8 (a lone surrogate cannot)."""
    if not isinstance(value, str):
        raise PromptError(name, f"its {what} is a {type(value).__name__}", "give a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PromptError(name, f"its {what} holds half a surrogate pair", "give valid Unicode") from None
