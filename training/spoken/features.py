"""What the frozen encoder hears, computed once and kept: pooled frames (25 a second) of every sentence."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from refusal_plugin.progress import track

from .sentences import Fold, Sentence
from .voices import draw_speaker, speak

SHARD = 256


@dataclass(frozen=True)
class Spoken:
    """A spoken sentence.

    Attributes:
        sentence: what is said.
        frames: (frame, encoder width) float16, what the encoder gives the projector.
    """

    sentence: Sentence
    frames: Tensor


class Listener:
    """The frozen encoder, over windows just as long as the longest sentence of a batch.

    The class adds its positions to a window of fixed length; here they are cut to the batch, which changes no frame
    that is not padding.

    Args:
        tower: the audio tower of the assembled model, float32.
        extractor: its feature extractor; its window is the longest sound in samples.
    """

    def __init__(self, tower: Any, extractor: Any) -> None:
        self._tower, self._extractor = tower, extractor
        self._positions = tower.embed_positions.weight.data
        self.window = extractor.n_samples

    @torch.inference_mode()
    def hear(self, sounds: Sequence[np.ndarray]) -> list[Tensor]:
        """Frames of every sound, (frame, encoder width); sounds are at most one window long."""
        given = self._extractor(
            list(sounds), sampling_rate=16000, return_attention_mask=True, padding="max_length", return_tensors="pt"
        )
        longest = int(given["attention_mask"].sum(-1).max())
        width = min(longest + 16 + longest % 2, given["input_features"].shape[-1])
        self._tower.embed_positions.weight.data = self._positions[: width // 2]
        mask = given["attention_mask"][:, :width]
        try:
            heard = self._tower(given["input_features"][..., :width], input_features_mask=mask).last_hidden_state
        finally:
            self._tower.embed_positions.weight.data = self._positions
        _, lengths = self._tower._get_feat_extract_output_lengths(mask.sum(-1))
        return [row[:length] for row, length in zip(heard, lengths.tolist(), strict=True)]


def write(sentences: Sequence[Sentence], voices: Fold, listener: Listener, folder: Path, seed: int = 0) -> None:
    """Speak every sentence by a drawn speaker and keep what the encoder hears, in shards; those there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    with track(len(sentences), f"speaking ({folder.name})") as done:
        for start in range(0, len(sentences), SHARD):
            path = folder / f"{start // SHARD:04d}.safetensors"
            part = list(sentences[start : start + SHARD])
            if not path.is_file():
                save_shard(path, part, voices, listener, seed)
            done(len(part))


def save_shard(path: Path, sentences: list[Sentence], voices: Fold, listener: Listener, seed: int) -> None:
    """One shard: all frames in a row, with the lengths and sentences as JSON."""
    speakers = [draw_speaker(voices, random.Random(f"{seed}/{s.text}")) for s in sentences]
    sounds = [speak(s.text, speaker) for s, speaker in zip(sentences, speakers, strict=True)]
    window = listener.window
    kept = [i for i in sorted(range(len(sounds)), key=lambda i: len(sounds[i])) if len(sounds[i]) <= window]
    frames: list[Tensor] = []
    for at in range(0, len(kept), 8):
        frames += [f.half() for f in listener.hear([sounds[i] for i in kept[at : at + 8]])]
    said = [asdict(sentences[i]) | {"speaker": asdict(speakers[i])} for i in kept]
    record = {"said": json.dumps(said), "lengths": json.dumps([len(f) for f in frames])}
    partial = path.with_suffix(".partial")
    save_file({"frames": torch.cat(frames)}, partial, metadata=record)
    partial.rename(path)


def read(folder: Path) -> list[Spoken]:
    """Everything that was kept so far."""
    from safetensors import safe_open

    out = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            record = file.metadata()
        parts = torch.split(load_file(path)["frames"], json.loads(record["lengths"]))
        for said, frames in zip(json.loads(record["said"]), parts, strict=True):
            out.append(Spoken(Sentence(said["text"], said["kind"], said["fold"]), frames))
    return out
