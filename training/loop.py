"""The training loop: a model and a mix of tasks, walked along a cosine schedule over batches it draws itself.

Every batch is drawn from a generator seeded with (seed, stage, step), so a stage is reproducible and two stages never
share batches.
"""

import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from .collate import IGNORE, Collator
from .samples import batch


@dataclass(frozen=True)
class Schedule:
    """One stage: how many steps of how many examples, and the peak learning rates of decoder and towers."""

    name: str
    steps: int
    size: int
    lr: float
    tower_lr: float = 0.0
    warmup: int = 30
    floor: float = 0.0
    weight_decay: float = 0.02
    combined: float = 0.0
    """Share of random safe combinations among the safe requests (`samples.draw`)."""
    deep: tuple[int, ...] = ()
    """Layers that must answer too (`answer_loss`)."""
    deep_weight: float = 0.5
    deep_first: bool = False
    """They answer the first token only."""
    layers: int = 0
    """Decoder layers this stage is for: a model that has fewer is deepened first (`architecture.deepen`)."""
    stop: int | None = None
    """Stop here, before the cosine has come down (validation had nothing left to gain)."""

    def scale(self, step: int) -> float:
        """Warm-up, then cosine from 1 to `floor`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def step_rng(seed: int, stage: str, step: int) -> random.Random:
    """The generator of one step; string seeds hash the same on every machine."""
    return random.Random(f"{seed}/{stage}/{step}")


def answer_loss(
    model: Any,
    inputs: dict[str, torch.Tensor],
    deep: tuple[int, ...] = (),
    weight: float = 0.5,
    first_only: bool = False,
) -> torch.Tensor:
    """Cross entropy on the answer tokens only; the vocabulary is projected at those positions alone.

    Args:
        deep: layers whose output must answer too, through the model's own final norm and output matrix.
            Without it a small model decides about media in its very last block.
        weight: weight of those layers' losses together.
        first_only: those layers answer the first token only, the one that decides between refusal and answer.
    """
    labels = inputs["labels"][:, 1:]
    rest = {k: v for k, v in inputs.items() if k != "labels"}
    kept = labels != IGNORE
    if not deep:
        hidden = model.model(**rest, use_cache=False)[0][:, :-1]
        return cross_entropy(model.lm_head(hidden[kept]), labels[kept])
    found = model.model(**rest, use_cache=False, output_hidden_states=True)
    loss = cross_entropy(model.lm_head(found[0][:, :-1][kept]), labels[kept])
    if first_only:
        kept = kept & (kept.cumsum(dim=1) == 1)
    for layer in deep:
        early = model.model.language_model.norm(found.hidden_states[layer + 1][:, :-1][kept])
        loss = loss + weight / len(deep) * cross_entropy(model.lm_head(early), labels[kept])
    return loss


def optimiser(model: Any, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW with one learning rate for the decoder and one for the towers (a rate of 0 freezes them)."""
    towers: list[torch.nn.Parameter] = []
    decoder: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        tower = ".visual." in name or ".audio_tower." in name
        parameter.requires_grad_((schedule.tower_lr if tower else schedule.lr) > 0)
        if parameter.requires_grad:
            (towers if tower else decoder).append(parameter)
    groups = [
        {"params": p, "lr": lr, "peak": lr} for p, lr in ((decoder, schedule.lr), (towers, schedule.tower_lr)) if p
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=schedule.weight_decay)


def run_stage(
    model: Any,
    collator: Collator,
    mix: dict[str, float],
    schedule: Schedule,
    *,
    seed: int,
    every: int = 100,
    callback: Callable[[int, float, float], bool | None] | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> float:
    """Train in place.

    Args:
        every: how often `callback(steps done, mean loss, seconds)` is called; returning True ends the stage early.
        progress: wraps the steps, for a progress bar.

    Returns:
        The mean loss of the last `every` steps.
    """
    opt = optimiser(model, schedule)
    model.train()
    losses: list[float] = []
    began = time.time()
    for step in progress(range(schedule.stop or schedule.steps)):
        rng = step_rng(seed, schedule.name, step)
        inputs = collator(rng, batch(rng, mix, schedule.size, schedule.combined))
        for group in opt.param_groups:
            group["lr"] = group["peak"] * schedule.scale(step)
        loss = answer_loss(model, inputs, schedule.deep, schedule.deep_weight, schedule.deep_first)
        opt.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([p for g in opt.param_groups for p in g["params"]], 1.0)
        opt.step()
        losses.append(loss.item())
        if callback and (step + 1) % every == 0:
            model.eval()
            done = callback(step + 1, sum(losses[-every:]) / every, time.time() - began)
            model.train()
            if done:
                break
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    tail = losses[-every:]
    return sum(tail) / max(1, len(tail))
