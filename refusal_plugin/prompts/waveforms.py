"""Waveforms as numbers: WAV files, mixing to one channel, resampling; NumPy alone."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import MediaError

Array: TypeAlias = npt.NDArray[Any]
Samples: TypeAlias = npt.NDArray[np.float32]


def read_wav(raw: bytes, name: str = "audio") -> tuple[Array, int]:
    """Decodes a RIFF WAVE file: PCM of 8, 16, 24 or 32 bit or IEEE float, any number of channels.

    The standard library's `wave` knows PCM only, and speech data sets often hold floats.

    Returns:
        float64 channels (samples, channels) and the sampling rate in Hz.

    Raises:
        MediaError: not such a file, or a rate outside 1-384 kHz.
    """
    chunks: dict[bytes, bytes] = {}
    place = 12
    if raw[:4] != b"RIFF" or raw[8:12] != b"WAVE":
        raise MediaError(name, "it does not start like a WAV file", "give a PCM or float WAV file")
    while place + 8 <= len(raw):
        key, size = struct.unpack_from("<4sI", raw, place)
        chunks.setdefault(key, raw[place + 8 : place + 8 + size])
        place += 8 + size + size % 2
    if len(chunks.get(b"fmt ", b"")) < 16 or b"data" not in chunks:
        raise MediaError(name, "it has no format or no data chunk", "give a complete WAV file")
    code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunks[b"fmt "])
    if code == 0xFFFE and len(chunks[b"fmt "]) >= 26:  # "extensible": the real code opens the sub-format field
        code = struct.unpack_from("<H", chunks[b"fmt "], 24)[0]
    decode = _DECODERS.get((code, bits))
    if decode is None or channels < 1:
        raise MediaError(name, f"format {code} with {bits} bits, {channels} channels", "give PCM or float samples")
    if not 1_000 <= rate <= 384_000:
        raise MediaError(name, f"its rate is {rate} Hz", "give 1000 to 384000 Hz")
    width = bits // 8 * channels
    data = chunks[b"data"][: len(chunks[b"data"]) // width * width]
    return decode(data).reshape(-1, channels), rate


def _decode_24_bit(data: bytes) -> Array:
    """24-bit samples put into the upper three bytes of 32-bit ones."""
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return wide.view("<i4").reshape(-1) / 2.0**31


_DECODERS: dict[tuple[int, int], Callable[[bytes], Array]] = {
    (1, 8): lambda data: (np.frombuffer(data, np.uint8) - 128.0) / 128.0,
    (1, 16): lambda data: np.frombuffer(data, "<i2") / 2.0**15,
    (1, 24): _decode_24_bit,
    (1, 32): lambda data: np.frombuffer(data, "<i4") / 2.0**31,
    (3, 32): lambda data: np.frombuffer(data, "<f4").astype(np.float64),
    (3, 64): lambda data: np.frombuffer(data, "<f8").astype(np.float64),
}


def wav_bytes(samples: Array, rate: int = 16_000) -> bytes:
    """A mono 32-bit float WAV file: what `read_wav` gives back bit for bit."""
    data = np.asarray(samples, dtype="<f4").tobytes()
    head = struct.pack("<HHIIHHH", 3, 1, rate, rate * 4, 4, 32, 0)
    fact = struct.pack("<4sII", b"fact", 4, len(data) // 4)
    body = (
        b"WAVE" + struct.pack("<4sI", b"fmt ", len(head)) + head + fact + struct.pack("<4sI", b"data", len(data)) + data
    )
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def resample(samples: Array, rate: int, to: int, *, half_width: int = 24) -> Samples:
    """Band-limited resampling with a Hann-windowed sinc.

    `y[n] = sum_k x[k] c sinc(c (t - k)) w(t - k)`, `t = n rate / to`, `c = min(1, to / rate)`: the filter cuts at the
    lower of the two Nyquist frequencies.

    Args:
        samples: (samples,).
        rate: their rate in Hz.
        to: the rate wanted, in Hz.
        half_width: zero crossings of the sinc on each side.

    Returns:
        float32, ceil(samples * to / rate) long.
    """
    if rate == to or samples.size == 0:
        return np.asarray(samples, dtype=np.float32)
    cut = min(1.0, to / rate)
    reach = math.ceil(half_width / cut)
    padded = np.pad(np.asarray(samples, dtype=np.float64), reach + 1)
    out = np.empty(-(-samples.size * to // rate), np.float32)
    taps = np.arange(-reach, reach + 2)
    for start in range(0, out.size, 8192):  # in blocks, to keep the (block, taps) table small
        numerators = np.arange(start, min(start + 8192, out.size), dtype=np.int64) * rate
        whole = numerators // to
        distance = (numerators % to / to)[:, None] - taps
        window = np.where(np.abs(distance) < reach + 1, np.cos(np.pi * distance / (2 * (reach + 1))) ** 2, 0.0)
        out[start : start + 8192] = (
            padded[whole[:, None] + taps + reach + 1] * (cut * np.sinc(cut * distance) * window)
        ).sum(1)
    return out
