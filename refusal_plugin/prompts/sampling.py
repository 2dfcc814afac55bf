"""Frames as a family's own processor chooses them, and their times as it takes them.

A processor of a family with a clock turns times into positions or writes them between the frames. It takes them as
metadata of the video; those of Qwen's omni models take only a rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import MediaError
from .video import FRAME_RATE, Choose, Clip, Clock


def family_sampler(processor: Any) -> Choose | None:
    """How a processor chooses frames of a video file with its own settings; None where it does not.

    One whose checkpoint says neither a rate nor a number of frames is asked for two a second: it would take every
    frame of a file, which is hundreds of pictures for a few seconds.
    """
    own: Any = getattr(processor, "video_processor", None)
    if not hasattr(own, "sample_frames"):
        return None

    def choose(clock: Clock) -> Sequence[int]:
        from transformers.video_utils import VideoMetadata

        known = VideoMetadata(total_num_frames=len(clock.times), fps=clock.rate, duration=clock.seconds)
        try:
            return [int(number) for number in own.sample_frames(metadata=known, **_settings(own))]
        except Exception as error:  # a sampler's own complaints name no clip
            why = " ".join(str(error).split())[:160]
            found = f"the model's sampler fails on {len(clock.times)} frames in {clock.seconds:g} s ({why})"
            raise MediaError("choose frames of a video", found, "give the frames themselves") from error

    return choose


def _settings(own: Any) -> dict[str, Any]:
    """A video processor's settings as it hands them to its own sampler."""
    names = getattr(own.valid_kwargs, "__annotations__", {})
    settings = {name: getattr(own, name, None) for name in names}
    if not settings.get("do_sample_frames") and not settings.get("fps") and not settings.get("num_frames"):
        settings["fps"] = FRAME_RATE
    return settings


def time_arguments(processor: Any, clip: Clip) -> dict[str, Any]:
    """Keyword arguments that tell a Hugging Face processor when the frames of a clip are shown.

    The frames are taken as they are. Their numbers are those of the file where it has one rate; where it has not, the
    places of their times on a clock of its mean rate, which need not be whole.
    """
    own = getattr(processor, "video_processor", None)
    if not hasattr(own, "sample_frames"):  # a processor of an older kind, which knows no times
        return {"do_sample_frames": False}
    from transformers.video_utils import VideoMetadata

    clock = clip.clock
    places = [time * clock.rate for time in clip.times]
    whole = [round(place) for place in places]
    even = all(abs(place - number) < 0.1 for place, number in zip(places, whole, strict=True))
    known = VideoMetadata(
        total_num_frames=len(clock.times),
        fps=clock.rate,
        duration=clock.seconds,
        frames_indices=whole if even else places,  # type: ignore[arg-type]
        width=clip[0].width,
        height=clip[0].height,
    )
    return {"do_sample_frames": False, "video_metadata": [known], "fps": 1 / clip.spacing}
