"""Streaming moments: those of all prompts at once, from a generator that is never held."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from refusal_plugin.errors import PromptError
from refusal_plugin.inference.streaming import collect_moments, stream_moments
from refusal_plugin.prompts import Prompt


@pytest.mark.parametrize("second", ["diagonal", "full"])
@pytest.mark.parametrize("window", [7, 60, 10_000])
def test_windows_leave_no_trace(planted: Any, window: int, second: Any) -> None:
    whole = collect_moments(planted.model, planted.train, second=second, progress=False)
    found = stream_moments(planted.model, iter(planted.train), window=window, second=second)
    assert found.keys() == whole.keys()
    for name, moments in found.items():
        assert moments.n == whole[name].n
        torch.testing.assert_close(moments.mean, whole[name].mean, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(moments.m2, whole[name].m2, atol=1e-4, rtol=1e-4)


def test_prompts_are_let_go(planted: Any) -> None:
    alive: weakref.WeakSet[Prompt] = weakref.WeakSet()
    most, seen = 0, []

    def endless() -> Iterator[Prompt]:
        nonlocal most
        for k in range(60):
            prompt = Prompt(f"w{k % 40} w{k % 7}", role="benign", id=str(k))
            alive.add(prompt)
            if k % 6 == 0:
                gc.collect()
                most = max(most, len(alive))
            yield prompt

    stream_moments(
        planted.model, endless(), window=6, keep_up=lambda done, found: seen.append((done, found["benign"].n))
    )
    assert most <= 3 * 6
    assert seen == [(6 * k, 6 * k) for k in range(1, 11)]


def test_nothing_to_stream(planted: Any) -> None:
    with pytest.raises(PromptError, match="0 prompts"):
        stream_moments(planted.model, iter(()))
    with pytest.raises(PromptError, match="fewer than 1"):
        stream_moments(planted.model, planted.train, window=0)
