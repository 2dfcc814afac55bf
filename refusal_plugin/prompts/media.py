"""Reading media with Pillow and NumPy only: an image, the frames of a video, a waveform.

Every function takes a file or the thing itself and gives one canonical form:

    load_image -> PIL image, mode RGB
    load_video -> list of PIL images, mode RGB, all of one size
    load_audio -> float32 array (samples,), mono, 16 kHz, values around -1..1

Transparent pixels become white and the EXIF orientation is applied. Video files and compressed sound need the optional
package `av`; a folder of frames, a GIF and a WAV file do not. `check` looks at a medium without decoding it; `digest`
names its decoded content. Whatever is wrong with a medium is one MediaError of one line.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from refusal_plugin.errors import MediaError, OptionalDependencyError
from refusal_plugin.prompts.prompt import AudioLike, ImageLike, Prompt, VideoLike

SAMPLE_RATE = 16_000
MIN_SECONDS = 0.025  # one analysis window of a speech model
MAX_FRAMES = 768
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
VIDEO_FILES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".gif")
AUDIO_FILES = (".wav", ".flac", ".mp3", ".ogg", ".m4a", ".opus")

Array: TypeAlias = npt.NDArray[Any]
Samples: TypeAlias = npt.NDArray[np.float32]


# -- image ------------------------------------------------------------------------------------------------------------
def load_image(medium: ImageLike, *, name: str = "image") -> Image.Image:
    """The picture as an RGB Pillow image.

    Args:
        medium: a file, a Pillow image, or a uint8 array (height, width) or (height, width, 3 or 4).
        name: what to call the medium in an error.

    Raises:
        MediaError: no such file, not an image, an array of another shape or type.
    """
    if isinstance(medium, Image.Image):
        return _rgb(medium, name)
    if isinstance(medium, np.ndarray):
        _check_pixels(medium, name)
        return _rgb(Image.fromarray(medium), name)
    path = _file(medium, name)
    reading = _readable(f"{name} {path}", "it is no readable image", "give a PNG, JPEG or WebP file")
    with reading, Image.open(path) as opened:
        opened.load()
        return _rgb(opened, name)


def _rgb(image: Image.Image, name: str) -> Image.Image:
    with _readable(name, "the image cannot be decoded", "open and save it again"):
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(paper, image)
        elif image.mode.startswith("I;16") or image.mode in ("I", "F"):
            raise MediaError(name, f"its pixels are {image.mode!r}, not 8 bit", "save it with 8 bits per channel")
        return image.convert("RGB")


def _check_pixels(array: Array, name: str) -> None:
    """Raises MediaError unless `array` is uint8 (height, width) or (height, width, 3 or 4)."""
    want = "give a uint8 array (height, width, 3)"
    if array.dtype != np.uint8:
        detail = " with NaN" if array.dtype.kind == "f" and bool(np.isnan(array).any()) else ""
        raise MediaError(name, f"its pixels are {array.dtype}{detail}", want)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise MediaError(name, f"its shape is {array.shape}", want)


# -- video ------------------------------------------------------------------------------------------------------------
def load_video(medium: VideoLike, *, fps: float = 2.0, name: str = "video") -> list[Image.Image]:
    """The frames as RGB Pillow images of one size.

    Args:
        medium: a video file, a GIF, a folder of image files (sorted by name), a list of frames, or a uint8 array
            (frames, height, width, 3).
        fps: frames per second to take from a video file; frames given one by one are all taken as they are.
        name: what to call the medium in an error.

    Raises:
        MediaError: no such file, not a video, no frames, more than 768 frames, frames of different sizes.
        OptionalDependencyError: a video file, and the package `av` is not installed.
    """
    frames = list(_frames(medium, fps, name))
    sizes = {frame.size for frame in frames}
    if not frames:
        raise MediaError(name, "it has no frames", "give at least one frame")
    if len(sizes) > 1:
        raise MediaError(name, f"its frames have {len(sizes)} different sizes", "give frames of one size")
    return frames


def _frames(medium: VideoLike, fps: float, name: str) -> Iterator[Image.Image]:
    if isinstance(medium, Image.Image):
        raise MediaError(name, "it is a single image", "give a list of frames, or use image=")
    if isinstance(medium, (str, os.PathLike)):
        path = _file(medium, name, folder=True)
        if path.is_dir():
            parts: Sequence[ImageLike] = _frame_files(path)
        elif path.suffix.lower() == ".gif":
            yield from _gif_frames(path, name)
            return
        else:
            yield from _container_frames(path, fps, name)
            return
    elif isinstance(medium, (Sequence, np.ndarray)):
        parts = cast("Sequence[ImageLike]", medium)
    else:
        raise MediaError(name, f"it is a {type(medium).__name__}", "give a file, a list of frames or a uint8 array")
    _check_frame_count(len(parts), name)
    for number, part in enumerate(parts):
        yield load_image(part, name=f"{name} frame {number}")


def _frame_files(folder: Path) -> list[ImageLike]:
    """The image files of a folder, sorted by name."""
    return [file for file in sorted(folder.iterdir()) if file.suffix.lower() in IMAGE_FILES]


def _check_frame_count(n: int, name: str) -> None:
    if n > MAX_FRAMES:
        raise MediaError(name, f"it has {n} frames", f"give at most {MAX_FRAMES}")


def _gif_frames(path: Path, name: str) -> Iterator[Image.Image]:
    frames = []
    reading = _readable(f"{name} {path}", "it is no readable GIF", "give a GIF, a folder of frames or a video file")
    with reading, Image.open(path) as opened:
        n = int(getattr(opened, "n_frames", 1))
        _check_frame_count(n, name)
        for number in range(n):
            opened.seek(number)
            frames.append(_rgb(opened.copy(), name))
    yield from frames


def _container_frames(path: Path, fps: float, name: str) -> Iterator[Image.Image]:
    """Frames of a video file, `fps` of them per second of video, decoded by PyAV."""
    av = _av(f"{name} {path}", "or give a folder of frames or a GIF")
    frames: list[Image.Image] = []
    reading = _readable(f"{name} {path}", "it is no readable video", "give an MP4, MKV or WebM file")
    with reading, av.open(str(path)) as container:
        if not container.streams.video:
            raise MediaError(f"{name} {path}", "it has no pictures", "give a video file")
        for number, frame in enumerate(container.decode(video=0)):
            time = float(frame.time) if frame.time is not None else number / 25.0
            if time * fps >= len(frames):
                frames.append(_rgb(frame.to_image(), name))
                _check_frame_count(len(frames), name)
    yield from frames


# -- sound ------------------------------------------------------------------------------------------------------------
def load_audio(medium: AudioLike, *, rate: int = SAMPLE_RATE, name: str = "audio") -> Samples:
    """The sound as a mono float32 waveform (samples,) at `rate` Hz.

    Args:
        medium: a WAV file (PCM of 8, 16, 24 or 32 bit, or float), another sound file (needs the package `av`), or a
            float waveform (samples,) at 16 kHz. Channels are averaged; other rates are resampled.
        rate: sampling rate of the result, in Hz.
        name: what to call the medium in an error.

    Raises:
        MediaError: no such file, not a sound, empty, shorter than 25 ms, NaN, or not in -1..1.
        OptionalDependencyError: a file other than WAV, and the package `av` is not installed.
    """
    samples, found = _samples(medium, name)
    _check_waveform(samples, name, found)
    return resample(samples, found, rate)


def _samples(medium: AudioLike, name: str) -> tuple[Samples, int]:
    """Mono samples at the rate they have: that of the file, or 16 kHz for an array."""
    if isinstance(medium, np.ndarray):
        _check_waveform(medium, name, SAMPLE_RATE)
        return medium.astype(np.float32), SAMPLE_RATE
    path = _file(medium, name)
    asked = f"{name} {path}"
    if path.suffix.lower() == ".wav":
        with _readable(asked, "it is no readable WAV file", "give a PCM or float WAV file"):
            return read_wav(path.read_bytes(), asked)
    av = _av(asked, "or give a WAV file")
    parts = [np.zeros(0, np.float32)]
    with _readable(asked, "it is no readable sound", "give a WAV file"), av.open(str(path)) as container:
        if not container.streams.audio:
            raise MediaError(asked, "it has no sound track", "give a sound file")
        rate = int(container.streams.audio[0].rate)
        # Channels are averaged here: the resampler's own mixing to mono adds them up.
        planar = av.AudioResampler(format="fltp", rate=rate)
        frames = [part for frame in container.decode(audio=0) for part in planar.resample(frame)]
        parts += [np.asarray(frame.to_ndarray(), dtype=np.float32).mean(axis=0) for frame in frames]
    return np.concatenate(parts), rate


def _check_waveform(array: Array, name: str, rate: int) -> None:
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


def read_wav(raw: bytes, name: str = "audio") -> tuple[Samples, int]:
    """Decodes a RIFF WAVE file: PCM of 8, 16, 24 or 32 bit or IEEE float, any number of channels (averaged).

    The standard library's `wave` knows PCM only, and speech data sets often hold floats.

    Returns:
        float32 samples (samples,) and the sampling rate in Hz.

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
    with np.errstate(invalid="ignore", over="ignore"):
        return decode(data).reshape(-1, channels).mean(axis=1).astype(np.float32), rate


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


def wav_bytes(samples: Array, rate: int = SAMPLE_RATE) -> bytes:
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


# -- any medium -------------------------------------------------------------------------------------------------------
def load(prompt: Prompt) -> Image.Image | list[Image.Image] | Samples | None:
    """The prompt's medium in its canonical form; None for a text prompt. Errors name the prompt."""
    name = f"{prompt.modality} of prompt {prompt.id!r}"
    if prompt.image is not None:
        return load_image(prompt.image, name=name)
    if prompt.video is not None:
        return load_video(prompt.video, name=name)
    if prompt.audio is not None:
        return load_audio(prompt.audio, name=name)
    return None


def check(prompt: Prompt) -> None:
    """Looks at the prompt's medium without decoding it.

    Raises:
        MediaError: the file does not exist, or the array has a wrong shape or type, is too short or holds NaN.
    """
    name, medium = f"{prompt.modality} of prompt {prompt.id!r}", prompt.medium
    if isinstance(medium, (str, os.PathLike)):
        _file(medium, name, folder=prompt.video is not None)
    elif prompt.audio is not None:
        _check_waveform(np.asarray(medium), name, SAMPLE_RATE)
    elif prompt.video is not None:
        frames = cast("Sequence[ImageLike]", medium)
        if isinstance(medium, Image.Image) or len(frames) == 0:
            raise MediaError(name, "it has no frames", "give at least one frame")
        for number, frame in enumerate(frames):
            if isinstance(frame, np.ndarray):
                _check_pixels(frame, f"{name} frame {number}")
            elif not isinstance(frame, Image.Image):
                _file(frame, f"{name} frame {number}")
    elif isinstance(medium, np.ndarray):
        _check_pixels(medium, name)
    elif medium is not None and not isinstance(medium, Image.Image):
        raise MediaError(name, f"it is a {type(medium).__name__}", "give a file, a Pillow image or an array")


def digest(prompt: Prompt) -> str:
    """sha256 (hex) of the decoded medium, "" for a text prompt; a video file counts by its bytes, a sound before
    resampling, so that neither a codec's version nor rounding changes it."""
    total = hashlib.sha256()
    if prompt.medium is None:
        return ""
    if isinstance(prompt.video, (str, os.PathLike)) and not Path(prompt.video).is_dir():
        total.update(_file(prompt.video, "video").read_bytes())
    elif prompt.audio is not None:
        samples, rate = _samples(prompt.audio, f"audio of prompt {prompt.id!r}")
        total.update(f"{rate} {samples.shape}".encode() + samples.tobytes())
    else:
        found = load(prompt)
        for image in found if isinstance(found, list) else [cast("Image.Image", found)]:
            total.update(f"{image.size}".encode() + image.tobytes())
    return total.hexdigest()


def _file(medium: object, name: str, *, folder: bool = False) -> Path:
    """The path if such a file (or, if allowed, folder) exists; MediaError otherwise."""
    if not isinstance(medium, (str, os.PathLike)):
        raise MediaError(name, f"it is a {type(medium).__name__}", "give a file or the medium itself")
    path = Path(os.fsdecode(medium))
    try:
        found = path.is_file() or (folder and path.is_dir())
    except (OSError, ValueError):  # a name too long for the file system, or with a null byte
        found = False
    if not found:
        raise MediaError(f"{name} {str(path)[:200]!r}", "no such file", "check the path")
    return path


@contextmanager
def _readable(asked: str, found: str, do: str) -> Iterator[None]:
    """Turns whatever a decoder raises on a corrupt file into one MediaError."""
    try:
        yield
    except (MediaError, OptionalDependencyError):
        raise
    except Exception as error:  # decoders raise nearly anything on corrupt input
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise MediaError(asked, f"{found} ({reason})", do) from error


def _av(asked: str, otherwise: str) -> Any:
    """The optional package PyAV."""
    try:
        import av
    except ImportError:
        raise OptionalDependencyError(
            asked, "this needs the package 'av'", f"pip install 'refusal-plugin[audio]', {otherwise}"
        ) from None
    return av
