"""Greedy means greedy: the settings of `generate` in which a checkpoint has no say.

A checkpoint's generation_config may ask for beams, sampling, a repetition penalty, suppressed or forced tokens, a least
length, stop strings, several sequences. An answer that is measured beside a refusal score of raw logits must not depend
on them, so every setting is given its neutral value. On purpose the checkpoint keeps its END and PADDING tokens: they
say where its answers end.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""Settings that stay the checkpoint's own."""


def greedy(max_new_tokens: int) -> dict[str, Any]:
    """Keyword arguments of `generate`, on this machine or on a server: the most likely token each time.

    Args:
        max_new_tokens: longest answer.
    """
    return {**_neutral(), "max_new_tokens": max_new_tokens}


@cache
def _neutral() -> dict[str, Any]:
    """Every setting that this version of transformers knows, but for `KEPT` and the lengths, at its neutral value."""
    from transformers import GenerationConfig

    empty: Any = GenerationConfig()  # type: ignore[no-untyped-call]
    usual = empty._get_default_generation_params()
    names = [name for name in vars(empty) if not name.startswith("_") and name not in (*KEPT, "transformers_version")]
    return {name: usual.get(name) for name in names} | {"max_length": None, "do_sample": False, "use_cache": True}


def enough_ended(ends: Tensor, share: float) -> Any:
    """A stopping criterion of one call of `generate`: enough rows have said an end token.

    Args:
        ends: ids of the tokens that end an answer.
        share: of the rows, at least one row.
    """
    from transformers import StoppingCriteriaList

    ended: list[Tensor] = []

    def criterion(ids: Tensor, _scores: Any, **_options: Any) -> Tensor:
        newest = torch.isin(ids[:, -1], ends)
        ended[:] = [newest | ended[0] if ended else newest]
        return (ended[0].sum() >= max(1.0, share * len(ids))).expand(len(ids))

    return StoppingCriteriaList([criterion])
