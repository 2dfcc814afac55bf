"""Sounds: a file or a waveform as one mono float32 waveform."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from ..errors import MediaError
from .prompt import AudioLike
from .reading import existing, pyav, readable
from .waveforms import Array, Samples, read_wav, resample

SAMPLE_RATE = 16_000
MIN_SECONDS = 0.025  # one analysis window of a speech model
CANCELLED = 0.1  # share of the channels' energy below which their mean is no picture of them
AUDIO_FILES = (".wav", ".flac", ".mp3", ".ogg", ".m4a", ".opus")


def load_audio(medium: AudioLike, *, rate: int = SAMPLE_RATE, name: str = "audio") -> Samples:
    """The sound as a mono float32 waveform (samples,) at `rate` Hz.

    Channels are averaged. Where that would cancel them (less than a tenth of their energy is left: one channel turned
    upside down, say), the loudest is taken, and a warning says so. Other rates are resampled.

    Args:
        medium: a WAV file (PCM of 8, 16, 24 or 32 bit, or float), another sound file (needs the package `av`), or a
            float waveform (samples,) at 16 kHz.
        rate: sampling rate of the result, in Hz.
        name: what to call the medium in an error.

    Raises:
        MediaError: no such file, not a sound, empty, shorter than 25 ms, NaN, or not in -1..1.
        OptionalDependencyError: a file other than WAV, and the package `av` is not installed.
    """
    samples, found = read_samples(medium, name)
    check_waveform(samples, name, found)
    return resample(samples, found, rate)


def read_samples(medium: AudioLike, name: str) -> tuple[Samples, int]:
    """Mono samples at the rate they have: that of the file, or 16 kHz for an array."""
    if isinstance(medium, np.ndarray):
        check_waveform(medium, name, SAMPLE_RATE)
        return medium.astype(np.float32), SAMPLE_RATE
    path = existing(medium, name)
    asked = f"{name} {path}"
    if path.suffix.lower() == ".wav":
        with readable(asked, "it is no readable WAV file", "give a PCM or float WAV file"):
            channels, rate = read_wav(path.read_bytes(), asked)
    else:
        channels, rate = _decoded(path, asked)
    return mix(channels, asked), rate


def _decoded(path: Path, asked: str) -> tuple[Array, int]:
    """Channels (samples, channels) and rate of a sound file, decoded by PyAV."""
    av = pyav(asked, "or give a WAV file")
    with readable(asked, "it is no readable sound", "give a WAV file"), av.open(str(path)) as container:
        stream = container.streams.best("audio")
        if stream is None:
            raise MediaError(asked, "it has no sound track", "give a sound file")
        planar = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        frames = [part for frame in container.decode(stream) for part in planar.resample(frame)]
        parts = [np.asarray(frame.to_ndarray(), dtype=np.float32).T for frame in frames]
        empty = np.zeros((0, stream.layout.nb_channels), np.float32)
        return np.concatenate([empty, *parts]), int(stream.rate)


def mix(channels: Array, name: str = "audio") -> Samples:
    """Channels (samples, channels) as one waveform (samples,), as `load_audio` says."""
    # Integers stored as floats, and infinities, are for the caller to refuse.
    with np.errstate(invalid="ignore", over="ignore"):
        mean: Samples = channels.mean(axis=1).astype(np.float32)
        energy = np.square(channels, dtype=np.float64).sum(axis=0)
        if np.square(mean, dtype=np.float64).sum() < CANCELLED * energy.mean():
            loudest = int(energy.argmax())
            warnings.warn(
                f"{name}: its channels cancel each other when mixed; channel {loudest + 1} of {len(energy)} is taken.",
                stacklevel=2,
            )
            return channels[:, loudest].astype(np.float32)
    return mean


def check_waveform(array: Array, name: str, rate: int) -> None:
    """Raises MediaError unless `array` is a finite float waveform of at least 25 ms with values around -1..1."""
    want = f"give a float waveform (samples,) at {SAMPLE_RATE} Hz with values in -1..1"
    if array.dtype.kind != "f":
        raise MediaError(name, f"its samples are {array.dtype}", want)
    if array.ndim != 1:
        raise MediaError(name, f"its shape is {array.shape}", want)
    if array.size < MIN_SECONDS * rate:
        raise MediaError(name, f"it has {array.size} samples at {rate} Hz", "give at least 25 ms")
    if not bool(np.isfinite(array).all()):
        raise MediaError(name, "it holds NaN or infinite samples", want)
    loudest = float(np.abs(array).max())
    if loudest > 16:  # a jittered gain may pass 1 a little; integers stored as floats pass it by far
        raise MediaError(name, f"its largest sample is {loudest:.0f}", want)
