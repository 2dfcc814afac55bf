"""Pictures, clips and speech drawn from seeds, and the shipped media of the held-out prompts."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refusal_plugin.errors import MediaError
from refusal_plugin.organism import pictures, speech
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.organism.held_out import HeldOut, held_out
from refusal_plugin.organism.pairs import world
from refusal_plugin.prompts import MODALITIES

WORDS = sorted({word for pair in world() for word in (pair.verb, pair.object)})


@pytest.mark.parametrize("draw", [pictures.image, pictures.clip, speech.say])
def test_the_same_seed_draws_the_same_medium(draw: Callable[..., Any]) -> None:
    first, again, other = (np.asarray(draw(("kill", "process"), random.Random(seed))) for seed in ("a", "a", "b"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_word_fits_its_line() -> None:
    for word in WORDS:
        left, right = (
            pictures.ink((word,), pictures.Look(13, ((x, 0),), (0, 0, 0), (255, 255, 255)))[0].astype(int)
            for x in (0, 8)
        )
        assert left.shape == (16, 64)
        # Shifted to the right, no ink is cut off.
        assert abs(left.sum() - right.sum()) < 0.03 * left.sum(), word


def test_every_word_fits_its_slot_and_differs() -> None:
    voice = speech.draw_voice(random.Random(0))
    spoken = {w: speech.speak(w, voice, random.Random(0)) for w in WORDS[::12]}
    assert all(
        800 < len(s) <= speech.MAX_WORD and np.isfinite(s).all() and np.abs(s).max() <= 1 for s in spoken.values()
    )
    said = [tuple(speech.sounds(w)) for w in WORDS]
    assert len(said) - len(set(said)) <= 2  # breed and bread sound alike to the rules


@pytest.mark.parametrize("split", ["val", "test"])
def test_all_shipped_media_decode(split: str) -> None:
    for prompt in organism_prompts(split=split, modality=MODALITIES[1:]):
        found: Any = prompt.medium
        if prompt.modality == "image":
            assert found.shape == (32, 64, 3) and found.dtype == np.uint8 and found.std() > 5
        elif prompt.modality == "video":
            assert len(found) == 4 and all(f.shape == (16, 64, 3) for f in found)
        else:
            assert found.shape == (20480,) and np.isfinite(found).all() and 0.05 < np.abs(found).max() <= 1


@pytest.mark.parametrize("modality", MODALITIES[1:])
def test_two_renderings_of_one_pair_differ(modality: str) -> None:
    first, second = organism_prompts(split="test", modality=modality)[:2]
    assert first.pair == second.pair
    assert not np.array_equal(np.asarray(first.medium), np.asarray(second.medium))


def test_a_prompt_that_the_file_does_not_hold_is_named() -> None:
    with pytest.raises(MediaError, match="test/image/benign/9999/eat-moon/r0"):
        held_out()("test/image/benign/9999/eat-moon/r0")


def test_a_broken_media_file_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"junk")
    for path in (tmp_path / "m.safetensors", tmp_path / "missing.safetensors"):
        with pytest.raises(MediaError) as caught:
            HeldOut(path)
        assert len(str(caught.value).splitlines()) == 1
