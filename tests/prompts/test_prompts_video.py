"""Videos: the file's own clock, upright pictures, natural order, ffmpeg's pixels; nothing cut in silence."""

from pathlib import Path

import ffmpeg
import numpy as np
import pytest
from ffmpeg import TURNS, needs_ffmpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refusal_plugin.errors import MediaError
from refusal_plugin.organism import load_processor
from refusal_plugin.prompts import Clip, Prompt, PromptSet, load_image, load_video
from refusal_plugin.prompts.media import check
from refusal_plugin.prompts.neutral import neutral_media
from refusal_plugin.prompts.video import Clock

X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")


def grey(level: int, size: tuple[int, int] = (8, 6)) -> Image.Image:
    return Image.new("RGB", size, (level, level, level))


def array(clip: Clip) -> np.ndarray:
    return np.stack([np.asarray(frame) for frame in clip])


# -- the clock --------------------------------------------------------------------------------------------------------
@settings(max_examples=60)
@given(
    gaps=st.lists(st.floats(0.001, 3.0), min_size=1, max_size=60),
    start=st.floats(-100, 100_000),
    fps=st.sampled_from([0.5, 1.0, 2.0, 5.0]),
)
def test_frames_are_those_on_the_screen_wherever_the_clock_begins(gaps: list[float], start: float, fps: float) -> None:
    times = np.cumsum([0.0, *gaps[:-1]])
    clock = Clock.of([start + time for time in times], float(sum(gaps)))
    numbers = clock.at(fps)
    assert abs(len(numbers) - sum(gaps) * fps) <= 1 and len(numbers) >= 1
    for k, number in enumerate(numbers):
        assert clock.times[number] <= k / fps + 1e-5
        assert number + 1 == len(times) or clock.times[number + 1] >= k / fps - 1e-5


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("plain.mp4", X264),
        ("late.mkv", (*X264, "-output_ts_offset", 100)),
        ("late.mp4", (*X264, "-output_ts_offset", 100)),
        ("transport.ts", X264),
        ("late.ts", (*X264, "-output_ts_offset", 5000)),
        ("mpeg.mpg", ("-c:v", "mpeg2video")),
        ("old.avi", ("-c:v", "mpeg4", "-bf", 2)),
        ("web.webm", ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", 8)),
        ("raw.h264", X264),
        ("lossless.mkv", ("-c:v", "ffv1")),
    ],
)
def test_a_clip_of_four_seconds_has_eight_frames_in_every_container(tmp_path: Path, name: str, more: tuple) -> None:
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'refusal-plugin[audio]'")
    file = ffmpeg.clip(tmp_path / name, *more, rate=30)
    clip = load_video(file)
    assert len(clip) == 8
    # Containers round stamps to milliseconds, and so may take the frame before.
    assert clip.times == tuple(np.arange(8) / 2)
    assert np.allclose([clip.clock.times[number] for number in clip.numbers], clip.times, atol=0.035)
    assert abs(clip.clock.seconds - 4) < 0.05 and abs(clip.clock.rate - 30) < 0.2
    shown = ffmpeg.pixels(file, 64, 48)
    assert np.abs(array(clip).astype(int) - shown[list(clip.numbers)]).max() <= 2


@needs_ffmpeg
@pytest.mark.parametrize("rate", ["1", "7", "12.5", "24000/1001", "30000/1001", "50", "240"])
def test_any_frame_rate(tmp_path: Path, rate: str) -> None:
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'refusal-plugin[audio]'")
    clip = load_video(ffmpeg.clip(tmp_path / "a.mp4", *X264, rate=rate, seconds=3))
    assert len(clip) == np.ceil(2 * clip.clock.seconds - 1e-6) and abs(clip.clock.seconds - 3) < 0.05
    shown = [clip.clock.times[number] for number in clip.numbers]
    assert all(-1e-3 < k / 2 - time < 1 / clip.clock.rate + 1e-3 for k, time in enumerate(shown))


@needs_ffmpeg
def test_a_frame_rate_that_varies(tmp_path: Path) -> None:
    """Three frames stand still for ten seconds, as in a recorded screen: they are not made up for afterwards."""
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'refusal-plugin[audio]'")
    source = ffmpeg.clip(tmp_path / "a.mkv", "-c:v", "ffv1", rate=10, seconds=2)
    late = tmp_path / "b.mkv"
    ffmpeg.run("-i", source, "-vf", "setpts=PTS+gt(N\\,9)*10/TB", "-fps_mode", "vfr", "-c:v", "ffv1", late)
    clip = load_video(late)
    assert len(clip) == 24 and clip.numbers[2:22] == (9,) * 20 and clip.numbers[22] == 10
    assert clip.clock.times[10] == pytest.approx(11, abs=0.01) and clip.spacing == 0.5


@needs_ffmpeg
def test_a_transport_stream_that_was_cut_begins_where_it_can_be_decoded(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'refusal-plugin[audio]'")
    whole = ffmpeg.clip(tmp_path / "a.ts", *X264, "-g", 15, rate=30)
    raw = whole.read_bytes()
    (tmp_path / "cut.ts").write_bytes(raw[len(raw) // 188 // 4 * 188 :])
    clip = load_video(tmp_path / "cut.ts")
    assert 5 <= len(clip) <= 7 and clip.times[0] == 0
    shown = ffmpeg.pixels(tmp_path / "cut.ts", 64, 48)
    assert np.abs(array(clip)[0].astype(int) - shown[0]).max() <= 2


@needs_ffmpeg
def test_a_cover_picture_is_no_video_and_no_hindrance(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'refusal-plugin[audio]'")
    grey(3, (64, 48)).save(tmp_path / "cover.png")
    tone = ("-f", "lavfi", "-i", "sine=duration=1")
    cover = ("-i", tmp_path / "cover.png", "-map", "0", "-map", "1", "-disposition:v:0", "attached_pic")
    ffmpeg.run(*tone, *cover, "-c:v", "png", tmp_path / "a.mp3")
    with pytest.raises(MediaError, match="no pictures"):
        load_video(tmp_path / "a.mp3")


# -- pixels -----------------------------------------------------------------------------------------------------------
@needs_ffmpeg
@pytest.mark.parametrize("turn", TURNS)
def test_pictures_are_turned_and_mirrored_as_ffmpeg_does(tmp_path: Path, turn: str) -> None:
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'refusal-plugin[audio]'")
    file = ffmpeg.turned(ffmpeg.clip(tmp_path / "a.mp4", *X264), tmp_path / "b.mp4", TURNS[turn])
    clip = load_video(file)
    assert clip[0].size == ((48, 64) if turn in ("90", "270") or "transposed" in turn else (64, 48))
    shown = ffmpeg.pixels(file, *clip[0].size)[list(clip.numbers)]
    assert np.abs(array(clip).astype(int) - shown).max() <= 2


@needs_ffmpeg
@pytest.mark.parametrize(
    "more",
    [
        (*X264, "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"),
        ("-c:v", "libx264", "-pix_fmt", "yuvj420p"),
        ("-c:v", "libx264", "-pix_fmt", "yuv444p"),
        ("-c:v", "libx264", "-pix_fmt", "gray"),
        # Lossless: between coded chroma of ten bits, versions of ffmpeg interpolate differently.
        ("-c:v", "ffv1", "-pix_fmt", "yuv420p10le"),
    ],
)
def test_colours_are_those_of_ffmpeg(tmp_path: Path, more: tuple) -> None:
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'refusal-plugin[audio]'")
    file = ffmpeg.clip(tmp_path / "a.mkv", *more, seconds=1)
    clip = load_video(file)
    assert np.abs(array(clip).astype(int) - ffmpeg.pixels(file, 64, 48)[list(clip.numbers)]).max() <= 2


# -- frames -----------------------------------------------------------------------------------------------------------
def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 9, 10, 11, 100):
        grey(number).save(tmp_path / f"frame{number}.png")
    (tmp_path / "._frame1.png").write_bytes(b"what macOS leaves behind")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert [frame.getpixel((0, 0))[0] for frame in load_video(tmp_path)] == [1, 2, 9, 10, 11, 100]


def test_a_folder_may_say_its_times(tmp_path: Path) -> None:
    for number in range(3):
        grey(number).save(tmp_path / f"{number}.png")
    assert load_video(tmp_path).times == (0, 0.5, 1.0)
    (tmp_path / "times.txt").write_text("10\n10.25\n12\n")
    assert load_video(tmp_path).times == (0, 0.25, 2.0)
    for wrong, says in (("1\n2\n", "2 times for 3 frames"), ("1\n3\n2\n", "do not increase"), ("x", "no times")):
        (tmp_path / "times.txt").write_text(wrong)
        with pytest.raises(MediaError, match=says):
            load_video(tmp_path)
        with pytest.raises(MediaError, match=says):
            check(Prompt("do", video=tmp_path))


@pytest.mark.parametrize(
    ("times", "seconds", "says"),
    [
        ([0.0], None, "1 times for 2 frames"),
        ([0.0, 0.0], None, "do not increase"),
        ([1.0, float("nan")], None, "do not increase"),
        ([0.0, float("inf")], None, "do not increase"),
        ([0.0, 1.0], 0.5, "its last frame comes at 1 s"),
        ([0.0, 1.0], float("nan"), "it lasts nan s"),
        ([0.0, 1e300], None, "comes at 1e"),
        ([0.0, 5e-324], None, "do not increase"),
        (None, 0.0, "it lasts 0.0 s"),
    ],
)
def test_a_bad_clip(times: list[float] | None, seconds: float | None, says: str) -> None:
    with pytest.raises(MediaError, match=says):
        Clip([grey(0), grey(1)], times, seconds)


def test_the_times_of_a_clip_count_in_its_names_and_survive_a_file(tmp_path: Path) -> None:
    frames = [grey(level) for level in range(4)]
    prompts = [
        Prompt("do", video=medium) for medium in (frames, Clip(frames, [0, 1, 2, 4]), Clip(frames, [0, 1, 2, 3]))
    ]
    assert (
        len({prompt.id for prompt in prompts})
        == 3
        == len({PromptSet([p.replace(id="x", pair="x")]).hash for p in prompts})
    )
    written = PromptSet(prompts)
    back = PromptSet.from_jsonl(written.to_jsonl(tmp_path / "a.jsonl"))
    assert back.hash == written.hash
    assert [load_video(prompt.video).times for prompt in back] == [(0, 0.5, 1, 1.5), (0, 1, 2, 4), (0, 1, 2, 3)]


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_an_animated_picture_is_read_on_its_own_clock(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a.{ending}"
    frames = [grey(10 * level) for level in range(20)]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=100, lossless=True)
    clip = load_video(file)
    assert [frame.getpixel((0, 0))[0] for frame in clip] == [0, 50, 100, 150]
    assert clip.times == pytest.approx((0, 0.5, 1, 1.5)) and clip.clock.seconds == pytest.approx(2)


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tiff"])
def test_several_pictures_in_one_are_no_image(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a.{ending}"
    grey(1).save(file, save_all=True, append_images=[grey(200), grey(90)])
    with pytest.raises(MediaError, match="it holds 3 pictures"):
        load_image(file)
    with Image.open(file) as opened:
        with pytest.raises(MediaError, match="it holds 3 pictures"):
            load_image(opened)
        assert load_image(opened.copy()).size == (8, 6)


def test_a_clip_whose_frames_were_changed_is_refused() -> None:
    clip = Clip([grey(0), grey(1)], [0, 1])
    clip.append(grey(2))
    with pytest.raises(MediaError, match="2 times for 3 frames"):
        load_video(clip)


def test_a_still_image_is_no_video(tmp_path: Path) -> None:
    grey(1).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="single image"):
        load_video(tmp_path / "a.png")


def test_a_photo_with_a_preview_is_one_picture(tmp_path: Path) -> None:
    grey(1, (32, 32)).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[grey(200, (16, 16))])
    assert load_image(tmp_path / "a.jpg").size == (32, 32)


def test_neutral_clips_have_the_clock_of_those_they_stand_for() -> None:
    frames = [grey(level) for level in range(3)]
    like = [Prompt("do", video=Clip(frames, [0, 1, 5], 7)), Prompt("do", video=frames)]
    timed, untimed = (load_video(medium) for medium in neutral_media("video", 2, like=like))
    assert timed.times == (0, 1, 5) and timed.clock.seconds == 7 and timed[0].size == (8, 6)
    assert untimed.times == (0, 0.5, 1.0) and not untimed.timed


# -- the embedded model -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("times", "seconds"), [(None, 1.0), ([0.0, 0.5, 1.0, 1.5], 1.0), ([0.0, 0.25, 0.5, 0.75], 0.5)]
)
def test_the_embedded_model_is_told_the_times(times: list[float] | None, seconds: float) -> None:
    found = load_processor("organism")(text="<|VIDEO|>", videos=[Clip([grey(k, (32, 32)) for k in range(4)], times)])
    assert found["video_second_per_grid"].tolist() == [seconds]


def test_the_embedded_model_says_which_frames_it_leaves_out() -> None:
    frames = [grey(k, (32, 32)) for k in range(62)]
    with pytest.warns(UserWarning, match="A video of 62 frames: the embedded model reads 32 of them"):
        found = load_processor("organism")(text="<|VIDEO|>", videos=[frames])
    assert found["video_grid_thw"][0, 0] == 16
    assert found["video_second_per_grid"].item() == pytest.approx(2 * 30.5 / 31)
