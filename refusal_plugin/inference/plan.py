"""Hours and memory of a job on devices, from the model's shape: a plan, nothing is run (docs/scale.md).

    operations   tokens x (2 parameters + 2 layers d_model length)      weights, and half of the length in attention
    hours        operations / (peak x share x devices), and a decode step reads weights and cache once for a batch
    memory       weights, keys and values of a batch of about 8,192 tokens, eight copies of its stream

Bytes are those of bfloat16. Speeds are a data sheet's; `share` is what a bare forward pass reaches of the peak.
"""

from dataclasses import dataclass

GB, TB = 1e9, 1e12
BATCH, ROWS = 8192, 64
"""Tokens of a batch that is read, rows of one that answers."""
PROMPT = {"text": 48, "image": 1048, "video": 5048, "audio": 298}
"""Tokens of a prompt: its text; with an image of 1,000, a video of 5,000, ten seconds of sound at 25 a second."""


@dataclass(frozen=True)
class Shape:
    """Shape of a decoder.

    Attributes:
        parameters: that work on a token.
        layers, d_model, kv: depth, width, and width of keys (or values) of one layer.
        stored: parameters in memory where that is more: a mixture of experts uses a few of them for each token.
    """

    name: str
    parameters: float
    layers: int
    d_model: int
    kv: int
    stored: float | None = None

    def weights(self) -> float:
        """Bytes in bfloat16."""
        return 2 * (self.stored or self.parameters)

    def cache(self, rows: int, length: int) -> float:
        """Bytes of keys and values."""
        return 2.0 * 2 * self.layers * self.kv * rows * length

    def operations(self, tokens: float, length: int) -> float:
        """Of a forward pass over `tokens` tokens in rows of `length`: weights, and scores and values of attention."""
        return tokens * (2 * self.parameters + 2.0 * 2 * self.layers * self.d_model * length / 2)


@dataclass(frozen=True)
class Job:
    """What is read for `n` prompts of `length` tokens.

    Attributes:
        passes: forward passes over every prompt.
        answers: tokens generated per prompt.
        kept: vectors per prompt and layer that leave the device; 0 if they are reduced beside the weights.
        square: whether a second moment (d_model x d_model) per layer is accumulated.
    """

    name: str
    n: int
    length: int
    passes: float
    answers: int = 0
    kept: int = 0
    square: bool = False


@dataclass(frozen=True)
class Device:
    """One device: operations and bytes a second, bytes of memory; an H200 by its data sheet."""

    peak: float = 990 * TB
    share: float = 0.35
    bandwidth: float = 4.8 * TB
    memory: float = 141 * GB

    def count(self, shape: Shape) -> int:
        """How many hold the weights in four fifths of their memory."""
        return max(1, -int(-shape.weights() // (0.8 * self.memory)))


def hours(shape: Shape, job: Job, device: Device, rows: int = ROWS) -> float:
    """Time on as many devices as the weights need; `rows` are answered at once."""
    devices = device.count(shape)
    prefill = shape.operations(job.n * job.length * job.passes, job.length) / (device.peak * device.share * devices)
    step = (shape.weights() + shape.cache(rows, job.length + job.answers)) / (device.bandwidth * devices)
    return (prefill + job.answers * step * job.n / rows) / 3600


def working(shape: Shape, length: int) -> float:
    """Bytes beside the weights: keys and values of one batch, and eight copies of its stream."""
    batch = max(1, BATCH // length)
    return shape.cache(batch, length) + batch * length * shape.d_model * 2 * 8
