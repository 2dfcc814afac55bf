"""One thread for tiny models: the second only waits for the first, and on a busy machine it waits long.

Sixty answers of the embedded model took 1.7 s of processor time on one thread and 20 s on two.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..models import anatomy

TINY = 256
"""d_model up to which a matrix product is too small to be shared out."""


@contextmanager
def few_threads(model: Any) -> Iterator[None]:
    """Inside the block a tiny model runs on one thread; afterwards the number of threads is what it was."""
    before = torch.get_num_threads()
    if anatomy(model).d_model <= TINY:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
