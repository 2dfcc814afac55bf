"""Media: the canonical forms, and one readable error for whatever cannot be read."""

import io
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refusal_plugin.errors import MediaError
from refusal_plugin.prompts import Prompt, load_audio, load_image, load_video
from refusal_plugin.prompts.media import check, digest
from refusal_plugin.prompts.waveforms import read_wav, resample, wav_bytes

PIXELS = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "PNG")
    return out.getvalue()


def pcm(width: int, channels: int = 1, rate: int = 16_000, n: int = 1600) -> bytes:
    """A PCM WAV file of a 440 Hz tone at half of full scale, written by the standard library."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(n) / rate)
    scaled = np.round(tone * (2 ** (8 * width - 1) - 1)).astype(np.int64) + (128 if width == 1 else 0)
    raw = b"".join(int(v).to_bytes(width, "little", signed=width > 1) * channels for v in scaled)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw)
    return out.getvalue()


def test_an_image_from_a_file_an_array_and_pillow_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    for medium in (tmp_path / "a.png", str(tmp_path / "a.png"), PIXELS, Image.fromarray(PIXELS)):
        image = load_image(medium)
        assert image.mode == "RGB" and np.array_equal(np.asarray(image), PIXELS)


def test_transparency_becomes_white_and_grey_becomes_rgb() -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    assert np.asarray(load_image(clear)).min() == 255
    assert load_image(np.full((4, 4), 7, np.uint8)).getpixel((0, 0)) == (7, 7, 7)
    assert load_image(Image.new("P", (4, 4))).mode == "RGB"


def test_the_orientation_of_a_photo_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").size == (6, 8)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((4, 4, 3)), "float64"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros(4, np.uint8), "shape"),
    ],
)
def test_a_bad_array_is_no_image(array: np.ndarray, says: str) -> None:
    with pytest.raises(MediaError, match=says):
        load_image(array)
    with pytest.raises(MediaError, match=says):
        check(Prompt("do", image=array))


@pytest.mark.parametrize("path", ["missing.png", "a\0b", "x" * 5000, "/"])
def test_a_path_that_leads_nowhere(path: str) -> None:
    for load in (load_image, load_audio):
        with pytest.raises(MediaError, match="no such file"):
            load(path)
    with pytest.raises(MediaError):
        load_video(path)


def test_16_bit_pixels_are_refused_rather_than_clipped() -> None:
    with pytest.raises(MediaError, match="8 bit"):
        load_image(Image.fromarray(np.full((4, 4), 40_000, np.uint16)))


def test_a_video_from_frames_an_array_a_folder_and_a_gif(tmp_path: Path) -> None:
    frames = np.stack([PIXELS, 255 - PIXELS, PIXELS])
    (tmp_path / "clip").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "clip" / f"{number}.png")
    for medium in (frames, list(frames), [Image.fromarray(frame) for frame in frames], tmp_path / "clip"):
        assert np.array_equal(np.stack([np.asarray(frame) for frame in load_video(medium)]), frames)
    grey = [Image.new("L", (8, 6), value) for value in (0, 100, 200)]
    grey[0].save(tmp_path / "a.gif", save_all=True, append_images=grey[1:])
    assert [frame.getpixel((0, 0)) for frame in load_video(tmp_path / "a.gif")] == [(v, v, v) for v in (0, 100, 200)]


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([], "no frames"),
        (Image.fromarray(PIXELS), "single image"),
        ([PIXELS, PIXELS[:3]], "2 different sizes"),
        ([PIXELS, PIXELS.astype(float)], "frame 1: its pixels"),
        (np.zeros((800, 4, 4, 3), np.uint8), "800 frames"),
    ],
)
def test_a_bad_video(frames: object, says: str) -> None:
    with pytest.raises(MediaError, match=says):
        load_video(frames)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_of_every_width(tmp_path: Path, width: int, channels: int) -> None:
    (tmp_path / "a.wav").write_bytes(pcm(width, channels))
    sound = load_audio(tmp_path / "a.wav")
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(1600) / 16_000)
    assert sound.dtype == np.float32 and np.abs(sound - tone).max() < (0.01 if width == 1 else 1e-4)


def test_float_wav_is_kept_bit_for_bit(noise) -> None:
    samples, rate = read_wav(wav_bytes(noise(1)))
    assert rate == 16_000 and np.array_equal(samples[:, 0], noise(1))


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_a_tone_and_drops_what_would_alias(rate: int) -> None:
    time = np.arange(rate) / rate
    sound = resample(0.5 * np.sin(2 * np.pi * 440 * time), rate, 16_000)
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert len(sound) == 16_000 and np.abs(sound - wanted)[500:-500].max() < 1e-5
    if rate > 32_000:
        assert np.abs(resample(np.sin(2 * np.pi * 11_000 * time), rate, 16_000))[500:-500].max() < 1e-3


def test_channels_and_rate_of_a_file_become_mono_16_khz(tmp_path: Path) -> None:
    (tmp_path / "a.WAV").write_bytes(pcm(2, channels=2, rate=44_100, n=44_100))
    assert load_audio(tmp_path / "a.WAV").shape == (16_000,)
    assert load_audio(tmp_path / "a.WAV", rate=24_000).shape == (24_000,)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros(0, np.float32), "0 samples"),
        (np.zeros(100, np.float32), "25 ms"),
        (np.full(800, np.nan), "NaN"),
        (np.full(800, np.inf), "NaN or infinite"),
        (np.zeros(800, np.int16), "int16"),
        (np.full(800, 20_000.0), "20000"),
        (np.zeros((2, 800)), "shape"),
    ],
)
def test_a_bad_waveform(array: np.ndarray, says: str) -> None:
    with pytest.raises(MediaError, match=says):
        load_audio(array)
    with pytest.raises(MediaError, match=says):
        check(Prompt("do", audio=array))


def test_a_wav_without_samples(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(pcm(2, n=0))
    with pytest.raises(MediaError, match="0 samples"):
        load_audio(tmp_path / "a.wav")


def test_other_containers_need_an_optional_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from refusal_plugin.errors import OptionalDependencyError

    monkeypatch.setitem(__import__("sys").modules, "av", None)
    for name, load in (("a.mp3", load_audio), ("a.mp4", load_video)):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(OptionalDependencyError, match="audio"):
            load(tmp_path / name)


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    assert digest(Prompt("a", image=tmp_path / "a.png")) == digest(Prompt("b", image=PIXELS))
    assert digest(Prompt("a", image=PIXELS)) != digest(Prompt("a", image=255 - PIXELS))
    assert digest(Prompt("a")) == ""


def test_video_files_and_compressed_sound_through_pyav(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frames = [av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * i, np.uint8), format="rgb24") for i in range(30)]
        for frame in [*frames, None]:
            container.mux(stream.encode(frame))
    assert len(load_video(tmp_path / "a.mp4")) == 6  # 3 seconds, 2 frames each
    assert len(load_video(tmp_path / "a.mp4", fps=5)) == 15
    tone = (np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100) * 16_000).astype(np.int16)
    with av.open(str(tmp_path / "a.flac"), "w") as container:
        stream = container.add_stream("flac", rate=44_100, layout="stereo")
        sound = av.AudioFrame.from_ndarray(np.stack([tone, tone], 1).reshape(1, -1), format="s16", layout="stereo")
        sound.sample_rate = 44_100
        for frame in [sound, None]:
            container.mux(stream.encode(frame))
    wanted = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000) * 16_000 / 2**15
    assert np.abs(load_audio(tmp_path / "a.flac") - wanted)[500:-500].max() < 1e-3
    for name, load in (("a.mp4", load_audio), ("a.flac", load_video)):
        with pytest.raises(MediaError, match="it has no"):
            load(tmp_path / name)
    (tmp_path / "bad.mp4").write_bytes(b"garbage" * 100)
    with pytest.raises(MediaError, match="no readable video"):
        load_video(tmp_path / "bad.mp4")
