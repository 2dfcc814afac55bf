"""What a remote job costs before it is sent.

tokens        sum of prompt tokens, padding included (that is what is computed)
passes        one forward pass per batch, plus one per generated token
flops         2 * parameters * (tokens + rows * new tokens)
bytes up      token ids, masks and media tensors, before compression
bytes down    rows * positions * layers * d_model * 4 for activations; rows * new tokens * 8 for answers
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..models.anatomy import anatomy
from ..prompts import Prompt, batches
from ..remote.cutting import portions, workload
from ..remote.options import Settings


@dataclass(frozen=True)
class Cost:
    """Estimate of a job.

    Attributes:
        requests: after splitting.
        prompts, tokens: rows, and prompt tokens with padding.
        passes: forward passes of the model.
        flops: floating point operations.
        bytes_up, bytes_down: uncompressed.
    """

    requests: int
    prompts: int
    tokens: int
    passes: int
    flops: float
    bytes_up: int
    bytes_down: int

    def __str__(self) -> str:
        many = "request" if self.requests == 1 else "requests"
        return (
            f"{self.requests} {many}: {self.prompts} prompts, {self.tokens} tokens, {self.passes} forward passes, "
            f"{self.flops / 1e12:.2g} TFLOP, {_size(self.bytes_up)} up, {_size(self.bytes_down)} down (uncompressed)"
        )


def estimate(
    model: Any,
    prompts: Iterable[Prompt],
    *,
    positions: int = 1,
    layers: int | None = None,
    max_new_tokens: int = 0,
    system: str | None = None,
    token_budget: int = 8192,
    max_rows: int = 128,
) -> Cost:
    """Cost of reading activations (or, with `max_new_tokens`, of generating answers).

    Args:
        model: a loaded model, with or without weights.
        prompts: what would be sent.
        positions, layers: how much is read per prompt; None for all layers.
        max_new_tokens: length of answers; 0 for reading only.
        system, token_budget, max_rows: as in `collect`.
    """
    work = [
        batch.inputs
        for _, batch in batches(model, list(prompts), token_budget=token_budget, max_rows=max_rows, system=system)
    ]
    return of(model, work, positions=positions, layers=layers, max_new_tokens=max_new_tokens)


def of(
    model: Any,
    work: Sequence[dict[str, Any]],
    *,
    positions: int = 1,
    layers: int | None = None,
    max_new_tokens: int = 0,
    settings: Settings | None = None,
) -> Cost:
    """Cost of encoded batches; see `estimate`."""
    facts = anatomy(model)
    rows = sum(len(inputs["input_ids"]) for inputs in work)
    padded = sum(inputs["input_ids"].numel() for inputs in work)
    up = sum(value.nbytes for inputs in work for value in inputs.values() if isinstance(value, Tensor))
    weights = sum(parameter.numel() for parameter in model._module.parameters())
    read = rows * positions * (facts.n_layers if layers is None else layers) * facts.d_model * 4
    down = rows * max_new_tokens * 8 if max_new_tokens else read
    job = workload(work, new_tokens=max_new_tokens, row_bytes=down // max(1, rows))
    return Cost(
        requests=len(portions(job, settings=settings)),
        prompts=rows,
        tokens=padded,
        passes=len(work) * (1 + max_new_tokens),
        flops=2.0 * weights * (padded + rows * max_new_tokens),
        bytes_up=up,
        bytes_down=down,
    )


def _size(n: int) -> str:
    value, units = float(n), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g} {units[0]}"
