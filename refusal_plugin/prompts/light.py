"""A pass for the next token alone: no cache of keys and values, the output head at the last position only.

The head is a quarter of a pass at 0.1B parameters with 32,000 words, 28 % at 0.5B with 152,000, 7 % at 7B.
"""

from typing import Any

from .batch import Batch
from .input_spec import input_spec_of


def next_token_inputs(model: Any, batch: Batch) -> dict[str, Any]:
    """The inputs of a batch with what makes a pass for the next token cheaper: no cache, the head at one position."""
    inputs: dict[str, Any] = dict(batch.inputs)
    accepts = input_spec_of(model).accepts
    if accepts is None:
        return inputs
    cheap = {"use_cache": False, "logits_to_keep": 1}
    return inputs | {name: value for name, value in cheap.items() if name in accepts}
