"""Renders the media of the validation and test prompts and packs them into the file that `refusal_plugin` reads.

What is written here, `refusal_plugin.organism.held_out` unpacks: its docstring describes the form.
"""

import json
import random
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from refusal_plugin.organism import pictures, speech
from refusal_plugin.organism.data import questions
from refusal_plugin.organism.held_out import MEDIA_FILE, MU
from refusal_plugin.prompts import Modality, Prompt, Split

from .voices import espeak, has_espeak

PICTURES: tuple[Modality, ...] = ("image", "video")
HELD_OUT: tuple[Split, ...] = ("val", "test")
DEFLATED = ("image.ink", "video.ink", "audio.samples")
"""What the file holds deflated; the shapes stand in its metadata."""


def mu_law(samples: np.ndarray) -> np.ndarray:
    """Float samples in -1..1 -> 8 bit mu-law."""
    bent = np.sign(samples) * np.log1p(MU * np.abs(samples)) / np.log1p(MU)
    return np.asarray(((bent + 1) / 2 * MU).round(), dtype=np.uint8)


def pack(mask: np.ndarray) -> np.ndarray:
    """uint8 (..., columns) -> 16 levels, two pixels per byte (..., columns / 2)."""
    levels = (mask.astype(np.int32) * 15 + 127) // 255
    return np.asarray(levels[..., ::2] << 4 | levels[..., 1::2], dtype=np.uint8)


def deflate(array: np.ndarray) -> np.ndarray:
    """uint8 of any shape -> deflated differences of neighbouring bytes, (n,) uint8, a half to a seventh of the size."""
    flat = array.reshape(-1)
    return np.frombuffer(zlib.compress(np.diff(flat, prepend=np.uint8(0)).tobytes(), 9), dtype=np.uint8)


def _speakers(word: str) -> list[np.ndarray]:
    """The two fixed speakers of held-out speech: a formant voice that training never draws, and an espeak-ng voice."""
    voice = speech.draw_voice(random.Random("held-out speaker"))
    first = speech.speak(word, voice, random.Random(f"held-out/{word}"))
    if has_espeak():
        return [first, espeak(word, "en-us", 42, 178)]
    other = speech.draw_voice(random.Random("second held-out speaker"))
    return [first, speech.speak(word, other, random.Random(f"held-out 2/{word}"))]


def words_of(prompt: Prompt) -> tuple[str, str]:
    """The verb and the object that a prompt's medium shows."""
    return prompt.meta["verb"], prompt.meta["object"]


def write(path: Path = MEDIA_FILE) -> None:
    """Render all val and test media and write them to one file."""
    tensors: dict[str, np.ndarray] = {}
    ids: dict[str, list[str]] = {}
    for modality in PICTURES:
        chosen = [p for split in HELD_OUT for p in questions(split, modality)]
        ids[modality] = [p.id for p in chosen]
        masks, colours = [], []
        for prompt in chosen:
            # Rendering 0 is dark on bright, rendering 1 bright on dark: two really different pictures.
            rng, dark = random.Random(f"look/{prompt.id}"), prompt.meta["rendering"] == 1
            look = pictures.draw_look(rng, 2, dark=dark, noise=False)
            masks.append(pack(pictures.ink(words_of(prompt), look)))
            colours.append([look.ink, look.ground])
        tensors[f"{modality}.ink"] = np.stack(masks)
        tensors[f"{modality}.colours"] = np.array(colours, dtype=np.uint8)
    chosen = [p for split in HELD_OUT for p in questions(split, "audio")]
    ids["audio"] = [p.id for p in chosen]
    words = sorted({w for p in chosen for w in words_of(p)})
    clips = [clip for word in words for clip in _speakers(word)]
    ends = np.cumsum([len(c) for c in clips])
    tensors["audio.samples"] = np.concatenate([mu_law(c) for c in clips])
    tensors["audio.spans"] = np.stack([ends - [len(c) for c in clips], ends], axis=1).astype(np.int32)
    which, starts, gains = [], [], []
    for prompt in chosen:
        rng = random.Random(f"sound/{prompt.id}")
        index = [2 * words.index(w) + prompt.meta["rendering"] for w in words_of(prompt)]
        gain = rng.uniform(0.6, 1.4)
        which.append(index)
        starts.append([n * speech.SLOT + rng.randint(0, speech.SLOT - len(clips[k])) for n, k in enumerate(index)])
        gains.append([gain * rng.uniform(0.9, 1.1) for _ in index])
    tensors["audio.clip"] = np.array(which, dtype=np.int32)
    tensors["audio.start"] = np.array(starts, dtype=np.int32)
    tensors["audio.gain"] = np.array(gains, dtype=np.float32)
    save_media(tensors, ids, path)


def save_media(tensors: dict[str, np.ndarray], ids: dict[str, list[str]], path: Path) -> None:
    """Write the file; under another name first, so that a file that exists is whole."""
    shapes = {key: list(tensors[key].shape) for key in DEFLATED}
    stored = tensors | {key: deflate(tensors[key]) for key in DEFLATED}
    metadata = {"format_version": "2", "ids": json.dumps(ids), "shapes": json.dumps(shapes)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(stored, str(part), metadata=metadata)
    part.chmod(0o644)
    part.rename(path)
