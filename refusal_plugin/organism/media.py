"""Whatever a user has (path, PIL image, array) to one plain form: RGB images, lists of frames, 16 kHz waveforms."""

import io
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from refusal_plugin.errors import MediaError, OptionalDependencyError

SAMPLE_RATE = 16000
FRAME_RATE = 2.0
"""Frames per second at which video files are sampled and frame lists are read, as in Qwen2.5-Omni."""

MAX_FRAMES = 32
MIN_SAMPLES = 1600
"""Shorter clips are filled with silence: the audio tower needs a few frames."""


def as_image(image: Any) -> Image.Image:
    """A path, PIL image or (height, width[, 1 | 3 | 4]) array -> RGB image; transparency is laid on white.

    Float arrays are read as 0..1 if no value exceeds 1, else as 0..255.

    Raises:
        MediaError: the file cannot be read, or the array is empty, not finite or of another shape.
    """
    if isinstance(image, (str, Path)):
        try:
            with Image.open(image) as opened:
                opened.load()
                return _rgb(opened)
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
            raise MediaError(
                f"read the image {image}",
                f"{type(problem).__name__}: {_line(problem)}",
                "pass a PNG, JPEG or other image file",
            ) from problem
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise MediaError("read an image", f"{image.size[0]}x{image.size[1]} pixels", "pass an image with pixels")
        return _rgb(image)
    array = np.asarray(image)
    if (
        array.dtype == object
        or array.ndim not in (2, 3)
        or 0 in array.shape
        or (array.ndim == 3 and array.shape[2] not in (1, 3, 4))
    ):
        raise MediaError(
            "read an image",
            f"{type(image).__name__} of shape {array.shape}",
            "pass a path, a PIL image or a (height, width, 3) uint8 array",
        )
    if array.dtype != np.uint8:
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise MediaError("read an image", "values that are not finite", "pass values of 0..255")
        array = (array * (255.0 if array.max() <= 1.0 else 1.0)).round().clip(0, 255).astype(np.uint8)
    return _rgb(Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array))


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB, transparent pixels on white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def as_frames(video: Any) -> list[Image.Image]:
    """A list of frames, a (frames, height, width, 3) array, or a video file -> RGB frames of one size.

    Files are decoded through PyAV (extra `audio`) and sampled at FRAME_RATE; at most MAX_FRAMES frames, evenly chosen.

    Raises:
        MediaError: no frames, frames of different sizes, or an unreadable file.
        OptionalDependencyError: a file, and PyAV is not installed.
    """
    if isinstance(video, (str, Path)):
        frames = _decode(Path(video))
    elif isinstance(video, Sequence) or (isinstance(video, np.ndarray) and video.ndim == 4):
        frames = [as_image(frame) for frame in video]
    else:
        raise MediaError(
            "read a video",
            f"{type(video).__name__}",
            "pass a list of frames, a (frames, height, width, 3) array or a file",
        )
    if not frames:
        raise MediaError("read a video", "0 frames", "pass at least one frame")
    if len({frame.size for frame in frames}) > 1:
        raise MediaError(
            "read a video", f"frames of {len({f.size for f in frames})} different sizes", "resize them to one size"
        )
    if len(frames) > MAX_FRAMES:
        frames = [frames[i] for i in np.linspace(0, len(frames) - 1, MAX_FRAMES).round().astype(int)]
    return frames


def _decode(path: Path) -> list[Image.Image]:
    """Frames of a video file, one per 1 / FRAME_RATE seconds."""
    if not path.is_file():
        raise MediaError(f"read the video {path}", "no such file", "pass an existing video file")
    try:
        import av
    except ImportError as problem:
        raise OptionalDependencyError(
            f"read the video file {path}",
            "PyAV is not installed",
            "pip install 'refusal-plugin[audio]', or pass a list of frames",
        ) from problem
    frames: list[Image.Image] = []
    try:
        with av.open(str(path)) as container:
            due = 0.0
            for index, frame in enumerate(container.decode(video=0)):
                time = float(frame.time) if frame.time is not None else index / 25
                if time + 1e-6 >= due:
                    frames.append(frame.to_image())
                    due += 1 / FRAME_RATE
    except (av.FFmpegError, OSError, IndexError, ValueError) as problem:
        raise MediaError(
            f"read the video {path}",
            f"{type(problem).__name__}: {_line(problem)}",
            "pass a video file that PyAV can decode",
        ) from problem
    return frames


def as_waveform(sound: Any, max_seconds: float = 15.0) -> np.ndarray:
    """A float waveform at 16 kHz, or a wav file (8, 16, 24, 32 bit, any rate, any channels) -> (samples,) float32.

    Integer arrays are scaled to -1..1; a (samples, channels) or (channels, samples) array is mixed to mono.

    Raises:
        MediaError: empty, not finite, longer than `max_seconds`, or an unreadable file.
    """
    name = "a sound"
    if isinstance(sound, (str, Path)):
        name = f"the sound {sound}"
        samples = _read_wav(Path(sound), max_seconds)
    else:
        array = np.asarray(sound)
        if (
            array.dtype == object
            or not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer))
            or array.ndim not in (1, 2)
        ):
            raise MediaError(
                "read a sound",
                f"{type(sound).__name__} of shape {array.shape}",
                "pass a 1-d float waveform at 16 kHz or a wav file",
            )
        if np.issubdtype(array.dtype, np.integer):
            info = np.iinfo(array.dtype)
            array = (array.astype(np.float64) - (128 if info.min == 0 else 0)) / (
                128 if info.bits == 8 else float(info.max)
            )
        samples = array.mean(axis=int(array.shape[0] > array.shape[1])) if array.ndim == 2 and array.size else array
    samples = samples.astype(np.float32).reshape(-1)
    if samples.size == 0:
        raise MediaError(f"read {name}", "0 samples", "pass a sound with samples")
    if not np.isfinite(samples).all():
        raise MediaError(f"read {name}", "samples that are not finite", "pass finite samples in -1..1")
    if samples.size > max_seconds * SAMPLE_RATE:
        raise MediaError(f"read {name}", f"{samples.size / SAMPLE_RATE:.1f} s", f"cut it to at most {max_seconds:g} s")
    return samples if samples.size >= MIN_SAMPLES else np.pad(samples, (0, MIN_SAMPLES - samples.size))


def _read_wav(path: Path, max_seconds: float) -> np.ndarray:
    """Samples of a PCM wav file, mono, resampled to 16 kHz."""
    try:
        with wave.open(io.BytesIO(path.read_bytes())) as file:
            rate, channels, width, count = (
                file.getframerate(),
                file.getnchannels(),
                file.getsampwidth(),
                file.getnframes(),
            )
            if rate <= 0 or channels <= 0:
                raise wave.Error(f"{rate} Hz, {channels} channels")
            if count > (max_seconds + 1) * rate:
                raise MediaError(
                    f"read the sound {path}", f"{count / rate:.1f} s", f"cut it to at most {max_seconds:g} s"
                )
            raw = file.readframes(count)
    except (OSError, EOFError, wave.Error) as problem:
        raise MediaError(
            f"read the sound {path}", f"{type(problem).__name__}: {_line(problem)}", "pass a PCM wav file"
        ) from problem
    raw = raw[: len(raw) // (width * channels) * width * channels]
    if width == 1:
        samples = (np.frombuffer(raw, np.uint8).astype(np.float64) - 128) / 128
    elif width == 3:
        parts = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.int32)
        samples = (((parts[:, 0] << 8) | (parts[:, 1] << 16) | (parts[:, 2] << 24)) >> 8) / float(1 << 23)
    else:
        samples = np.frombuffer(raw, f"<i{width}").astype(np.float64) / float(1 << (8 * width - 1))
    return resample(samples.reshape(-1, channels).mean(axis=1), rate)


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """To 16 kHz by cutting or extending the spectrum (band-limited)."""
    if rate == SAMPLE_RATE or samples.size == 0:
        return samples
    count = max(1, round(samples.size * SAMPLE_RATE / rate))
    spectrum = np.fft.rfft(samples)
    out = np.zeros(count // 2 + 1, dtype=complex)
    kept = min(out.size, spectrum.size)
    out[:kept] = spectrum[:kept]
    return np.fft.irfft(out, n=count) * (count / samples.size)


def _line(problem: BaseException) -> str:
    """The first line of a message, for one-line errors."""
    return (str(problem).splitlines() or [""])[0].strip() or "unreadable"
