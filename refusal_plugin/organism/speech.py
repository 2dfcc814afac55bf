"""Speech of the world: one clip per word in a slot of 0.64 s, spoken by a NumPy formant voice.

A slot is 32 mel frames, hence 8 soft tokens of the audio tower: every word starts on a token boundary. The voice needs
nothing installed; the clips that tests and studies use are shipped as data (`held_out`).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..prompts.media import SAMPLE_RATE

SLOT = 10240
"""Samples of one word's slot: 0.64 s."""

MAX_WORD = 9920
"""Samples a word may take: a slot less 20 ms."""


@dataclass(frozen=True)
class Voice:
    """A formant voice: pitch in Hz, scale of the formants, tempo, breath noise, and how far the pitch falls (0..1)."""

    pitch: float
    formants: float
    tempo: float
    breath: float
    fall: float


def draw_voice(rng: random.Random) -> Voice:
    """Draw a voice between a low male and a high female one."""
    pitch = rng.uniform(85, 240)
    scale = 0.86 + 0.26 * (pitch - 85) / 155 + rng.uniform(-0.05, 0.05)
    return Voice(pitch, scale, rng.uniform(0.85, 1.15), rng.uniform(0.0, 0.05), rng.uniform(0.0, 0.3))


# Sound: (voicing, F1, F2, F3 in Hz, noise level, noise centre in Hz, noise width in Hz, length in ms)
_SOUNDS: dict[str, tuple[float, float, float, float, float, float, float, float]] = {
    "a": (1.0, 750, 1500, 2500, 0, 0, 1, 85),
    "e": (1.0, 530, 1850, 2500, 0, 0, 1, 75),
    "i": (1.0, 390, 2050, 2600, 0, 0, 1, 65),
    "o": (1.0, 570, 900, 2450, 0, 0, 1, 85),
    "u": (1.0, 620, 1200, 2500, 0, 0, 1, 75),
    "ee": (1.0, 290, 2300, 3000, 0, 0, 1, 110),
    "oo": (1.0, 310, 880, 2300, 0, 0, 1, 105),
    "ay": (1.0, 450, 2150, 2700, 0, 0, 1, 110),
    "ow": (1.0, 500, 1000, 2400, 0, 0, 1, 110),
    "er": (1.0, 490, 1350, 1700, 0, 0, 1, 90),
    "l": (0.7, 360, 1100, 2700, 0, 0, 1, 60),
    "r": (0.7, 400, 1150, 1500, 0, 0, 1, 60),
    "w": (0.7, 300, 650, 2200, 0, 0, 1, 60),
    "y": (0.7, 280, 2250, 3000, 0, 0, 1, 55),
    "m": (0.55, 260, 950, 2200, 0, 0, 1, 70),
    "n": (0.55, 270, 1500, 2500, 0, 0, 1, 65),
    "ng": (0.55, 270, 2000, 2600, 0, 0, 1, 80),
    "b": (0.35, 220, 800, 2200, 0.10, 500, 400, 45),
    "d": (0.35, 220, 1700, 2600, 0.14, 3600, 1200, 45),
    "g": (0.35, 220, 2000, 2500, 0.14, 1900, 600, 50),
    "p": (0.0, 400, 800, 2200, 0.35, 700, 700, 60),
    "t": (0.0, 400, 1700, 2600, 0.55, 4300, 1600, 60),
    "k": (0.0, 400, 2000, 2500, 0.45, 2100, 700, 65),
    "f": (0.0, 400, 1100, 2300, 0.28, 5200, 3000, 85),
    "v": (0.4, 300, 1100, 2300, 0.16, 5000, 3000, 60),
    "th": (0.1, 350, 1400, 2500, 0.22, 6300, 2400, 75),
    "s": (0.0, 400, 1700, 2600, 0.55, 6400, 1300, 95),
    "z": (0.4, 280, 1700, 2600, 0.35, 6200, 1300, 75),
    "sh": (0.0, 400, 1900, 2500, 0.60, 3000, 900, 100),
    "ch": (0.0, 400, 1900, 2500, 0.65, 3500, 1100, 85),
    "j": (0.35, 280, 1900, 2500, 0.45, 3200, 1000, 70),
    "h": (0.0, 500, 1500, 2500, 0.22, 1600, 1800, 60),
    "-": (0.0, 400, 1500, 2500, 0.0, 0, 1, 28),
}
_STOPS = frozenset("bdgptk")
_SPELLING: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("tion", ("sh", "u", "n")),
    ("igh", ("a", "ee")),
    ("tch", ("ch",)),
    ("dge", ("j",)),
    ("ph", ("f",)),
    ("sh", ("sh",)),
    ("ch", ("ch",)),
    ("th", ("th",)),
    ("ck", ("k",)),
    ("ng", ("ng",)),
    ("qu", ("k", "w")),
    ("kn", ("n",)),
    ("wr", ("r",)),
    ("ee", ("ee",)),
    ("ea", ("ee",)),
    ("ie", ("ee",)),
    ("oo", ("oo",)),
    ("ou", ("a", "oo")),
    ("ow", ("ow",)),
    ("oa", ("ow",)),
    ("ai", ("ay",)),
    ("ay", ("ay",)),
    ("aw", ("o",)),
    ("au", ("o",)),
    ("er", ("er",)),
    ("ir", ("er",)),
    ("ur", ("er",)),
    ("ce", ("s",)),
    ("ci", ("s", "i")),
    ("ge", ("j",)),
    ("c", ("k",)),
    ("x", ("k", "s")),
    ("q", ("k",)),
)


def sounds(word: str) -> list[str]:
    """Spelling to sounds by a few rules: good enough to tell the words apart."""
    out: list[str] = []
    at = 0
    while at < len(word):
        for letters, found in _SPELLING:
            if word.startswith(letters, at):
                out += found
                at += len(letters)
                break
        else:
            letter = word[at]
            silent = letter == "e" and at == len(word) - 1 and len(word) > 3
            if letter == "y" and at == len(word) - 1:
                out.append("ee")
            elif letter in _SOUNDS and not silent and not (at and word[at - 1] == letter):
                out.append(letter)
            at += 1
    return out


def speak(word: str, voice: Voice, rng: random.Random) -> np.ndarray:
    """One word in a formant voice: float32 in -1..1, at most MAX_WORD samples."""
    track: list[tuple[float, ...]] = []
    for sound in sounds(word):
        if sound in _STOPS:
            track.append(_SOUNDS["-"])
        track.append(_SOUNDS[sound])
    lengths = np.array([s[7] for s in track]) / voice.tempo * np.array([rng.uniform(0.9, 1.1) for _ in track])
    lengths *= min(1.0, MAX_WORD / SAMPLE_RATE * 1000 / (lengths.sum() + 10))
    count = int(lengths.sum() * SAMPLE_RATE / 1000)
    step = 80  # 5 ms
    times = np.arange(0, count + step, step) / SAMPLE_RATE * 1000
    which = np.clip(np.searchsorted(np.cumsum(lengths), times, side="right"), 0, len(track) - 1)
    frames = np.array(track)[which, :7]
    kernel = np.hanning(9)
    kernel /= kernel.sum()
    smooth = np.stack([np.convolve(np.pad(c, 4, mode="edge"), kernel, mode="valid") for c in frames.T], axis=1)
    at = np.arange(count) / step
    index = np.arange(len(times))
    tracks = np.stack([np.interp(at, index, c) for c in smooth.T], axis=1)
    progress = np.linspace(0, 1, count)
    pitch = voice.pitch * (1 + 0.5 * voice.fall - voice.fall * progress)
    noise = np.random.default_rng(rng.getrandbits(32))
    out = _voiced(tracks, pitch, voice) + _noise(frames, count, step, voice, noise)
    edge = np.minimum(1, np.minimum(np.arange(count), np.arange(count)[::-1]) / 80)
    out *= edge
    return np.asarray(0.5 * out / max(1e-6, np.abs(out).max()), dtype=np.float32)


def _voiced(tracks: np.ndarray, pitch: np.ndarray, voice: Voice) -> np.ndarray:
    """Harmonics of the pitch, each as loud as the formants let it be."""
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    number = np.arange(1, int(4200 / pitch.min()) + 1)
    # Loudness changes slowly: compute it every 10 ms and interpolate.
    grid = np.arange(0, len(pitch) + 160, 160).clip(max=len(pitch) - 1)
    frequency = pitch[grid, None] * number
    loud: np.ndarray = np.zeros(frequency.shape)
    for column, (gain, width) in zip((1, 2, 3), ((1.0, 90.0), (0.6, 120.0), (0.3, 180.0)), strict=True):
        centre = tracks[grid, column, None] * voice.formants
        loud = loud + gain / (1 + ((frequency - centre) / width) ** 2)
    loud *= tracks[grid, :1]
    loud[frequency > 7000] = 0
    at = np.arange(len(pitch)) / 160
    low = np.minimum(at.astype(int), len(grid) - 2)
    part = (at - low)[:, None]
    level = loud[low] * (1 - part) + loud[low + 1] * part
    return np.asarray((level * np.sin(phase[:, None] * number)).sum(axis=1) * 0.5)


def _noise(frames: np.ndarray, count: int, step: int, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Shaped noise, overlap-added in windows of 10 ms."""
    size = 2 * step
    window = np.hanning(size)
    spectrum = np.fft.rfft(rng.standard_normal((len(frames), size)), axis=1)
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    level, centre, width = frames[:, 4:5], frames[:, 5:6] * (0.5 + 0.5 * voice.formants), frames[:, 6:7]
    shape = level * np.exp(-0.5 * ((frequency - centre) / width) ** 2) + voice.breath * frames[:, :1]
    pieces = np.fft.irfft(spectrum * shape, n=size, axis=1) * window
    out = np.zeros(len(frames) * step + size)
    for i, piece in enumerate(pieces):
        out[i * step : i * step + size] += piece
    return out[:count]


def utterance(clips: Sequence[np.ndarray], rng: random.Random, *, noise: bool = True) -> np.ndarray:
    """Lay word clips into their slots, with a random offset and gain, over faint noise: (SLOT * words,) float32."""
    out = np.zeros(SLOT * len(clips), dtype=np.float32)
    gain = rng.uniform(0.4, 1.6)
    for i, clip in enumerate(clips):
        start = i * SLOT + rng.randint(0, SLOT - len(clip))
        out[start : start + len(clip)] = clip * gain * rng.uniform(0.85, 1.15)
    level = rng.choice((0.0, 0.001, 0.003)) if noise else 0.0
    if level:
        out = out + level * np.random.default_rng(rng.getrandbits(32)).standard_normal(len(out), dtype=np.float32)
    return out


@lru_cache(maxsize=4096)
def _spoken(word: str, voice: Voice, seed: int) -> np.ndarray:
    return speak(word, voice, random.Random(seed))


def say(words: Sequence[str], rng: random.Random) -> np.ndarray:
    """A phrase in one formant voice drawn for it: (SLOT * words,) float32."""
    voice = draw_voice(rng)
    return utterance([_spoken(word, voice, rng.getrandbits(16)) for word in words], rng)
