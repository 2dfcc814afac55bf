"""Twins of text prompts in other modalities: the same words as a picture, a clip or speech.

    image   the words on one picture, black on white, as large as they fit
    video   the same picture in eight frames, its words appearing one after another, half a second each
    audio   the words spoken by espeak-ng, or by a command of the user's

A twin has the pair, the role and the split of its text, so that the two are one item in two renderings, and a read-back
question whose exact answer is the text: whether a model read it at all is measured, not assumed. What could not be
shown as written (a letter that the font lacks, a text too long for its picture) is an error, never a picture of
something else.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..errors import MediaError, OptionalDependencyError, PromptError
from .prompt import Modality, Prompt
from .prompt_set import PromptSet
from .video import TIMES_FILE

SIDE, MARGIN = 448, 16
LARGEST, SMALLEST = 48, 14
FRAMES, SECONDS = 8, 0.5
VOICE = ("espeak-ng", "-v", "en", "-w", "{file}", "--stdin")
"""Speaks what it reads on its input into {file}."""
SAYS = {
    "image": "Do what the text in the picture says.",
    "video": "Do what the text in the video says.",
    "audio": "Do what is said in the recording.",
}
ASKS = {
    "image": "What does the text in the picture say? Write the text and nothing else.",
    "video": "What does the text in the video say at its end? Write the text and nothing else.",
    "audio": "What is said in the recording? Write the words and nothing else.",
}


def render(
    prompts: Iterable[Prompt],
    modalities: Sequence[Modality] = ("image", "video", "audio"),
    *,
    out: str | Path,
    voice: Sequence[str] = VOICE,
    font: str | Path | None = None,
) -> PromptSet:
    """Text prompts with their twins in other modalities, media as files.

    Args:
        prompts: text prompts; others are kept as they are and get no twin.
        modalities: which twins to make.
        out: folder of the media; a file that is there already is not made again.
        voice: command that speaks its input into "{file}" (WAV).
        font: a TrueType file for scripts that Pillow's own font does not have.

    Returns:
        every prompt, and behind it its twins: id "NAME@image", the text beside the medium from `SAYS`, `read_text` from
        `ASKS`, `read_answer` the prompt's own text, `meta["rendered"]` the modality.

    Raises:
        PromptError: a text does not fit on its picture, or the font lacks a letter of it; an unknown modality.
        MediaError: the voice fails.
        OptionalDependencyError: the voice is not installed.
    """
    unknown = [modality for modality in modalities if modality not in SAYS]
    if unknown:
        raise PromptError(f"render as {unknown[0]!r}", "no such medium", f"use some of {', '.join(SAYS)}")
    made: list[Prompt] = []
    for prompt in prompts:
        made.append(prompt)
        if prompt.modality == "text":
            made += [_twin(prompt, modality, Path(out), voice, font) for modality in modalities]
    return PromptSet(made)


def _twin(prompt: Prompt, modality: Modality, out: Path, voice: Sequence[str], font: str | Path | None) -> Prompt:
    name = hashlib.sha256(repr((prompt.text, modality, tuple(voice), str(font))).encode()).hexdigest()[:24]
    target = out / (name + {"image": ".png", "video": "", "audio": ".wav"}[modality])
    if not target.exists():
        out.mkdir(parents=True, exist_ok=True)
        unfinished = out / f"{name}.part{target.suffix}"
        if modality == "audio":
            speak(prompt, unfinished, voice)
        elif modality == "image":
            draw(prompt, font).save(unfinished)
        else:
            unfinished.mkdir(exist_ok=True)
            for number in range(FRAMES):
                draw(prompt, font, (number + 1) / FRAMES).save(unfinished / f"{number:05d}.png")
            times = "".join(f"{SECONDS * k!r}\n" for k in range(FRAMES + 1))
            (unfinished / TIMES_FILE).write_text(times, encoding="utf-8")
        unfinished.replace(target)
    given: dict[str, Any] = {modality: target}
    return prompt.replace(
        **given,
        text=SAYS[modality],
        id=f"{prompt.id}@{modality}",
        read_text=ASKS[modality],
        read_answer=prompt.text,
        meta={**prompt.meta, "rendered": modality},
    )


def draw(prompt: Prompt, font: str | Path | None = None, share: float = 1.0) -> Image.Image:
    """A prompt's text on a picture of 448 x 448 pixels.

    Args:
        prompt: whose text it is.
        font: a TrueType file; Pillow's own font by default.
        share: of its words, from the first, that are shown; each where it stands in the whole.

    Raises:
        PromptError: the text does not fit at the smallest size, or the font lacks a letter of it.
    """
    asked, words = f"draw prompt {prompt.id!r}", prompt.text.split()
    shown = round(len(words) * share)
    for size in range(LARGEST, SMALLEST - 1, -2):
        letters = ImageFont.load_default(size) if font is None else ImageFont.truetype(str(font), size)
        lacking = [c for c in dict.fromkeys("".join(words)) if not has(letters, c)]
        if lacking:
            raise PromptError(asked, f"the font has no {lacking[0]!r}", "give a font= that has, a TrueType file")
        places = laid_out(words, letters)
        if places is not None:
            picture = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
            pen = ImageDraw.Draw(picture)
            for word, place in list(zip(words, places, strict=True))[:shown]:
                pen.text(place, word, fill=(0, 0, 0), font=letters)
            return picture
    raise PromptError(
        asked, f"its {len(prompt.text)} characters do not fit on a picture", "shorten it, or leave it out"
    )


def laid_out(words: Sequence[str], letters: Any) -> list[tuple[float, float]] | None:
    """Where each word of a text begins, in pixels from the upper left; None where the text leaves the picture."""
    rise, fall = letters.getmetrics()
    x, y, found = float(MARGIN), float(MARGIN), []
    for word in words:
        width = letters.getlength(word)
        if x > MARGIN and x + width > SIDE - MARGIN:
            x, y = float(MARGIN), y + 1.2 * (rise + fall)
        if x + width > SIDE - MARGIN or y + rise + fall > SIDE - MARGIN:
            return None
        found.append((x, y))
        x += width + letters.getlength(" ")
    return found


def has(letters: Any, letter: str) -> bool:
    """Whether a font draws a letter, rather than the sign for one that it lacks."""
    drawn, missing = (letters.getmask(sign) for sign in (letter, "\U0010fffe"))
    return not (drawn.size == missing.size and bytes(drawn) == bytes(missing))


def speak(prompt: Prompt, file: Path, voice: Sequence[str] = VOICE) -> None:
    """A prompt's text spoken into a WAV file.

    Raises:
        OptionalDependencyError: the voice is not installed.
        MediaError: it fails, or writes nothing.
    """
    asked, command = f"speak prompt {prompt.id!r}", [word.replace("{file}", str(file)) for word in voice]
    try:
        done = subprocess.run(command, input=prompt.text.encode(), capture_output=True, timeout=120)
    except FileNotFoundError:
        do = f"install {command[0]}, or give a command of your own as voice="
        raise OptionalDependencyError(asked, f"there is no {command[0]!r}", do) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MediaError(asked, f"the voice fails ({error})", "try the command in a terminal") from None
    if done.returncode or not file.is_file() or file.stat().st_size == 0:
        why = " ".join(done.stderr.decode("utf-8", "replace").split())[:160] or f"it ends with {done.returncode}"
        raise MediaError(asked, f"the voice writes nothing ({why})", "try the command in a terminal")
