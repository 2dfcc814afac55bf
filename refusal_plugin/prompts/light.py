"""A pass for the next token, or over tokens that are given: no cache, and the head only where it is read.

The head is a quarter of a pass at 0.1B parameters with 32,000 words, 28 % at 0.5B with 152,000, 7 % at 7B.
"""

from collections.abc import Sequence
from typing import Any

import torch

from .batch import PER_TOKEN, Batch
from .input_spec import input_spec_of


def next_token_inputs(model: Any, batch: Batch) -> dict[str, Any]:
    """The inputs of a batch with what makes a pass for the next token cheaper: no cache, the head at one position."""
    inputs: dict[str, Any] = dict(batch.inputs)
    accepts = input_spec_of(model).accepts
    if accepts is None:
        return inputs
    cheap = {"use_cache": False, "logits_to_keep": 1}
    return inputs | {name: value for name, value in cheap.items() if name in accepts}


def continued_inputs(model: Any, batch: Batch, answers: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The inputs of a batch whose rows go on with tokens of their own, padded on the right, where nothing looks back.

    The head runs at the last prompt token and at the answers.

    Args:
        model: a loaded model.
        batch: the prompts.
        answers: token ids of each row, perhaps none.
    """
    inputs = next_token_inputs(model, batch)
    longest = max(len(answer) for answer in answers)
    padded = torch.tensor([[*answer, *[0] * (longest - len(answer))] for answer in answers], dtype=torch.long)
    mask = torch.tensor([[1] * len(answer) + [0] * (longest - len(answer)) for answer in answers])
    for name in (*PER_TOKEN, "position_ids", "cross_attention_mask"):
        if name in inputs and longest:
            value = inputs[name]
            new = {"input_ids": padded, "attention_mask": mask}.get(name)
            if name == "position_ids":
                new = value[:, -1:] + 1 + torch.arange(longest, device=value.device)
            elif new is None and name in PER_TOKEN:  # kinds of tokens: 0 is text
                new = torch.zeros_like(padded)
            elif new is None:  # what the last prompt token sees of the media, the answer sees
                new = value[:, -1:].expand(-1, longest, *value.shape[2:])
            inputs[name] = torch.cat([value, new.to(value.device, value.dtype)], 1)
    if "logits_to_keep" in inputs:
        inputs["logits_to_keep"] = longest + 1
    return inputs
