"""Pictures and clips of words: one word per 64 x 16 line of an image, one word per frame of a clip (held two frames).

Everything random comes from the caller's generator, so the same seed draws the same pixels. Pillow's built-in font is
the only font: nothing has to be installed.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 64, 16
HOLD = 2
"""Frames that one word of a clip stays: one temporal patch of the vision tower."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Look:
    """How a phrase is drawn: font size, pixel offsets per word, colours (0..255) and noise (standard deviation)."""

    size: float
    offsets: tuple[tuple[int, int], ...]
    ink: Colour
    ground: Colour
    noise: float = 0.0


def draw_look(rng: random.Random, n_words: int, *, dark: bool | None = None, noise: bool = True) -> Look:
    """Draw a look with enough contrast; `dark` fixes whether the ground is the darker of the two."""
    dark = rng.random() < 0.5 if dark is None else dark
    low, high = rng.randint(0, 90), rng.randint(165, 255)

    def tint(level: int) -> Colour:
        r, g, b = (max(0, min(255, level + rng.randint(-30, 30))) for _ in range(3))
        return r, g, b

    ink, ground = (tint(high), tint(low)) if dark else (tint(low), tint(high))
    offsets = tuple((rng.randint(0, 8), rng.randint(-1, 2)) for _ in range(n_words))
    return Look(
        rng.choice((10, 10.5, 11, 11.5, 12, 12.5, 13)), offsets, ink, ground, rng.uniform(0, 12) if noise else 0.0
    )


@lru_cache(maxsize=64)
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@lru_cache(maxsize=65536)
def _word(word: str, size: float, x: int, y: int) -> np.ndarray:
    """The ink of one line, (HEIGHT, WIDTH) uint8; the size shrinks until the word fits."""
    while size > 7 and _font(size).getbbox(word)[2] > WIDTH - 2:
        size -= 0.5
    room = max(0, int(WIDTH - 1 - _font(size).getbbox(word)[2]))
    line = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(line).text((1 + min(x, room), HEIGHT // 2 + y - 1), word, fill=255, font=_font(size), anchor="lm")
    return np.asarray(line)


def ink(words: Sequence[str], look: Look) -> np.ndarray:
    """The ink of a phrase, (len(words), HEIGHT, WIDTH) uint8."""
    return np.stack([_word(w, look.size, *look.offsets[i % len(look.offsets)]) for i, w in enumerate(words)])


def colour(mask: np.ndarray, look: Look, rng: random.Random | None = None) -> np.ndarray:
    """Blend ink and ground colours by a mask: (..., 3) uint8, with the look's pixel noise if a generator is given."""
    weight = mask[..., None].astype(np.float32) / 255
    pixels = weight * np.array(look.ink, dtype=np.float32) + (1 - weight) * np.array(look.ground, dtype=np.float32)
    if rng is not None and look.noise > 0:
        pixels += look.noise * np.random.default_rng(rng.getrandbits(32)).standard_normal(
            pixels.shape, dtype=np.float32
        )
    return pixels.round().clip(0, 255).astype(np.uint8)


def image(words: Sequence[str], rng: random.Random) -> np.ndarray:
    """A picture of a phrase, (16 * words, 64, 3) uint8."""
    look = draw_look(rng, len(words))
    return colour(ink(words, look).reshape(-1, WIDTH), look, rng)


def clip(words: Sequence[str], rng: random.Random) -> list[np.ndarray]:
    """A clip of a phrase: HOLD frames of (16, 64, 3) uint8 per word, with fresh noise in every frame."""
    look = draw_look(rng, len(words))
    return [colour(line, look, rng) for line in ink(words, look) for _ in range(HOLD)]
