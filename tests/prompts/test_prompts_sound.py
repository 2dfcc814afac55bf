"""Sounds: ffmpeg's samples, channels that do not cancel, and nothing cut in silence."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import ffmpeg
import numpy as np
import pytest
import torch
from families import template, tokenizer
from ffmpeg import needs_ffmpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

from refusal_plugin.errors import MediaError
from refusal_plugin.prompts import Prompt, encode, load_audio
from refusal_plugin.prompts.input_spec import InputSpec
from refusal_plugin.prompts.sound import mix
from refusal_plugin.prompts.whole import require_whole_sound

STEREO = ("-f", "lavfi", "-i", "sine=frequency=440:duration=1:sample_rate=44100", "-f", "lavfi", "-i")
SECOND = "sine=frequency=700:duration=1:sample_rate=44100"
JOINED = ("-filter_complex", "[0][1]join=inputs=2:channel_layout=stereo")


# -- channels ---------------------------------------------------------------------------------------------------------
@settings(max_examples=40)
@given(seed=st.integers(0, 999), channels=st.integers(1, 6), share=st.floats(-1, 1))
def test_mixing_keeps_a_tenth_of_the_energy_or_takes_the_loudest(seed: int, channels: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    first = draw.normal(size=2000) * 0.1
    rest = [share * first + (1 - abs(share)) * draw.normal(size=2000) * 0.1 for _ in range(channels - 1)]
    given_channels = np.stack([first, *rest], 1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mixed = mix(given_channels)
    energy = np.square(given_channels).sum(0)
    assert np.square(mixed).sum() >= 0.099 * energy.mean()
    if said:
        assert np.array_equal(mixed, given_channels[:, energy.argmax()].astype(np.float32))
    else:
        assert np.allclose(mixed, given_channels.mean(1), atol=1e-6)


def test_opposite_phases_do_not_vanish() -> None:
    tone = 0.5 * np.sin(np.arange(8000) / 5)
    with pytest.warns(UserWarning, match="cancel each other when mixed; channel 1 of 2 is taken"):
        assert np.allclose(mix(np.stack([tone, -0.9 * tone], 1)), tone, atol=1e-6)
    assert not mix(np.zeros((800, 2))).any()


# -- ffmpeg's samples -------------------------------------------------------------------------------------------------
@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.wav", "f.wav", "a.flac", "a.mp3", "a.ogg", "a.m4a", "a.opus", "a.mp4"])
def test_samples_are_those_of_ffmpeg(tmp_path: Path, name: str) -> None:
    if not name.endswith(".wav"):
        pytest.importorskip("av", reason="PyAV is not installed: pip install 'refusal-plugin[audio]'")
    file, more = tmp_path / name, ("-c:a", "pcm_f32le") if name == "f.wav" else ()
    ffmpeg.run(*STEREO, SECOND, *JOINED, *(("-c:a", "libopus") if name in ("a.ogg", "a.opus") else more), file)
    rate = 48_000 if name in ("a.ogg", "a.opus") else 44_100
    sound, wanted = load_audio(file, rate=rate), ffmpeg.samples(file)
    assert len(sound) == len(wanted)
    # Two versions of a lossy decoder differ in the last bits.
    assert np.abs(sound - wanted).max() < (2e-3 if name[-4:] in (".mp3", ".m4a", ".ogg", "opus", ".mp4") else 1e-4)


@needs_ffmpeg
@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_resampling_agrees_with_ffmpeg(tmp_path: Path, rate: int) -> None:
    ffmpeg.run("-f", "lavfi", "-i", f"sine=frequency=440:duration=1:sample_rate={rate}", tmp_path / "a.wav")
    sound, wanted = load_audio(tmp_path / "a.wav"), ffmpeg.samples(tmp_path / "a.wav", 16_000)
    assert abs(len(sound) - len(wanted)) <= 1
    n = min(len(sound), len(wanted))
    assert np.abs(sound[:n] - wanted[:n])[400:-400].max() < 2e-3


@needs_ffmpeg
def test_the_sound_of_a_video(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'refusal-plugin[audio]'")
    ffmpeg.run("-f", "lavfi", "-i", ffmpeg.CORNERS.format(rate=10, seconds=1), *STEREO[:4], tmp_path / "a.mkv")
    assert abs(load_audio(tmp_path / "a.mkv").size - 16_000) < 400


# -- the processor's window -------------------------------------------------------------------------------------------
def listener() -> InputSpec:
    """Qwen2-Audio's processor with a window of two seconds."""
    names = {"audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}
    words = tokenizer(*names.values(), **names)
    extractor = WhisperFeatureExtractor(chunk_length=2)
    made = Qwen2AudioProcessor(extractor, words, chat_template=template("<|audio_bos|><|AUDIO|><|audio_eos|> "))
    return InputSpec(words, made, ("text", "audio"), media_ids={"audio": words.convert_tokens_to_ids("<|AUDIO|>")})


@pytest.mark.parametrize("seconds", [2.2, 4.0, 20.0])
def test_a_sound_longer_than_the_window_is_refused(noise, seconds: float) -> None:
    sound = noise(1, round(seconds * 16_000))
    with pytest.raises(MediaError, match=rf"'long': it lasts {seconds} s, the model's processor reads the first 2 s"):
        encode(listener(), Prompt("bake bread", audio=sound, id="long"))
    heard = encode(listener(), Prompt("bake bread", audio=sound[:32_000]))
    assert heard.roles["media"].sum() == 50


@pytest.mark.parametrize("seconds", [2.2, 20.0])
def test_it_is_tried_where_no_window_is_stated(noise, seconds: float) -> None:
    sound, short = noise(1, round(seconds * 16_000)), noise(1, 32_000)

    def encoder(samples: int | None) -> tuple[SimpleNamespace, Callable[[np.ndarray], dict[str, torch.Tensor]]]:
        """An extractor that reads so many samples and says nothing of it."""
        made = WhisperFeatureExtractor(chunk_length=30)

        def features(heard: np.ndarray) -> dict[str, torch.Tensor]:
            found = made(heard[:samples], sampling_rate=16_000, return_tensors="pt")
            return {"input_features": found["input_features"]}

        return SimpleNamespace(feature_extractor=SimpleNamespace()), features

    processor, features = encoder(32_000)
    with pytest.raises(MediaError, match="the model's processor reads less than that"):
        require_whole_sound(processor, sound, 16_000, features(sound), features, "encode")
    require_whole_sound(processor, short, 16_000, features(short), features, "encode")
    processor, features = encoder(None)
    require_whole_sound(processor, sound, 16_000, features(sound), features, "encode")
