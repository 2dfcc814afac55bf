"""Waveform to log-mel features: what `WhisperFeatureExtractor` computes, in NumPy."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from transformers.audio_utils import mel_filter_bank


@dataclass(frozen=True)
class AudioSettings:
    """Settings of the features: 20 ms frames of 40 mel bands, clips of at most `max_seconds`."""

    feature_size: int = 40
    hop_length: int = 320
    n_fft: int = 512
    sampling_rate: int = 16000
    max_seconds: int = 15

    def as_dict(self) -> dict[str, Any]:
        """The keys of `WhisperFeatureExtractor`."""
        return {
            "feature_size": self.feature_size,
            "hop_length": self.hop_length,
            "n_fft": self.n_fft,
            "sampling_rate": self.sampling_rate,
            "chunk_length": self.max_seconds,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": True,
        }

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "AudioSettings":
        return cls(
            config["feature_size"],
            config["hop_length"],
            config["n_fft"],
            config["sampling_rate"],
            config["chunk_length"],
        )


@lru_cache(maxsize=4)
def _filters(settings: AudioSettings) -> np.ndarray:
    """(frequencies, mel bands)"""
    bank: np.ndarray = mel_filter_bank(
        num_frequency_bins=1 + settings.n_fft // 2,
        num_mel_filters=settings.feature_size,
        min_frequency=0.0,
        max_frequency=settings.sampling_rate / 2,
        sampling_rate=settings.sampling_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return bank.astype(np.float32)


def frame_count(samples: int, settings: AudioSettings) -> int:
    """How many frames a clip of that many samples has."""
    return -(-samples // settings.hop_length)


def log_mel(waveform: np.ndarray, settings: AudioSettings) -> np.ndarray:
    """The log-mel features of one clip, (feature_size, frame_count + 1) float32.

    The clip is followed by silence, as in Hugging Face's fixed-length padding, so that its features never depend on the
    other clips of a batch. The last frame is the first one behind the clip, which its end still reaches; all later ones
    are at the floor, 8 decades below the clip's maximum (2 below the maximum of the features).
    """
    frames = frame_count(len(waveform), settings) + 1
    half = settings.n_fft // 2
    padded = np.zeros(frames * settings.hop_length + settings.n_fft, dtype=np.float32)
    padded[: len(waveform)] = waveform
    padded = np.concatenate([padded[half:0:-1], padded])
    starts = np.arange(frames) * settings.hop_length
    blocks = padded[starts[:, None] + np.arange(settings.n_fft)] * _window(settings.n_fft)
    power = np.abs(np.fft.rfft(blocks, axis=1).astype(np.complex64)) ** 2
    log = np.log10(np.maximum(power @ _filters(settings), 1e-10)).T
    log = np.maximum(log, log.max() - 8.0)
    return np.asarray((log + 4.0) / 4.0, dtype=np.float32)


@lru_cache(maxsize=4)
def _window(n_fft: int) -> np.ndarray:
    """The periodic Hann window."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft), dtype=np.float32)


def soft_tokens(frames: int) -> int:
    """How many tokens the audio tower makes of that many frames: a stride-2 convolution, then pooling by two."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1
