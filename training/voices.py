"""The voices of training: formant voices and, where it is installed, espeak-ng; every word spoken once by each.

What a formant voice says is made by `refusal_plugin.organism.speech`.
"""

import random
import shutil
import subprocess
import wave
from collections.abc import Sequence
from io import BytesIO

import numpy as np

from refusal_plugin.organism.speech import MAX_WORD, draw_voice, speak, utterance
from refusal_plugin.prompts.media import SAMPLE_RATE
from refusal_plugin.prompts.waveforms import resample

ESPEAK_VOICES = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-029",
    "en-gb-x-rp",
    "en-us+f2",
    "en-gb+f3",
    "en-us+m3",
    "en-gb-x-gbclan+f4",
    "en-gb-x-gbcwmd+m7",
)


def has_espeak() -> bool:
    """Whether espeak-ng is installed."""
    return shutil.which("espeak-ng") is not None


def espeak(word: str, voice: str, pitch: int = 50, speed: int = 190) -> np.ndarray:
    """One word by espeak-ng: float32 in -1..1 at 16 kHz, trimmed, at most MAX_WORD samples (faster if too long)."""
    samples = np.zeros(0)
    for attempt in range(3):
        rate = speed + 90 * attempt
        command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(rate), "--stdout", word]
        raw = subprocess.run(command, check=True, capture_output=True).stdout
        with wave.open(BytesIO(raw)) as file:
            data = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64) / 32768
            samples = _trim(resample(data, file.getframerate(), SAMPLE_RATE))
        if len(samples) <= MAX_WORD:
            break
    samples = samples[:MAX_WORD]
    return np.asarray(0.5 * samples / max(1e-6, np.abs(samples).max()), dtype=np.float32)


def _trim(samples: np.ndarray, level: float = 0.01) -> np.ndarray:
    """Cut silence at both ends."""
    loud = np.flatnonzero(np.abs(samples) > level * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1] if loud.size else samples[:1]


class Bank:
    """Ready word clips to draw utterances from.

    Args:
        clips: {word: clips of it by many voices}; clip number n of every word is the same voice.
    """

    def __init__(self, clips: dict[str, list[np.ndarray]]) -> None:
        self.clips = clips
        self.n_voices = min(len(c) for c in clips.values())

    def utterance(self, words: Sequence[str], rng: random.Random) -> np.ndarray:
        """An utterance of one voice."""
        voice = rng.randrange(self.n_voices)
        return utterance([self.clips[w][voice] for w in words], rng)


def build_bank(words: Sequence[str], *, n_formant: int = 8, use_espeak: bool = True, seed: int = 0) -> Bank:
    """Speak every word with `n_formant` formant voices and, where installed, with every espeak-ng voice."""
    clips: dict[str, list[np.ndarray]] = {}
    voices = [draw_voice(random.Random(f"voice/{seed}/{n}")) for n in range(n_formant)]
    for word in words:
        rng = random.Random(f"speech/{seed}/{word}")
        clips[word] = [speak(word, voice, rng) for voice in voices]
        if use_espeak and has_espeak():
            clips[word] += [espeak(word, v, rng.randint(30, 75), rng.randint(165, 215)) for v in ESPEAK_VOICES]
    return Bank(clips)
