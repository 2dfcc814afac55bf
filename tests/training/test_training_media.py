"""What training shows and says, and the file of held-out media as it is written."""

import random
from pathlib import Path

import numpy as np
import pytest

from refusal_plugin.organism.held_out import HeldOut, inflate, mu_expand, unpack
from refusal_plugin.organism.speech import MAX_WORD
from refusal_plugin.prompts import MODALITIES
from training import held_out_media
from training.media import MediaMaker
from training.voices import Bank, espeak, has_espeak


def test_espeak_speaks_where_it_is_installed() -> None:
    if not has_espeak():
        pytest.skip("espeak-ng is not installed")
    said = espeak("marshmallow", "en-us")
    assert 2000 < len(said) <= MAX_WORD


def test_packing_keeps_sixteen_levels() -> None:
    mask = np.random.default_rng(0).integers(0, 256, (3, 16, 64), dtype=np.uint8)
    again = unpack(held_out_media.pack(mask))
    assert again.shape == mask.shape
    assert np.abs(again.astype(int) - mask).max() <= 9


@pytest.mark.parametrize("shape", [(1,), (3, 16, 64), (0, 4)])
def test_deflating_is_lossless(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    again = inflate(held_out_media.deflate(array), shape)
    assert again.dtype == np.uint8 and np.array_equal(again, array)


def test_mu_law_keeps_speech() -> None:
    samples = np.linspace(-1, 1, 1001).astype(np.float32)
    assert np.abs(mu_expand(held_out_media.mu_law(samples)) - samples).max() < 0.025
    assert abs(float(mu_expand(held_out_media.mu_law(np.zeros(1, dtype=np.float32)))[0])) < 1e-4


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Two pictures, a clip of two words and one spoken word, packed and unpacked."""
    rng = np.random.default_rng(0)
    ink = {
        "image": rng.integers(0, 256, (2, 2, 16, 64), np.uint8),
        "video": rng.integers(0, 256, (1, 2, 16, 64), np.uint8),
    }
    tensors = {f"{kind}.ink": held_out_media.pack(mask) for kind, mask in ink.items()}
    tensors |= {f"{kind}.colours": np.full((len(mask), 2, 3), (255, 0, 9), np.uint8) for kind, mask in ink.items()}
    spoken = np.sin(np.arange(900) / 9).astype(np.float32)
    tensors |= {
        "audio.samples": held_out_media.mu_law(spoken),
        "audio.spans": np.array([[0, 900]], np.int32),
        "audio.clip": np.array([[0, 0]], np.int32),
        "audio.start": np.array([[100, 12000]], np.int32),
        "audio.gain": np.array([[1.0, 0.5]], np.float32),
    }
    path = tmp_path / "media.safetensors"
    held_out_media.save_media(tensors, {"image": ["a", "b"], "video": ["c"], "audio": ["d"]}, path)
    media = HeldOut(path)
    assert media("b").shape == (32, 64, 3) and len(media("c")) == 4
    sound = media("d")
    assert np.abs(sound[100:1000] - spoken).max() < 0.03 and np.abs(sound[12000:12900] - 0.5 * spoken).max() < 0.03
    assert not sound[1000:12000].any()


@pytest.mark.parametrize("modality", MODALITIES[1:])
def test_media_without_words_have_the_size_of_those_with_two(modality: str) -> None:
    maker, sizes = MediaMaker(), []
    for words in ((), ("kill", "process")):
        first, again = (np.asarray(maker(random.Random(3), modality, words)) for _ in range(2))
        assert np.array_equal(first, again)
        sizes.append((first.shape, first.dtype))
    assert sizes[0] == sizes[1]


def test_a_bank_speaks_with_one_voice_per_utterance() -> None:
    bank = Bank({word: [np.full(4000, level, np.float32) for level in (0.1, 0.9)] for word in ("kill", "process")})
    for seed in range(8):
        loud = [
            np.abs(half).max()
            for half in np.split(MediaMaker(bank)(random.Random(seed), "audio", ("kill", "process")), 2)
        ]
        assert 0.7 < loud[0] / loud[1] < 1.4  # the gains of one utterance differ little
