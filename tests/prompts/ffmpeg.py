"""ffmpeg as the maker of test files and as the judge of what they hold."""

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

FFMPEG = shutil.which("ffmpeg")
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not on this machine: nobody to judge by")
CORNERS = "testsrc2=size=64x48:rate={rate}:duration={seconds}"
"""A picture that differs in every frame and in every corner."""


def run(*arguments: object) -> bytes:
    """ffmpeg's standard output."""
    command = [str(FFMPEG), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=True).stdout


def clip(file: Path, *more: object, rate: object = 30, seconds: float = 4) -> Path:
    """A test picture as a video file; `more` are ffmpeg's output options."""
    run("-f", "lavfi", "-i", CORNERS.format(rate=rate, seconds=seconds), *more, file)
    return file


def pixels(file: Path, width: int, height: int) -> np.ndarray:
    """Every frame of a file, (frames, height, width, 3)."""
    raw = run("-i", file, "-map", "0:V:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def samples(file: Path, rate: int | None = None) -> np.ndarray:
    """The sound of a stereo or mono file as mono float32 samples, the mean of its channels.

    With `-ac 1` ffmpeg mixes so too, but only into whole numbers; floats it leaves louder by the root of two.
    """
    more = [] if rate is None else ["-ar", rate]
    mean = ["-af", "aformat=channel_layouts=stereo,pan=mono|c0=0.5*c0+0.5*c1"] if rate is None else []
    return np.frombuffer(run("-i", file, *mean, *more, "-f", "f32le", "-"), np.float32)


ONE, UNIT = 1 << 16, 1 << 30
TURNS = {
    "90": (0, ONE, 0, -ONE, 0, 0, 0, 0, UNIT),
    "180": (-ONE, 0, 0, 0, -ONE, 0, 0, 0, UNIT),
    "270": (0, -ONE, 0, ONE, 0, 0, 0, 0, UNIT),
    "mirrored": (-ONE, 0, 0, 0, ONE, 0, 0, 0, UNIT),
    "upside down": (ONE, 0, 0, 0, -ONE, 0, 0, 0, UNIT),
    "transposed": (0, ONE, 0, ONE, 0, 0, 0, 0, UNIT),
    "transposed the other way": (0, -ONE, 0, -ONE, 0, 0, 0, 0, UNIT),
}
"""The display matrix of an MP4 file by what it does."""


def turned(source: Path, target: Path, matrix: tuple[int, ...]) -> Path:
    """A copy of an MP4 file that says how its pictures are to be turned."""
    raw = bytearray(source.read_bytes())
    place = raw.index(b"tkhd") + 44
    raw[place : place + 36] = struct.pack(">9i", *matrix)
    target.write_bytes(raw)
    return target
