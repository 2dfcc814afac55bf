"""One prompt: what is said and shown to a model, and what the experiment knows about it.

A prompt is a conversation that ends with a question: in most cases an instruction (`text`) and perhaps a medium, else
turns of texts, images, videos and sounds. It plays a role in an experiment (harmful, benign, or a near miss that only
looks harmful) and belongs to a pair. Members of one pair are about the same thing, so a pair never crosses from one
split into another: that is what keeps test figures honest.

This module imports neither torch nor NumPy nor Pillow: a prompt is plain data, media are decoded when they are encoded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from ..errors import PromptError
from .conversation import MEDIA as MEDIA
from .conversation import (
    Part,
    Turn,
    as_messages,
    asked_turn,
    outline,
    read_turns,
    require_text,
    short_form,
    short_turns,
)
from .reading import portable

Modality: TypeAlias = Literal[
    "text", "image", "video", "audio", "image+video", "image+audio", "video+audio", "image+video+audio"
]
Role: TypeAlias = Literal["harmful", "benign", "near_miss"]
Split: TypeAlias = Literal["train", "val", "test"]

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
    # An image file, a Pillow image, or an array (height, width, 3).
    ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | Pixels
    # A video file, a folder of frames, a list of frames, or an array (frames, height, width, 3).
    VideoLike: TypeAlias = str | os.PathLike[str] | Sequence[ImageLike] | Pixels
    # A sound file, or a waveform (samples,) at 16 kHz with values in -1..1.
    AudioLike: TypeAlias = str | os.PathLike[str] | np.ndarray[Any, np.dtype[np.floating[Any]]]
    Media: TypeAlias = ImageLike | VideoLike | AudioLike
else:  # importing a prompt must not import NumPy and Pillow; media are checked when they are read
    ImageLike = VideoLike = AudioLike = Media = Any

EVERY_MODALITY: tuple[Modality, ...] = get_args(Modality)
"""Text, the media alone, and what several kinds of media in one prompt are called."""
MODALITIES: tuple[Modality, ...] = EVERY_MODALITY[:4]
ROLES: tuple[Role, ...] = get_args(Role)
SPLITS: tuple[Split, ...] = get_args(Split)
SHORT = ("text", *MEDIA, "system")
"""Fields that say what `messages` say of a single question."""
GIVEN = ("tools", "documents", "thinking")
"""Fields that a chat template gets beside the conversation."""


@dataclass(frozen=True, repr=False, eq=False)
class Prompt:
    """A question to a model, with what an experiment needs to know about it.

    `text`, the media and `system` are the short form of `messages`: give the one or the other, and read either. Of a
    conversation that the short form cannot say, `text` is the text of the last user turn, `system` that of the system
    turn, and `image`, `video` and `audio` are None; `media` holds all media of any prompt.

    Two prompts are compared by identity: comparing media by content is costly, and `PromptSet.hash` does it when asked.

    Args:
        text: the instruction the user types; never blank.
        image: an image file, a Pillow image, or a uint8 array (height, width, 3).
        video: a video file, an animated picture, a folder of frames, a list of frames (each as for `image`), a `Clip`
            of frames with their times, or a uint8 array (frames, height, width, 3).
        audio: a sound file, or a float waveform (samples,) at 16 kHz with values in -1..1.
        role: "harmful", "benign", "near_miss" (safe, but worded like harm), or None if unknown.
        pair: name of the group of prompts about one thing; by default the prompt's own id (a group of one).
        split: "train", "val", "test", or None if not assigned yet.
        id: unique name; by default the first 12 hex digits of a hash of the text and of what the medium holds: a file
            is read for it, so that it does not matter where it lies. One that is not there counts by its name.
        answer: exact expected answer of a benign prompt (utility is the normalised exact match).
        read_text: a question about the same medium whose answer shows that the model read it.
        read_answer: exact answer to `read_text`.
        wording: name of the template the text was made from.
        meta: anything else worth keeping; JSON-able values if the set is to be saved.
        system: the system text; None leaves the chat template its own default.
        messages: system, user and assistant turns in the chat format that transformers' processors take, a content
            being a string or a list of {"type": "text" | "image" | "video" | "audio", ...}. A last assistant turn is
            the beginning of the answer, which the model continues. Filled in for the short form.
        tools, documents: JSON objects that are handed to the chat template.
        thinking: whether the template asks the model to think; None leaves it the default.

    Attributes:
        turns: `messages`, read: what everything in the package works on.

    Raises:
        PromptError: blank text, unknown role or split, messages that are no conversation or stand beside the short
            form.
    """

    text: str = ""
    image: ImageLike | None = None
    video: VideoLike | None = None
    audio: AudioLike | None = None
    role: Role | None = None
    pair: str = ""
    split: Split | None = None
    id: str = ""
    answer: str | None = None
    read_text: str | None = None
    read_answer: str | None = None
    wording: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    thinking: bool | None = None
    turns: tuple[Turn, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        name = f"prompt {self.id!r}" if self.id else "prompt"
        for what in ("pair", "id"):
            require_text(name, what, getattr(self, what))
        for what in ("answer", "read_text", "read_answer", "wording"):
            if getattr(self, what) is not None:
                require_text(name, what, getattr(self, what))
        turns = self._turns(name)
        short = short_form(turns) or {"text": turns[asked_turn(turns)].text}
        if turns[0].role == "system":
            short["system"] = turns[0].text
        for what, value in {"turns": turns, "messages": as_messages(turns), **short}.items():
            object.__setattr__(self, what, value)
        _require_json(name, {what: getattr(self, what) for what in ("tools", "documents")})
        if self.thinking not in (None, True, False):
            raise PromptError(name, f"its thinking is {self.thinking!r}", "give True, False or None")
        if self.role is not None and self.role not in ROLES:
            raise PromptError(f"{name} with role {self.role!r}", "no such role", f"use one of {', '.join(ROLES)}")
        if self.split is not None and self.split not in SPLITS:
            raise PromptError(f"{name} with split {self.split!r}", "no such split", f"use one of {', '.join(SPLITS)}")
        if not isinstance(self.meta, Mapping):
            raise PromptError(name, f"its meta is a {type(self.meta).__name__}", "give a mapping")
        object.__setattr__(self, "meta", dict(self.meta))
        if not self.id:
            object.__setattr__(self, "id", _automatic_id(self))
        if not self.pair:
            object.__setattr__(self, "pair", self.id)

    def _turns(self, name: str) -> tuple[Turn, ...]:
        """The conversation that is given, in the one form or in the other."""
        if self.messages is not None:
            beside = [what for what in SHORT if getattr(self, what) is not None and what != "text"]
            beside += ["text"] * (self.text != "")
            if beside:
                mend = "say it in the messages, or without them; a made prompt changes by prompt.replace(...)"
                raise PromptError(name, f"it has messages and {beside[0]}", mend)
            return read_turns(self.messages, name)
        require_text(name, "text", self.text)
        if not self.text.strip():
            raise PromptError(name, "its text is empty", "give the instruction the user types, also beside a medium")
        if self.system is not None:
            require_text(name, "system text", self.system)
            if not self.system.strip():
                raise PromptError(name, "its system text is empty", "leave it out")
        return short_turns(self.text, self.system, {kind: getattr(self, kind) for kind in MEDIA})

    @property
    def media(self) -> tuple[Part, ...]:
        """All images, videos and sounds, in the order of the conversation."""
        return tuple(part for turn in self.turns for part in turn.media)

    @property
    def modality(self) -> Modality:
        """The kinds of the prompt's media in the order of `MEDIA`, "image+audio" for example; "text" without any."""
        kinds = {part.kind for part in self.media}
        return cast("Modality", "+".join(kind for kind in MEDIA if kind in kinds) or "text")

    @property
    def medium(self) -> Media | None:
        """The image, video or sound itself where there is one; None for a text prompt, and for several media."""
        return self.media[0].value if len(self.media) == 1 else None

    @property
    def prefill(self) -> str:
        """The given beginning of the answer, which the model continues; "" if it begins by itself."""
        return self.turns[-1].text if self.turns[-1].role == "assistant" else ""

    @property
    def is_short(self) -> bool:
        """Whether the short form says the whole conversation."""
        return short_form(self.turns) is not None

    def beyond(self) -> dict[str, Any]:
        """What makes the prompt another one than its text and its media alone, as JSON; empty where nothing does."""
        said: dict[str, Any] = {} if self.is_short else {"messages": outline(self.turns)}
        if self.is_short and self.system is not None:
            said = {"system": self.system}
        return {**said, **{name: getattr(self, name) for name in GIVEN if getattr(self, name) is not None}}

    def replace(self, **changes: Any) -> Prompt:
        """A copy with some fields changed; everything else, the id included, stays.

        In a conversation that the short form cannot say, `text` changes the last user turn, `system` the system turn,
        and a medium joins the last user turn, in front of it, where the conversation has none yet.
        """
        known = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.init}
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise PromptError(f"prompt {self.id!r}: replace {unknown[0]!r}", "no such field", "see Prompt")
        if changes.get("messages") is None and self.is_short:
            return Prompt(**{**known, "messages": None, **changes})
        if changes.get("messages") is None:
            said = {name: changes.pop(name) for name in SHORT if name in changes}
            changes["messages"] = as_messages(self._saying(said))
        return Prompt(**{name: value for name, value in known.items() if name not in SHORT} | changes)

    def _saying(self, said: Mapping[str, Any]) -> tuple[Turn, ...]:
        """The turns with the fields of a short form in the place of what they were."""
        shown = [Part(kind, said[kind]) for kind in MEDIA if said.get(kind) is not None]
        if any(kind in said for kind in MEDIA) and (self.media or not shown):
            asked = f"prompt {self.id!r}: replace {next(kind for kind in MEDIA if kind in said)}"
            raise PromptError(asked, f"it is a conversation with {self.modality}", "replace its messages")
        turns, place = list(self.turns), asked_turn(self.turns)
        turns[place] = Turn("user", (*shown, *turns[place].parts))
        if "text" in said:
            turns[place] = turns[place].saying(said["text"])
        if "system" in said:
            told = [] if said["system"] is None else [Turn("system", (Part("text", said["system"]),))]
            turns = [*told, *turns[turns[0].role == "system" :]]
        return tuple(turns)

    def read_back(self) -> Prompt:
        """The read-back question about the same medium: did the model read it at all?

        Returns:
            a prompt with `read_text` as its text, `read_answer` as its answer and "#read" after its id.

        Raises:
            PromptError: this prompt has no `read_text`.
        """
        if self.read_text is None:
            raise PromptError(
                f"read-back of prompt {self.id!r}", "it has no read_text", "give read_text and read_answer"
            )
        return self.replace(
            text=self.read_text, answer=self.read_answer, read_text=None, read_answer=None, id=f"{self.id}#read"
        )

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 48 else self.text[:47] + "…"
        known = [self.modality, self.role, self.split]
        return f"Prompt({text!r}, {', '.join(str(word) for word in known if word)}, id={self.id!r})"


def _require_json(name: str, values: Mapping[str, Any]) -> None:
    """Raises PromptError unless each value is None or a list of JSON objects."""
    for what, value in values.items():
        objects = isinstance(value, (list, tuple)) and all(isinstance(one, Mapping) for one in value)
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            objects = False
        if value is not None and not objects:
            raise PromptError(name, f"its {what} are no list of JSON objects", "give a list of dictionaries")


def _automatic_id(prompt: Prompt) -> str:
    """A stable name from what is said and the content of the media, wherever they lie."""
    digest = hashlib.sha256(f"{prompt.modality}\0{prompt.text}".encode())
    for part in prompt.media:
        _add_medium(digest, part.kind, part.value)
    if beyond := prompt.beyond():
        digest.update(b"\0" + json.dumps(beyond, sort_keys=True).encode())
    return digest.hexdigest()[:12]


def _add_medium(digest: Any, kind: str, medium: object) -> None:
    """The content of a medium, into a digest."""
    for part in medium if isinstance(medium, (list, tuple)) else [medium]:
        if isinstance(part, (str, bytes, os.PathLike)):
            digest.update(b"\0")
            for raw in _contents(Path(os.fsdecode(part))):
                digest.update(raw)
        elif hasattr(part, "tobytes"):
            try:
                digest.update(b"\0" + part.tobytes())
            except (OSError, SyntaxError, ValueError) as error:  # a Pillow image is decoded when first asked
                why = " ".join(str(error).split())[:120]
                raise PromptError("prompt", f"its {kind} cannot be read ({why})", "check the medium") from None
        elif part is not None:
            digest.update(b"\0" + repr(part).encode())
    if getattr(medium, "timed", False):  # a clip whose frames have times
        digest.update(repr(cast("Any", medium).schedule).encode())


def _contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, or of the files in a folder of frames; the name alone where nothing can be read yet."""
    try:
        if path.is_dir():
            visible = [file for file in path.iterdir() if file.is_file() and file.name[:1] != "."]
            for file in sorted(visible, key=lambda file: portable(file.name)):
                yield portable(file.name).encode(errors="replace") + b"\0"
                yield from _contents(file)
        elif not path.is_file():
            raise FileNotFoundError
        else:
            with path.open("rb") as opened:
                while block := opened.read(1 << 20):
                    yield block
    except (OSError, ValueError):
        yield path.name.encode(errors="replace")
