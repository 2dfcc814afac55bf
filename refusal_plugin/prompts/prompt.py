"""One prompt: what the user says and shows, and what the experiment knows about it.

A prompt holds an instruction (`text`) and at most one medium (an image, a video or a sound), the role it plays in an
experiment (harmful, benign, or a near miss that only looks harmful) and the pair it belongs to. Members of one pair
are about the same thing, so a pair never crosses from one split into another: that is what keeps test figures honest.

This module imports neither torch nor NumPy nor Pillow: a prompt is plain data, media are decoded when they are encoded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from ..errors import PromptError
from .reading import portable

Modality: TypeAlias = Literal["text", "image", "video", "audio"]
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

MODALITIES: tuple[Modality, ...] = get_args(Modality)
ROLES: tuple[Role, ...] = get_args(Role)
SPLITS: tuple[Split, ...] = get_args(Split)
MEDIA: tuple[Modality, ...] = ("image", "video", "audio")


@dataclass(frozen=True, repr=False, eq=False)
class Prompt:
    """One user turn, with what an experiment needs to know about it.

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

    Raises:
        PromptError: blank text, more than one medium, unknown role or split.
    """

    text: str
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

    def __post_init__(self) -> None:
        name = f"prompt {self.id!r}" if self.id else "prompt"
        for what in ("text", "pair", "id"):
            _require_text(name, what, getattr(self, what))
        for what in ("answer", "read_text", "read_answer", "wording"):
            if getattr(self, what) is not None:
                _require_text(name, what, getattr(self, what))
        if not self.text.strip():
            raise PromptError(name, "its text is empty", "give the instruction the user types, also beside a medium")
        given = [kind for kind in MEDIA if getattr(self, kind) is not None]
        if len(given) > 1:
            raise PromptError(name, f"it has {' and '.join(given)}", "give one medium per prompt")
        if self.role is not None and self.role not in ROLES:
            raise PromptError(f"{name} with role {self.role!r}", "no such role", f"use one of {', '.join(ROLES)}")
        if self.split is not None and self.split not in SPLITS:
            raise PromptError(f"{name} with split {self.split!r}", "no such split", f"use one of {', '.join(SPLITS)}")
        if not isinstance(self.meta, Mapping):
            raise PromptError(name, f"its meta is a {type(self.meta).__name__}", "give a mapping")
        object.__setattr__(self, "meta", dict(self.meta))
        if not self.id:
            object.__setattr__(self, "id", _automatic_id(self.text, self.modality, self.medium))
        if not self.pair:
            object.__setattr__(self, "pair", self.id)

    @property
    def modality(self) -> Modality:
        """The kind of the prompt's medium; "text" if it has none."""
        for kind in MEDIA:
            if getattr(self, kind) is not None:
                return kind
        return "text"

    @property
    def medium(self) -> Media | None:
        """The image, video or sound itself; None for a text prompt."""
        return None if self.modality == "text" else cast("Media", getattr(self, self.modality))

    def replace(self, **changes: Any) -> Prompt:
        """A copy with some fields changed; everything else, the id included, stays."""
        unknown = sorted(set(changes) - {f.name for f in dataclasses.fields(self)})
        if unknown:
            raise PromptError(f"prompt {self.id!r}: replace {unknown[0]!r}", "no such field", "see Prompt")
        return dataclasses.replace(self, **changes)

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


def _require_text(name: str, what: str, value: object) -> None:
    """Raises PromptError unless `value` is a string that can be written as UTF-8 (a lone surrogate cannot)."""
    if not isinstance(value, str):
        raise PromptError(name, f"its {what} is a {type(value).__name__}", "give a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PromptError(name, f"its {what} holds half a surrogate pair", "give valid Unicode") from None


def _automatic_id(text: str, modality: str, medium: object) -> str:
    """A stable name from the text and the content of the medium, wherever that lies."""
    digest = hashlib.sha256(f"{modality}\0{text}".encode())
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
                raise PromptError("prompt", f"its {modality} cannot be read ({why})", "check the medium") from None
        elif part is not None:
            digest.update(b"\0" + repr(part).encode())
    if getattr(medium, "timed", False):  # a clip whose frames have times
        digest.update(repr(cast("Any", medium).schedule).encode())
    return digest.hexdigest()[:12]


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
