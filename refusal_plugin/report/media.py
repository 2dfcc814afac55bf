"""Media inside the page: only data URIs of known image and sound types are shown, all else is named, not loaded."""

import base64
import binascii
import io
import itertools
import re
import struct
import wave
from array import array

IMAGE = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}\Z")
AUDIO = re.compile(r"data:audio/(?:wav|x-wav|wave|mpeg|ogg|flac|mp4);base64,[A-Za-z0-9+/]+={0,2}\Z")
SMALL = 200  # pixels; below it an image is enlarged with hard edges, so that its pixels are seen as they are


def is_image(uri: object) -> bool:
    """Whether this is an image the page may show: a data URI, never an address."""
    return isinstance(uri, str) and IMAGE.match(uri) is not None


def is_audio(uri: object) -> bool:
    """Whether this is a sound the page may play: a data URI, never an address."""
    return isinstance(uri, str) and AUDIO.match(uri) is not None


def _bytes(uri: str) -> bytes:
    try:
        return base64.b64decode(uri.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        return b""


def png_size(uri: str) -> tuple[int, int] | None:
    """Width and height in pixels from a PNG's header; None for other formats."""
    head = _bytes(uri[: uri.find(",") + 1 + 64]) if uri.startswith("data:image/png") else b""
    if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    width, height = struct.unpack(">II", head[16:24])
    return int(width), int(height)


def envelope(uri: str, bins: int = 150) -> tuple[list[float], float] | None:
    """The outline of a 16-bit PCM wav: peak per bin in [0, 1], and its length in seconds; None if it is unreadable."""
    try:
        with wave.open(io.BytesIO(_bytes(uri)), "rb") as sound:
            if sound.getsampwidth() != 2 or sound.getframerate() <= 0:
                return None
            samples = array("h", sound.readframes(sound.getnframes()))[:: sound.getnchannels()]
            seconds = sound.getnframes() / sound.getframerate()
    except (wave.Error, EOFError, ValueError, struct.error):
        return None
    if not samples:
        return None
    edges = [round(i * len(samples) / bins) for i in range(bins + 1)]
    peaks = [max((abs(s) for s in samples[a : max(b, a + 1)]), default=0) for a, b in itertools.pairwise(edges)]
    top = max(peaks) or 1
    return [peak / top for peak in peaks], seconds
