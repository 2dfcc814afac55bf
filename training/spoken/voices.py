"""Who speaks in training: espeak-ng, eight accents in many voices, at many speeds; some voices are held out."""

import random
import subprocess
import wave
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt

from refusal_plugin.prompts.media import SAMPLE_RATE

from .sentences import Fold

ACCENTS = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-029",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-us-nyc",
)
VARIANTS: dict[Fold, tuple[str, ...]] = {
    "train": ("", "f1", "f2", "f4", "m1", "m2", "m3", "m5", "m6", "m7", "Alex", "Andrea", "Annie", "Michael", "linda"),
    "held_out": ("f3", "f5", "m4", "m8", "steph", "Andy"),
}
"""Voices of espeak-ng; a held-out one never speaks in training, in no accent."""


@dataclass(frozen=True)
class Speaker:
    """A voice as espeak-ng is told: its name, pitch 0..99, words a minute, and how loud it is afterwards (0..1)."""

    voice: str
    pitch: int
    speed: int
    loudness: float


def draw_speaker(fold: Fold, rng: random.Random) -> Speaker:
    """A speaker of a fold."""
    variant = rng.choice(VARIANTS[fold])
    voice = rng.choice(ACCENTS) + (f"+{variant}" if variant else "")
    return Speaker(voice, rng.randint(35, 65), rng.randint(140, 205), rng.uniform(0.15, 0.9))


def speak(text: str, speaker: Speaker) -> npt.NDArray[np.float32]:
    """A sentence: (samples,) at 16 kHz in -1..1, silence at both ends cut to 50 ms.

    Raises:
        FileNotFoundError: espeak-ng is not installed.
    """
    command = ["espeak-ng", "-v", speaker.voice, "-p", str(speaker.pitch), "-s", str(speaker.speed), "--stdout", text]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    with wave.open(BytesIO(raw)) as file:
        read = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64) / 32768
        count = round(len(read) * SAMPLE_RATE / file.getframerate())
    # By its spectrum: one sentence of silence around makes the wrap-around inaudible, and it is fast.
    samples = np.fft.irfft(np.fft.rfft(read)[: count // 2 + 1], n=count) * (count / len(read))
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    edge = SAMPLE_RATE // 20
    samples = samples[max(0, loud[0] - edge) : loud[-1] + edge]
    return np.asarray(speaker.loudness * samples / max(1e-6, float(np.abs(samples).max())), dtype=np.float32)
