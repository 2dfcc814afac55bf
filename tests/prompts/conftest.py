"""Tiny models with random weights and their tokenizers: what the encoding is tested on."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support import torchvision

torchvision.enable()  # before transformers is imported, which looks for it once

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from prompt_models import STRING_TEMPLATE, tiny, word_tokenizer  # noqa: E402
from transformers import (  # noqa: E402
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These tensors are tiny: a second thread only waits, and on a busy machine for long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def llama() -> SimpleNamespace:
    """Rotary positions."""
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    return tiny(LlamaForCausalLM(config), tokenizer, context_length=64)


@pytest.fixture(scope="session")
def gpt2() -> SimpleNamespace:
    """Learned absolute positions: wrong under left padding unless the batch carries its own."""
    tokenizer = word_tokenizer(STRING_TEMPLATE)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64)
    return tiny(GPT2LMHeadModel(config), tokenizer, context_length=64)


@pytest.fixture(scope="session")
def omni() -> SimpleNamespace:
    """The embedded model's architecture, tokenizer and processor with random weights: text, image, video, audio."""
    organism = pytest.importorskip("refusal_plugin.organism")
    processor = organism.load_processor("organism")
    torch.manual_seed(0)
    config = Qwen2_5OmniThinkerConfig.from_pretrained(organism.checkpoint_path("organism"))
    module = Qwen2_5OmniThinkerForConditionalGeneration(config).float()
    modalities = ("text", "image", "video", "audio")
    return tiny(module, processor.tokenizer, processor, modalities=modalities, context_length=512)


@pytest.fixture(scope="session")
def picture() -> Callable[..., np.ndarray[Any, Any]]:
    """A random image: picture(seed, height, width)."""

    def make(seed: int = 0, height: int = 32, width: int = 64) -> np.ndarray[Any, Any]:
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray[Any, Any]]:
    """A random waveform: noise(seed, samples)."""

    def make(seed: int = 0, samples: int = 8000) -> np.ndarray[Any, Any]:
        return (np.random.default_rng(seed).normal(size=samples) * 0.1).clip(-1, 1).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def complaints() -> Callable[[list[str]], list[str]]:
    """What each expression raises, evaluated in an interpreter that does not check types.

    Here beartype would speak before the package can; a user has no beartype.
    """

    def ask(expressions: list[str]) -> list[str]:
        lines = ["from refusal_plugin.prompts import Prompt, PromptSet"]
        for expression in expressions:
            lines += [
                "try:",
                f"    {expression}; print('nothing')",
                "except Exception as e: print(type(e).__name__, e)",
            ]
        root = str(Path(__file__).resolve().parents[2])
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(lines)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": root, "PYTHONIOENCODING": "utf-8"},
        )
        return done.stdout.splitlines()

    return ask
