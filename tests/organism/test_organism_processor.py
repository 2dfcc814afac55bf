"""The processor: parity with Hugging Face's processors, padding, any ordinary input, one-line errors."""

import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from refusal_plugin.errors import MediaError, OptionalDependencyError, PromptError
from refusal_plugin.organism import checkpoint_path, load_processor
from refusal_plugin.organism.media import as_frames, as_waveform
from refusal_plugin.organism.processor import OmniProcessor
from refusal_plugin.prompts import load_image


@pytest.fixture(scope="module")
def processor() -> OmniProcessor:
    return load_processor("organism")


@pytest.fixture(scope="module")
def model() -> Any:
    folder = checkpoint_path("organism")
    return Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_images_equal_the_hugging_face_processor(processor: OmniProcessor) -> None:
    sizes = [(32, 64), (480, 640), (640, 480), (20, 200), (9, 9), (1, 150), (2000, 1500)]
    images = [Image.fromarray(noise(h, w, i)) for i, (h, w) in enumerate(sizes)]
    theirs = Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 1024, "longest_edge": 8192}
    )(images=images, return_tensors="pt")
    ours = processor(text=["<|IMAGE|>"] * len(images), images=images)
    assert torch.equal(ours["image_grid_thw"], theirs["image_grid_thw"])
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"], atol=1e-6, rtol=0)


def test_sound_equals_the_whisper_feature_extractor(processor: OmniProcessor) -> None:
    rng = np.random.default_rng(0)
    clips = [(0.1 * rng.normal(size=n)).astype(np.float32) for n in (20480, 16000, 12345, 160000)]
    extractor = WhisperFeatureExtractor.from_pretrained(checkpoint_path("organism"))
    theirs = extractor(
        clips, sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="pt"
    )
    ours = processor(text=["<|AUDIO|>"] * len(clips), audio=clips)
    frames = ours["input_features"].shape[-1]
    torch.testing.assert_close(ours["input_features"], theirs["input_features"][:, :, :frames], atol=2e-5, rtol=0)
    assert torch.equal(ours["feature_attention_mask"].long(), theirs["attention_mask"][:, :frames].long())
    assert theirs["attention_mask"][:, frames:].sum() == 0


def test_a_still_clip_equals_its_image(processor: OmniProcessor) -> None:
    image = noise(16, 64)
    clip = processor(text="<|VIDEO|>", videos=[[image, image]])
    still = processor(text="<|IMAGE|>", images=[image])
    assert torch.equal(clip["pixel_values_videos"], still["pixel_values"])
    assert torch.equal(clip["video_grid_thw"], still["image_grid_thw"])
    assert clip["video_second_per_grid"].tolist() == [1.0]


def render(processor: OmniProcessor, text: str, modality: str) -> str:
    """One user turn with a medium before the text, and the start of the answer."""
    parts = [{"type": modality}] if modality != "text" else []
    return str(processor.apply_chat_template([{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]))


def rows(processor: OmniProcessor, modality: str) -> tuple[list[str], dict[str, Any]]:
    """Three prompts of different lengths (and media of different sizes)."""
    texts = ["do this .", "please tell me how to do what it says .", "read it"]
    prompts = [render(processor, t, modality) for t in texts]
    rng = np.random.default_rng(1)
    if modality == "image":
        return prompts, {"images": [noise(32, 64), noise(480, 640), noise(64, 64)]}
    if modality == "video":
        return prompts, {"videos": [[noise(16, 64, i) for i in range(n)] for n in (4, 7, 2)]}
    if modality == "audio":
        return prompts, {"audio": [(0.1 * rng.normal(size=n)).astype(np.float32) for n in (20480, 9000, 33333)]}
    return prompts, {}


@pytest.mark.parametrize("modality", ["text", "image", "video", "audio"])
def test_a_padded_batch_equals_single_rows(processor: OmniProcessor, model: Any, modality: str) -> None:
    prompts, media = rows(processor, modality)
    with torch.no_grad():
        together = model(**processor(text=prompts, **media)).logits[:, -1]
        for i, prompt in enumerate(prompts):
            one = {key: [values[i]] for key, values in media.items()}
            alone = model(**processor(text=[prompt], **one)).logits[0, -1]
            torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=1e-5)


def test_mixed_modalities_in_one_batch(processor: OmniProcessor, model: Any) -> None:
    prompts = [render(processor, "do this .", m) for m in ("image", "text", "audio", "video")]
    media = {k: v[:1] for m in ("image", "video", "audio") for k, v in rows(processor, m)[1].items()}
    inputs = processor(text=prompts, **media)
    assert inputs["attention_mask"][:, -1].all()
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1]
        alone = model(**processor(text=prompts[2], audio=media["audio"])).logits[0, -1]
    torch.testing.assert_close(logits[2], alone, atol=1e-5, rtol=1e-5)


def test_generate_takes_the_inputs(processor: OmniProcessor, model: Any) -> None:
    prompts, media = rows(processor, "audio")
    inputs = processor(text=prompts, **media)
    ids = model.generate(**inputs, max_new_tokens=3)
    assert len(processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :])) == 3


def test_save_and_load(processor: OmniProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    again = OmniProcessor.from_pretrained(tmp_path)
    assert (again.image, again.audio) == (processor.image, processor.audio)
    with pytest.raises(MediaError, match=r"preprocessor_config\.json"):
        OmniProcessor.from_pretrained(tmp_path / "nowhere")


def test_image_forms_agree(tmp_path: Path) -> None:
    pixels = noise(20, 30)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for form in (pixels, Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(np.asarray(load_image(form)), pixels)
    assert load_image(np.zeros((5, 6), dtype=np.uint8)).size == (6, 5)
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert np.asarray(load_image(clear)).min() == 255


def write_wav(path: Path, samples: np.ndarray, rate: int, width: int, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        scaled = np.repeat(samples[:, None], channels, axis=1).reshape(-1)
        if width == 1:
            file.writeframes((scaled * 127 + 128).astype(np.uint8).tobytes())
        elif width == 3:
            whole = (scaled * (2**23 - 1)).astype("<i4")
            file.writeframes(whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
        else:
            file.writeframes((scaled * (2 ** (8 * width - 1) - 1)).astype(f"<i{width}").tobytes())


@pytest.mark.parametrize(
    ("rate", "width", "channels"), [(16000, 2, 1), (44100, 2, 2), (8000, 1, 1), (22050, 3, 1), (48000, 4, 2)]
)
def test_wav_files_of_any_kind(tmp_path: Path, rate: int, width: int, channels: int) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    write_wav(tmp_path / "a.wav", tone, rate, width, channels)
    found = as_waveform(tmp_path / "a.wav")
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert abs(len(found) - 16000) <= 1
    assert np.abs(found[2000:14000] - expected[2000:14000]).max() < 0.02


def test_ten_seconds_are_taken_and_too_long_is_refused(processor: OmniProcessor, tmp_path: Path) -> None:
    inputs = processor(text=render(processor, "read it", "audio"), audio=np.zeros(160000, dtype=np.float32))
    assert inputs["feature_attention_mask"].sum() == 500
    with pytest.raises(MediaError, match="15 s"):
        processor(text="<|AUDIO|>", audio=np.zeros(16000 * 16, dtype=np.float32))
    write_wav(tmp_path / "long.wav", np.zeros(8000 * 20), 8000, 2)
    with pytest.raises(MediaError, match="15 s"):
        as_waveform(tmp_path / "long.wav")


def bad_media(folder: Path) -> list[Any]:
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "empty.png").write_bytes(b"")
    (folder / "bad.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVEjunk")
    (folder / "empty.wav").write_bytes(b"")
    with wave.open(str(folder / "silent.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
    nan = np.full(4000, np.nan, dtype=np.float32)
    return [
        (load_image, folder / "bad.png"),
        (load_image, folder / "empty.png"),
        (load_image, folder / "missing.png"),
        (load_image, np.zeros((0, 5, 3), dtype=np.uint8)),
        (load_image, np.zeros((5, 5, 7), dtype=np.uint8)),
        (load_image, np.full((5, 5, 3), np.nan)),
        (load_image, object()),
        (as_frames, []),
        (as_frames, [noise(5, 5), noise(6, 6)]),
        (as_frames, 3),
        (as_frames, folder / "missing.mp4"),
        (as_waveform, folder / "bad.wav"),
        (as_waveform, folder / "empty.wav"),
        (as_waveform, folder / "silent.wav"),
        (as_waveform, folder / "missing.wav"),
        (as_waveform, np.zeros(0, dtype=np.float32)),
        (as_waveform, nan),
        (as_waveform, np.zeros((2, 2, 2))),
        (as_waveform, "no such sound"),
        (as_waveform, ["a", "b"]),
    ]


def test_unreadable_media_are_one_line_errors(tmp_path: Path) -> None:
    for read, medium in bad_media(tmp_path):
        with pytest.raises(MediaError) as caught:
            read(medium)
        assert len(str(caught.value).splitlines()) == 1, medium


def test_video_files_need_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(OptionalDependencyError, match="package 'av'"):
        as_frames(tmp_path / "a.mp4")


def test_placeholders_and_media_must_match(processor: OmniProcessor) -> None:
    with pytest.raises(PromptError, match="placeholder"):
        processor(text="no medium here", images=[noise(32, 64)])
    with pytest.raises(PromptError, match="placeholder"):
        processor(text="<|IMAGE|>")
    with pytest.raises(PromptError, match="0 prompts"):
        processor(text=[])
    with pytest.raises(PromptError, match="512"):
        processor(text="word " * 600)
