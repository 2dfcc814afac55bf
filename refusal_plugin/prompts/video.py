"""Videos: a file, frames or an array as RGB frames of one size, with the time at which each is shown.

A file's times are those of its own clock, counted from the first picture: whatever its frame rate, wherever its clock
begins. Frames given one by one have no clock and count as two a second, unless a `Clip` or a file `times.txt` beside
them says when they are shown.
"""

from __future__ import annotations

import bisect
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from PIL import Image

from ..errors import MediaError
from .images import IMAGE_FILES, load_image, to_rgb
from .prompt import ImageLike, VideoLike
from .reading import existing, natural, pyav, readable

FRAME_RATE = 2.0
"""Frames per second that are taken from a file, and that frames without a clock count as."""
MAX_FRAMES = 768
VIDEO_FILES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".ts", ".mts", ".m2ts", ".m4v", ".mpg", ".mpeg", ".gif")
ANIMATED_FILES = (".gif", ".webp", ".apng", ".png")
TIMES_FILE = "times.txt"
"""Beside the frames in a folder: when each is shown, in seconds, one number a line, and perhaps when the last ends."""


@dataclass(frozen=True)
class Clock:
    """When the frames of a video are shown, before any are chosen.

    Attributes:
        times: of every frame, in seconds from the first one.
        seconds: how long the video lasts.
        rate: frames per second, on average.
    """

    times: tuple[float, ...]
    seconds: float
    rate: float

    @classmethod
    def of(cls, times: Sequence[float], seconds: float | None = None, rate: float | None = None) -> Clock:
        """A clock from times alone: the last frame lasts as long as the others do on average."""
        gap = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / FRAME_RATE
        begun = tuple(float(time - times[0]) for time in times)
        lasts = float(seconds if seconds is not None else begun[-1] + gap)
        return cls(begun, lasts, float(rate if rate is not None else len(begun) / lasts))

    def at(self, fps: float) -> list[int]:
        """Numbers of the frames that are on the screen at 0, 1 / fps, 2 / fps ... seconds."""
        # A damaged file may claim to last for years.
        n = min(max(1, math.ceil(self.seconds * fps - 1e-6)), 100 * MAX_FRAMES)
        return [bisect.bisect_right(self.times, k / fps + 1e-6) - 1 for k in range(n)]


Choose: TypeAlias = Callable[[Clock], Sequence[int]]
"""Numbers of the frames to take, in the order in which they are wanted."""
_Pick: TypeAlias = Callable[[Clock], tuple[list[int], list[float]]]
"""These numbers, and when each of the frames is taken to be shown."""


class Clip(list[Any]):
    """Frames with their times, to be given as a prompt's `video`; what `load_video` returns.

    Args:
        frames: as for `Prompt`.
        times: when each is shown, in seconds from the first; increasing. None: two a second.
        seconds: how long the clip lasts; None: the last frame lasts as long as the others do on average.

    Attributes:
        clock: of the video that the frames are from.
        times: of the frames, in seconds.
        numbers: which frames of that video they are.
        timed: whether somebody said the times.

    Raises:
        MediaError: as many times as frames are needed, each later than the one before.
    """

    def __init__(
        self, frames: Iterable[ImageLike], times: Sequence[float] | None = None, seconds: float | None = None
    ) -> None:
        super().__init__(frames)
        self.timed = times is not None
        self.numbers: tuple[int, ...] = tuple(range(len(self)))
        with readable("clip", "its times are no numbers", "give seconds"):
            when = [number / FRAME_RATE for number in self.numbers] if times is None else [float(t) for t in times]
        if len(when) != len(self):
            raise MediaError("clip", f"{len(when)} times for {len(self)} frames", "give one time per frame")
        # Closer than a microsecond, and longer than thirty years, they are a slip of units.
        if not all(map(math.isfinite, when)) or not all(first + 1e-6 <= second for first, second in pairwise(when)):
            raise MediaError("clip", "its times do not increase", "give seconds, each later than the one before")
        span = when[-1] - when[0] if when else 0.0
        if not span < 1e9 or not (seconds is None or span < seconds < 1e9):
            raise MediaError("clip", f"it lasts {seconds} s, its last frame comes at {span:g} s", "give seconds")
        self.clock = Clock.of(when or [0.0], seconds)
        self.times: tuple[float, ...] = self.clock.times[: len(self)]

    @classmethod
    def of(cls, frames: Iterable[Image.Image], clock: Clock, numbers: Sequence[int], times: Sequence[float]) -> Clip:
        """Frames that were chosen from a video."""
        clip = cls(frames)
        clip.timed, clip.clock, clip.numbers, clip.times = True, clock, tuple(numbers), tuple(times)
        return clip

    @property
    def spacing(self) -> float:
        """Seconds between two frames, on average."""
        return (self.times[-1] - self.times[0]) / (len(self) - 1) if len(self) > 1 else 1 / FRAME_RATE

    @property
    def schedule(self) -> list[float]:
        """Seconds from the first frame to each, and to the end: what `TIMES_FILE` holds."""
        begin = self.times[0]
        return [time - begin for time in (*self.times, self.clock.seconds)]


def load_video(
    medium: VideoLike, *, fps: float = FRAME_RATE, choose: Choose | None = None, name: str = "video"
) -> Clip:
    """The frames as RGB Pillow images of one size.

    Args:
        medium: a video file, an animated picture (GIF, WebP, APNG), a folder of image files (in the order of the
            numbers in their names, frame2 before frame10), a `Clip`, a list of frames, or a uint8 array (frames,
            height, width, 3).
        fps: frames per second to take from a file: those on the screen at 0, 1 / fps, 2 / fps ... seconds. Frames
            given one by one are all taken, and so are those of an animated picture that says no times.
        choose: takes frames of a file in its own way, instead of `fps`.
        name: what to call the medium in an error.

    Returns:
        a list that knows its frames' times.

    Raises:
        MediaError: no such file, not a video, no frames, more than 768 frames, frames of different sizes.
        OptionalDependencyError: a video file, and the package `av` is not installed.
    """

    def pick(clock: Clock) -> tuple[list[int], list[float]]:
        numbers = clock.at(fps) if choose is None else [int(number) for number in choose(clock)]
        _check_count(len(numbers), name)
        # Those on the screen at certain moments are shown then, however long they have been there.
        return numbers, [k / fps if choose is None else clock.times[n] for k, n in enumerate(numbers)]

    clip = _clip(medium, pick, name)
    sizes = {frame.size for frame in clip}
    if not clip:
        raise MediaError(name, "it has no frames", "give at least one frame")
    if len(sizes) > 1:
        raise MediaError(name, f"its frames have {len(sizes)} different sizes", "give frames of one size")
    return clip


def _clip(medium: VideoLike, pick: _Pick, name: str) -> Clip:
    if isinstance(medium, Image.Image):
        raise MediaError(name, "it is a single image", "give a list of frames, or use image=")
    if isinstance(medium, (str, os.PathLike)):
        path = existing(medium, name, folder=True)
        if path.is_dir():
            medium = folder_frames(path, name)
        elif path.suffix.lower() in ANIMATED_FILES:
            return _animation(path, pick, f"{name} {path}")
        else:
            return _container(path, pick, f"{name} {path}")
    if not isinstance(medium, (Sequence, np.ndarray)):
        raise MediaError(name, f"it is a {type(medium).__name__}", "give a file, a list of frames or a uint8 array")
    parts = cast("Sequence[ImageLike]", medium)
    _check_count(len(parts), name)
    frames = [load_image(part, name=f"{name} frame {number}") for number, part in enumerate(parts)]
    if isinstance(medium, Clip) and medium.timed:
        if len(frames) != len(medium.times):
            raise MediaError(name, f"{len(medium.times)} times for {len(frames)} frames", "make a new Clip")
        return Clip.of(frames, medium.clock, medium.numbers, medium.times)
    return Clip(frames)


def folder_frames(folder: Path, name: str) -> Clip:
    """The image files of a folder in the order of the numbers in their names, with the times that it says."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_FILES and file.name[:1] != "."]
    said = folder / TIMES_FILE
    times = None
    if said.is_file():
        with readable(f"{name} {said}", "it holds no times", "write seconds, one number a line"):
            times = [float(line) for line in said.read_text(encoding="utf-8").split()]
    end = times.pop() - times[0] if times is not None and len(times) == len(files) + 1 else None
    in_order: list[ImageLike] = [*sorted(files, key=lambda file: natural(file.name))]
    return Clip(in_order, times, end)


def _check_count(n: int, name: str) -> None:
    if n > MAX_FRAMES:
        raise MediaError(name, f"it has {n} frames", f"give at most {MAX_FRAMES}")


def _animation(path: Path, pick: _Pick, name: str) -> Clip:
    """Frames of an animated picture, through Pillow."""
    reading = readable(name, "it is no readable animation", "give a GIF, a folder of frames or a video file")
    with reading, Image.open(path) as opened:
        lasts = []
        n = int(getattr(opened, "n_frames", 1))
        if n == 1 and path.suffix.lower() != ".gif":
            raise MediaError(name, "it is a single image", "give several frames, or use image=")
        for number in range(n):
            opened.seek(number)
            opened.load()
            lasts.append(float(opened.info.get("duration") or 0) / 1000)
        if not any(lasts):
            _check_count(n, name)
            return Clip(_animated(opened, range(n), name))
        lasts = [seconds if seconds >= 0.02 else 0.1 for seconds in lasts]  # as browsers and ffmpeg do
        clock = Clock.of([sum(lasts[:number]) for number in range(n)], sum(lasts))
        numbers, times = pick(clock)
        return Clip.of(_animated(opened, numbers, name), clock, numbers, times)


def _animated(opened: Image.Image, numbers: Iterable[int], name: str) -> Iterator[Image.Image]:
    for number in numbers:
        opened.seek(number)
        yield to_rgb(opened.copy(), name)


def _container(path: Path, pick: _Pick, name: str) -> Clip:
    """Frames of a video file, decoded by PyAV."""
    av = pyav(name, "or give a folder of frames or a GIF")
    with readable(name, "it is no readable video", "give an MP4, MKV or WebM file"):
        # Reading the packets is fast. They tell the frames' times, unless some have none or cannot be decoded, as at
        # the beginning of a cut transport stream: then everything is decoded once to see what there is.
        for decode in (False, True):
            index = _index(av, path, name, decode)
            if index is None:
                continue
            numbers, times = pick(index.clock)
            found = _pictures(av, path, name, {index.stamps[number] for number in numbers}, index.counted)
            if all(index.stamps[number] in found for number in numbers):
                return Clip.of([found[index.stamps[number]] for number in numbers], index.clock, numbers, times)
    raise MediaError(name, "its pictures cannot be decoded", "write the file again")


@dataclass(frozen=True)
class _Index:
    """The frames of a file in the order in which they are shown.

    Attributes:
        stamps: what each is known by: its time stamp, or its number where frames were decoded to see them.
        counted: whether these are numbers.
        clock: when each is shown.
    """

    stamps: list[int]
    counted: bool
    clock: Clock


def _index(av: Any, path: Path, name: str, decode: bool) -> _Index | None:
    """What a file's packets, or its decoded frames, say of its frames; None if that is not enough."""
    with av.open(str(path)) as container:
        stream = _stream(av, container, name)
        packets = (packet for packet in container.demux(stream) if packet.size and not packet.is_discard)
        found = [(item.pts, item.duration) for item in (_decoded(av, container, stream) if decode else packets)]
        base, stated, guessed = stream.time_base, stream.average_rate, stream.guessed_rate
        # A bare stream has no clock: its stamps are made up.
        bare = bool(container.format.flags & av.format.Flags.no_timestamps.value)
    n = len(found)
    known = not bare and all(stamp is not None for stamp, _ in found)
    if not decode:
        if n == 0 or not known or len({stamp for stamp, _ in found}) < n:
            return None
        found.sort()
    elif n == 0:
        return None
    stamps = [stamp for stamp, _ in found]
    if not known or any(second <= first for first, second in pairwise(stamps)):
        rate = guessed or stated or Fraction(25)
        return _Index([*range(n)], True, Clock.of([float(k / rate) for k in range(n)], float(n / rate), float(rate)))
    last = found[-1][1] or (Fraction(stamps[-1] - stamps[0], n - 1) if n > 1 else Fraction(1, 25) / base)
    seconds = float((stamps[-1] - stamps[0] + last) * base)
    # The rate that a file states is exact where its stamps are rounded, but it may be a guess.
    rate = float(stated) if stated and abs(float(stated) * seconds - n) <= 0.5 + 0.01 * n else None
    clock = Clock.of([float((stamp - stamps[0]) * base) for stamp in stamps], seconds, rate)
    return _Index([*range(n)] if decode else stamps, decode, clock)


def _pictures(av: Any, path: Path, name: str, wanted: set[int], counted: bool) -> dict[int, Image.Image]:
    """The wanted frames of a file, by stamp or number."""
    found: dict[int, Image.Image] = {}
    with av.open(str(path)) as container:
        stream = _stream(av, container, name)
        stream.thread_type = "AUTO"
        for number, frame in enumerate(_decoded(av, container, stream)):
            stamp = number if counted else frame.pts
            if stamp in wanted and stamp not in found:
                found[stamp] = _upright(frame)
            if len(found) == len(wanted):
                break
    return found


def _stream(av: Any, container: Any, name: str) -> Any:
    """The video stream; a cover picture beside a sound is none."""
    best = container.streams.best("video")
    for stream in [*([] if best is None else [best]), *container.streams.video]:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise MediaError(name, "it has no pictures", "give a video file")


def _decoded(av: Any, container: Any, stream: Any) -> Iterator[Any]:
    """Frames in the order in which they are shown; a stream that was cut begins where it can be decoded."""
    begun = False
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if begun:
                raise
            continue
        begun = begun or bool(frames)
        yield from frames


def _upright(frame: Any) -> Image.Image:
    """A frame in RGB as ffmpeg converts it, turned and mirrored as the file says."""
    pixels = frame.to_ndarray(format="rgb24", interpolation="BICUBIC")
    for side in frame.side_data:
        if side.type.name == "DISPLAYMATRIX":
            # x' = a x + c y, y' = b x + d y, in units of 1 / 65536
            (a, b, _), (c, d, _), _ = np.frombuffer(bytes(side), "<i4").reshape(3, 3).tolist()
            if abs(b) > abs(a):
                pixels, a, d = pixels.swapaxes(0, 1), c, b
            pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return Image.fromarray(np.ascontiguousarray(pixels))
