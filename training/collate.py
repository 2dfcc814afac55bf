"""Examples to model inputs for training: rendered chat, media tensors, positions, labels on the answer only.

The media here have the fixed geometry of the world (two words), so the positions of a row depend only on its modality
and on where the medium starts: they are computed once by the model's own `get_rope_index` and remembered.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from refusal_plugin.prompts import Modality

from .samples import Example

IGNORE = -100
PLACEHOLDERS: dict[Modality, str] = {
    "text": "",
    "image": "<|vision_bos|><|IMAGE|><|vision_eos|>",
    "video": "<|vision_bos|><|VIDEO|><|vision_eos|>",
    "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>",
}


def render(text: str, modality: Modality = "text", system: str | None = None) -> str:
    """The chat template's output for one user turn, without the cost of running it (a test compares the two)."""
    head = f"<|im_start|>system {system}<|im_end|>" if system else ""
    return f"{head}<|im_start|>user {PLACEHOLDERS[modality]}{text}<|im_end|><|im_start|>assistant "


class Collator:
    """Builds right-padded training batches.

    Args:
        processor: the model's processor.
        media: draws the medium of an example: (rng, modality, words) -> image, frames or waveform.
        model: only its `get_rope_index` is used.
    """

    def __init__(self, processor: Any, media: Any, model: Any) -> None:
        self.processor, self.media = processor, media
        self.tokenizer: PreTrainedTokenizerBase = processor.tokenizer
        self.rope = model.get_rope_index if hasattr(model, "get_rope_index") else model.model.get_rope_index
        self._tokens: dict[str, list[int]] = {}
        self._positions: dict[tuple[Any, ...], tuple[torch.Tensor, int]] = {}

    def _encode(self, text: str) -> list[int]:
        """Token ids, word by word through a cache: the tokenizer is word-level."""
        if text not in self._tokens:
            self._tokens[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return self._tokens[text]

    def _ids(self, text: str) -> list[int]:
        out: list[int] = []
        for chunk in text.split(" "):
            if chunk:
                out += self._encode(chunk)
        return out

    def __call__(self, rng: random.Random, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Model inputs with `position_ids` (3, rows, length) and `labels`."""
        groups: dict[str, list[Any]] = {"image": [], "video": [], "audio": []}
        for example in examples:
            if example.modality != "text":
                groups[example.modality].append(self.media(rng, example.modality, example.words))
        encoders = {
            "image": (self.processor.encode_images, "image_grid_thw"),
            "video": (self.processor.encode_videos, "video_grid_thw"),
            "audio": (self.processor.encode_audio, None),
        }
        inputs: dict[str, torch.Tensor] = {}
        queues: dict[str, Any] = {}
        for modality, media in groups.items():
            if media:
                encode, key = encoders[modality]
                found, counts = encode(media)
                inputs |= found
                queues[modality] = iter(zip(counts, found[key] if key else counts, strict=True))
        rows = []
        for example in examples:
            ids = self._ids(render(example.text, example.modality, example.system))
            grid: Any = None
            if example.modality != "text":
                count, grid = next(queues[example.modality])
                ids = self._expand(ids, count)
            answer = [*self._ids(example.answer), int(self.tokenizer.eos_token_id)]
            rows.append((ids, answer, self._row_positions(ids, example.modality, grid)))
        longest = max(len(ids) + len(answer) for ids, answer, _ in rows)
        input_ids = torch.full((len(rows), longest), int(self.tokenizer.pad_token_id))
        labels = torch.full_like(input_ids, IGNORE)
        positions = torch.zeros(3, len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for i, (ids, answer, (start, following)) in enumerate(rows):
            n, m = len(ids), len(answer)
            input_ids[i, : n + m] = torch.tensor(ids + answer)
            labels[i, n : n + m] = torch.tensor(answer)
            mask[i, : n + m] = 1
            positions[:, i, :n] = start
            positions[:, i, n : n + m] = following + torch.arange(m)
        return inputs | {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions, "labels": labels}

    def _expand(self, ids: list[int], count: int) -> list[int]:
        tokens = {
            self.tokenizer.convert_tokens_to_ids(t)
            for t in (self.processor.image_token, self.processor.video_token, self.processor.audio_token)
        }
        at = next(i for i, t in enumerate(ids) if t in tokens)
        return ids[:at] + [ids[at]] * count + ids[at + 1 :]

    def _row_positions(self, ids: list[int], modality: Modality, grid: Any) -> tuple[torch.Tensor, int]:
        """Positions (3, prompt length) and the position of the first answer token."""
        if modality in ("text", "audio"):
            return torch.arange(len(ids)), len(ids)
        start = next(i for i, t in enumerate(ids) if t in (self.tokenizer.convert_tokens_to_ids("<|vision_bos|>"),))
        key = (modality, start, len(ids), tuple(grid.tolist()))
        if key not in self._positions:
            row = torch.tensor([ids])
            kwargs: dict[str, Any] = (
                {"image_grid_thw": grid[None]}
                if modality == "image"
                else {
                    "video_grid_thw": grid[None],
                    "second_per_grids": torch.tensor([1.0]),
                }
            )
            found, _ = self.rope(row, attention_mask=torch.ones_like(row), **kwargs)
            self._positions[key] = (found[:, 0].long(), int(found.max()) + 1)
        return self._positions[key]
