"""Whatever lies in a file, or is handed over: a prompt set, a medium, or one of our errors in one line."""

import csv
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refusal_plugin.errors import PromptError
from refusal_plugin.prompts import Clip, Prompt, PromptSet, encode, load_audio, load_image, load_video
from refusal_plugin.prompts.io import FIELDS
from refusal_plugin.prompts.media import check, digest
from refusal_plugin.prompts.waveforms import wav_bytes
from tests.support.fuzz import tried

pytestmark = [pytest.mark.fuzz, pytest.mark.filterwarnings("ignore")]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
PATHS = st.sampled_from(
    [
        "a.png",
        "a.wav",
        "clip",
        "a.gif",
        ".",
        "..",
        "../..",
        "/",
        "/dev/null",
        "a\0b",
        "x" * 5000,
        "",
        "~",
        "\ud800",
        "a.png/b",
    ]
)
WORDS = st.sampled_from(["train", "val", "test", "harmful", "benign", "near_miss", "do it", " ", ""])
ROWS = st.lists(st.dictionaries(st.sampled_from(FIELDS), WORDS | PATHS | JSON, max_size=6), max_size=4)
HARD = st.sampled_from(
    [b"[" * 100_000, b"1" * 5000, b'{"text": "\\ud800"}', b'{"text": "a", "image": "\\u0000"}', b"NaN"]
)


def ours(attempt: Callable[[], Any]) -> Any:
    """What comes out, or None where it is one of our errors; anything else fails the test."""
    try:
        return attempt()
    except PromptError as error:
        assert "\n" not in str(error) and len(str(error)) < 4000
        return None


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a medium of every kind."""
    folder = tmp_path_factory.mktemp("fuzz")
    frames = [Image.fromarray(np.full((6, 8, 3), 40 * level, np.uint8)) for level in range(3)]
    frames[0].save(folder / "a.png")
    (folder / "clip").mkdir()
    frames[1].save(folder / "clip" / "1.png")
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:], duration=500)
    (folder / "a.wav").write_bytes(wav_bytes(np.zeros(800)))
    return folder


# -- prompt files -----------------------------------------------------------------------------------------------------
def read(path: Path) -> None:
    for reader in (PromptSet.from_jsonl, PromptSet.from_csv, PromptSet.from_path):
        prompts = ours(lambda reader=reader: reader(path))
        if prompts is not None:
            assert all(isinstance(prompt, Prompt) for prompt in prompts)
            ours(lambda prompts=prompts: prompts.hash)
            ours(prompts.assigned)


@tried(0.12)
@given(raw=st.binary(max_size=80) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")) | HARD)
def test_any_bytes_are_a_set_or_an_error(home: Path, raw: bytes) -> None:
    (home / "any.jsonl").write_bytes(raw)
    read(home / "any.jsonl")


@tried(0.15)
@given(rows=ROWS)
def test_any_rows_are_a_set_or_an_error(home: Path, rows: list[dict[str, Any]]) -> None:
    (home / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read(home / "rows.jsonl")


@tried(0.1)
@given(
    header=st.lists(st.sampled_from([*FIELDS, "meta.", "meta.a", "", " text"]), max_size=5),
    cells=st.lists(
        st.lists(WORDS | PATHS.filter(lambda path: path != "\ud800") | st.text(max_size=8), max_size=6), max_size=4
    ),
    mark=st.sampled_from([",", ";", "\t"]),
)
def test_any_table_is_a_set_or_an_error(home: Path, header: list[str], cells: list[list[str]], mark: str) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=mark).writerows([header, *cells])
    (home / "TABLE.CSV").write_bytes(out.getvalue().encode("utf-8", "surrogatepass"))
    read(home / "TABLE.CSV")


NAMES = st.sampled_from(
    ["a.png", "a.txt", "b.wav", "._a.png", "c.mp4", "d", "prompts.csv", "times.txt", "e.GIF", "f.npy"]
)


@tried(0.08)
@given(
    files=st.lists(
        st.tuples(
            st.sampled_from(["", "harmful", "benign", "train/benign", "test/near_miss", "x"]),
            NAMES,
            st.binary(max_size=12),
        ),
        max_size=6,
    ),
    text=st.none() | st.text(max_size=4),
)
def test_any_folder_is_a_set_or_an_error(
    tmp_path_factory: Any, files: list[tuple[str, str, bytes]], text: str | None
) -> None:
    folder = tmp_path_factory.mktemp("folder")
    for home, name, raw in files:
        (folder / home).mkdir(parents=True, exist_ok=True)
        (folder / home / name).write_bytes(raw)
    prompts = ours(lambda: PromptSet.from_folder(folder, text=text))
    if prompts is not None:
        ours(lambda: prompts.hash)
    ours(lambda: load_video(folder))


# -- media ------------------------------------------------------------------------------------------------------------
def mutated(raw: bytes, edits: list[tuple[int, int]], keep: float) -> bytes:
    """`raw` with some bytes changed, cut to a share of its length."""
    out = bytearray(raw)
    for place, value in edits:
        out[place % len(out)] = value
    return bytes(out[: round(keep * len(out))])


EDITS = st.lists(st.tuples(st.integers(0, 100_000) | st.integers(0, 60), st.integers(0, 255)), max_size=12)
KEEP = st.just(1.0) | st.floats(0, 1)
KINDS = {"image": load_image, "video": load_video, "audio": load_audio}


def see(kind: str, path: Path) -> None:
    """Reads a medium in every way there is."""
    found = ours(lambda: KINDS[kind](path))
    prompt = ours(lambda: Prompt("do", **{kind: path}))
    ours(lambda: check(prompt))
    ours(lambda: digest(prompt))
    if found is not None and kind == "audio":
        assert found.ndim == 1 and np.isfinite(found).all()
    if found is not None and kind == "image":
        assert found.mode == "RGB"
    if isinstance(found, Clip):
        assert all(frame.size == found[0].size for frame in found) and len(found.times) == len(found) <= 768
        assert all(np.isfinite(found.times))


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small files of many formats, by ending."""
    draw = np.random.default_rng(0)
    frames = [Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)) for _ in range(4)]
    made = {}
    for ending, more in {
        "png": {},
        "jpg": {},
        "bmp": {},
        "tiff": {},
        "webp": {},
        "gif": {"save_all": True, "append_images": frames[1:], "duration": 200},
        "apng": {"format": "PNG", "save_all": True, "append_images": frames[1:], "duration": 200},
    }.items():
        out = io.BytesIO()
        frames[0].save(out, **{"format": {"jpg": "JPEG"}.get(ending, ending.upper()), **more})
        made[ending] = out.getvalue()
    made["wav"] = wav_bytes(draw.normal(size=700) * 0.1)
    return made


@tried(0.3)
@given(ending=st.sampled_from(["png", "jpg", "bmp", "tiff", "webp", "gif", "apng", "wav"]), edits=EDITS, keep=KEEP)
def test_a_damaged_file_is_a_medium_or_an_error(
    home: Path, samples: dict, ending: str, edits: Any, keep: float
) -> None:
    path = home / f"damaged.{ending}"
    path.write_bytes(mutated(samples[ending], edits, keep))
    for kind in {"wav": ("audio",), "gif": ("image", "video"), "apng": ("image", "video")}.get(ending, ("image",)):
        see(kind, path)


@tried(0.08)
@given(data=st.binary(max_size=300), head=st.tuples(*[st.integers(0, 2**16 - 1)] * 3), rate=st.integers(0, 2**32 - 1))
def test_any_wav_header_is_a_sound_or_an_error(home: Path, data: bytes, head: tuple[int, int, int], rate: int) -> None:
    code, channels, bits = head
    chunk = struct.pack("<HHIIHH", code % 5, channels % 9, rate, 0, 0, bits % 70)
    raw = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + chunk + b"data" + struct.pack("<I", len(data)) + data
    (home / "head.wav").write_bytes(raw)
    see("audio", home / "head.wav")


@pytest.fixture(scope="session")
def containers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Video and sound files by ending, written by PyAV."""
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'refusal-plugin[audio]'")
    made = {}
    for ending, codec in {"mp4": "mpeg4", "mkv": "mpeg4", "ts": "mpeg2video", "avi": "mpeg4"}.items():
        path = tmp_path_factory.mktemp("made") / f"a.{ending}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for level in range(10):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * level, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        made[ending] = path.read_bytes()
    return made


@tried(0.06)
@given(ending=st.sampled_from(["mp4", "mkv", "ts", "avi"]), edits=EDITS, keep=KEEP)
def test_a_damaged_video_is_a_clip_or_an_error(
    home: Path, containers: dict, ending: str, edits: Any, keep: float
) -> None:
    path = home / f"damaged.{ending}"
    path.write_bytes(mutated(containers[ending], edits, keep))
    see("video", path)
    see("audio", path)


# -- what is handed over ----------------------------------------------------------------------------------------------
@tried(0.06)
@given(
    levels=st.lists(st.integers(0, 255), max_size=4),
    times=st.none() | st.lists(st.floats() | st.integers(-5, 5), max_size=5),
    seconds=st.none() | st.floats(),
)
def test_any_clip_is_frames_with_times_or_an_error(levels: list[int], times: Any, seconds: Any) -> None:
    frames = [np.full((4, 4, 3), level, np.uint8) for level in levels]
    clip = ours(lambda: Clip(frames, times, seconds))
    if clip is not None and clip:
        found = load_video(clip)
        assert found.times == clip.times and len(found) == len(levels) and found.spacing > 0


@tried(0.05)
@given(
    text=st.text(max_size=30) | st.sampled_from(["<|end|>", "<image>", "\ud800", "how do i bake ?"]),
    system=st.none() | st.text(max_size=9),
)
def test_any_text_is_encoded_or_an_error(llama, text: str, system: str | None) -> None:
    batch = ours(lambda: encode(llama.source, Prompt(text), system=system))
    if batch is not None:
        assert batch.roles["last"].sum() == 1 and batch.roles["instruction"].any()
