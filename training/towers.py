"""Stage two: the vision and the audio tower learn to tell words apart, before the decoder ever sees them.

Each word's soft tokens (4 of a line or frame, 8 of a slot of speech) go into a throw-away linear head that names the
word: first side by side, which is quick to learn but leaves letters scattered over the tokens, then POOLED (their
mean), which makes words readable by attention, whose readings are weighted means. The heads are dropped afterwards: the
decoder is NOT told which word its soft tokens are, it learns to read them in the joint stage.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from refusal_plugin.organism.pairs import world

from .loop import Schedule, step_rng

Tower = Literal["vision", "audio"]
TOKENS_PER_WORD: dict[Tower, int] = {"vision": 4, "audio": 8}


def content_words() -> list[str]:
    """Every verb and object that a pair uses, sorted: what images show and voices say."""
    return sorted({word for pair in world() for word in (pair.verb, pair.object)})


def train_tower(
    model: Any,
    processor: Any,
    media: Any,
    tower: Tower,
    schedule: Schedule,
    *,
    seed: int,
    pooled: bool,
    every: int = 100,
    callback: Callable[[int, float, float, float], bool | None] | None = None,
) -> float:
    """Train one tower in place.

    Args:
        media: draws a medium: (rng, modality, words) -> image, frames or waveform.
        pooled: the head reads the mean of a word's soft tokens instead of all of them side by side.
        callback: called with (steps done, mean loss, word accuracy, seconds); returning True ends the stage early.

    Returns:
        Word accuracy over the last `every` steps, each measured on fresh renderings before they were trained on.
    """
    words = content_words()
    number = {w: i for i, w in enumerate(words)}
    module = model.model.visual if tower == "vision" else model.model.audio_tower
    torch.manual_seed(seed)
    width, tokens_per_word = model.config.text_config.hidden_size, TOKENS_PER_WORD[tower]
    head = nn.Linear(width if pooled else width * tokens_per_word, len(words))
    parameters = [*module.parameters(), *head.parameters()]
    opt = torch.optim.AdamW(parameters, lr=schedule.lr, betas=(0.9, 0.98), weight_decay=schedule.weight_decay)
    module.train()
    losses: list[float] = []
    hits: list[float] = []
    began = time.time()
    for step in range(schedule.steps):
        rng = step_rng(seed, schedule.name, step)
        shown = [(rng.choice(words), rng.choice(words)) for _ in range(schedule.size)]
        labels = torch.tensor([[number[w] for w in pair] for pair in shown])
        if tower == "vision":
            half = schedule.size // 2
            inputs, _ = processor.encode_images([media(rng, "image", pair) for pair in shown[:half]])
            clips, _ = processor.encode_videos([media(rng, "video", pair) for pair in shown[half:]])
            pixels = torch.cat([inputs["pixel_values"], clips["pixel_values_videos"]])
            tokens = module(
                pixels, grid_thw=torch.cat([inputs["image_grid_thw"], clips["video_grid_thw"]])
            ).pooler_output
        else:
            sound, _ = processor.encode_audio([media(rng, "audio", pair) for pair in shown])
            lengths = sound["feature_attention_mask"].sum(-1)
            flat = sound["input_features"].permute(0, 2, 1).reshape(-1, processor.audio.feature_size).T
            tokens = module(flat, feature_lens=lengths).last_hidden_state
        rows = tokens.reshape(schedule.size * 2, tokens_per_word, width)
        logits = head(rows.mean(dim=1) if pooled else rows.flatten(1))
        loss = cross_entropy(logits, labels.flatten(), label_smoothing=0.0 if pooled else 0.05)
        for group in opt.param_groups:
            group["lr"] = schedule.lr * schedule.scale(step)
        opt.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        opt.step()
        losses.append(loss.item())
        hits.append((logits.argmax(-1) == labels.flatten()).float().mean().item())
        if callback and (step + 1) % every == 0:
            mean_loss, accuracy = sum(losses[-every:]) / every, sum(hits[-every:]) / every
            if callback(step + 1, mean_loss, accuracy, time.time() - began):
                break
    module.eval()
    return sum(hits[-every:]) / max(1, len(hits[-every:]))
