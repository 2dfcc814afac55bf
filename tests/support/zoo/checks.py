"""What is tried on every family, each against plain torch on the module that was built.

A check ends in one of four ways: "ok"; "refused: ..." where the package says in one line what it cannot do; "fails:
..." for anything else; "none" where there is nothing to try.
"""

from __future__ import annotations

import gc
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from refusal_plugin import (
    Prompt,
    PromptSet,
    RefusalPluginError,
    RefusalTokens,
    addition,
    anatomy,
    attribute_heads,
    collect_activations,
    encode,
    fit_direction,
    generate,
    load,
    select_direction,
)
from refusal_plugin.models import hf_layers, hf_module

from .build import Built

PADDED, SAME = 1e-3, 1e-4
"""Largest difference relative to the largest value of the stream: a row in a batch against the row alone, and a traced
stream against that of plain hooks."""

_TEXTS = ("Name a colour.", "Which of these is a fruit: an apple, a stone?")


def check(built: Built, folder: Path, media: tuple[str, ...]) -> dict[str, str]:
    """Run the checks on a checkpoint that `built` has saved in `folder`; what each one found, by name.

    Checks of one medium have its name behind a dot ("padding.image").

    Args:
        built: what was built.
        folder: where it lies.
        media: those that transformers itself can put in, see `troubles`.
    """
    found: dict[str, str] = {}
    loaded: list[Any] = []

    def loads() -> None:
        loaded.append(load(folder))

    found["loads"] = _outcome(loads)
    if not loaded:
        return found
    model = loaded[0]
    facts = anatomy(model)
    found["modalities"] = _outcome(lambda: _modalities(facts, media))
    taken = ["text", *(medium for medium in media if medium in facts.modalities)]
    for medium in taken:
        end = "" if medium == "text" else f".{medium}"
        prompts = prompts_of(medium)
        found[f"residuals{end}"] = _outcome(lambda p=prompts: _residuals(built, model, p))
        found[f"padding{end}"] = _outcome(lambda p=prompts: _padding(model, p))
        found[f"steering{end}"] = _outcome(lambda p=prompts: _steering(built, model, p))
    found["heads"] = _outcome(lambda: _heads(model))
    found["selection"] = _outcome(lambda: _selection(model))
    found["bfloat16"] = _outcome(lambda: _bfloat16(folder, taken))
    found["remote"] = _outcome(lambda: _remote(folder))
    del model, loaded
    gc.collect()
    return found


def troubles(built: Built) -> dict[str, str]:
    """By medium, why transformers' own processor and model do not run together: no fault of what is tested here."""
    found = {}
    for medium in built.family.placeholders:
        if built.processor is None:
            found[medium] = built.why
            continue
        try:
            _natively(built, medium)
        except Exception as error:
            found[medium] = (
                f"transformers itself fails on the tiny model ({type(error).__name__}: {_line(error)[:160]})"
            )
    return found


def _natively(built: Built, medium: str) -> None:
    """One prompt with a medium through the family's own processor and model."""
    prompt = prompts_of(medium)[0]
    turns = [{"role": "user", "content": [{"type": medium}, {"type": "text", "text": prompt.text}]}]
    text = built.processor.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    given: dict[str, Any] = {"images": [prompt.image]}
    if medium == "video":
        given = {"videos": [prompt.video], "do_sample_frames": False}
    elif medium == "audio":
        given = {"audio": [prompt.audio], "sampling_rate": 16000}
    try:
        inputs = built.processor(text=[text], return_tensors="pt", **given)
    except ValueError:
        if medium != "video":
            raise
        inputs = built.processor(text=[text], return_tensors="pt", **given | {"videos": [[prompt.video]]})  # SmolVLM
    part = getattr(built.module, "thinker", built.module)
    floats = {
        name: value.float() if value.is_floating_point() else value
        for name, value in inputs.items()
        if isinstance(value, Tensor)
    }
    with torch.no_grad():
        part(**floats)


def _outcome(run: Callable[[], object]) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()
    except RefusalPluginError as error:
        return f"refused: {_line(error)}"
    except Exception as error:
        return (
            f"fails: {_line(error) if isinstance(error, AssertionError) else f'{type(error).__name__}: {_line(error)}'}"
        )
    return "ok"


def _line(error: Exception) -> str:
    """The last line that says something: nnsight puts a traceback in front of it."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (
        " ".join(
            (lines[-1] if type(error).__module__.startswith("nnsight") or len(lines) > 6 else " ".join(lines)).split()
        )[:300]
        if lines
        else ""
    )


def prompts_of(medium: str) -> list[Prompt]:
    """Two prompts of unequal length; their media are of unequal size."""
    generator = np.random.default_rng(0)

    def picture(width: int, height: int) -> Image.Image:
        return Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8))

    if medium == "image":
        media: list[Any] = [picture(60, 40), picture(90, 130)]
    elif medium == "video":
        media = [[picture(60, 40) for _ in range(4)], [picture(60, 40) for _ in range(8)]]
    elif medium == "audio":
        media = [generator.standard_normal(n).astype(np.float32) * 0.1 for n in (8000, 12800)]
    else:
        return [Prompt(text) for text in _TEXTS]
    return [Prompt(text, **{medium: one}) for text, one in zip(_TEXTS, media, strict=True)]


# -- the checks --------------------------------------------------------------------------------------------------------


def _modalities(facts: Any, expected: tuple[str, ...]) -> None:
    """What is not taken is refused with its reason; said nothing of, it fails."""
    for medium in expected:
        facts.require_modality(medium)


def _residuals(built: Built, model: Any, prompts: list[Prompt]) -> None:
    """`collect_activations` against hooks on the module that was never traced."""
    facts = anatomy(model)
    if not _copies(facts):
        facts.require_stream("read the residual stream")
    for prompt in prompts:
        found = collect_activations(model, [prompt], progress=False).values[0, 0]
        plain = _stream(_reference(built, facts), facts, encode(model, [prompt]).inputs)
        _close(found, plain, SAME, "the traced stream is not that of plain hooks")


def _padding(model: Any, prompts: list[Prompt]) -> None:
    together = collect_activations(model, prompts, progress=False).values[:, 0]
    alone = torch.cat([collect_activations(model, [prompt], progress=False).values[:, 0] for prompt in prompts])
    _close(together, alone, PADDED, "a row in a batch is not the row alone")


def _steering(built: Built, model: Any, prompts: list[Prompt]) -> None:
    """The ids of a steered answer against those of torch hooks, and they differ from the unsteered ones."""
    facts = anatomy(model)
    layer = facts.n_layers // 2
    stream = collect_activations(model, prompts[:1], progress=False).values[0, 0, layer]
    vector = torch.randn(facts.d_model, generator=torch.Generator().manual_seed(1))
    vector = vector * 2 * stream.norm() / vector.norm()
    for prompt in prompts:
        (found,) = generate(model, [prompt], addition({layer: vector}), max_new_tokens=4, progress=False)
        inputs = encode(model, [prompt]).inputs
        module = _reference(built, facts)
        block = hf_layers(module, facts)[layer]
        handle = block.register_forward_hook(lambda _m, _a, output: _added(output, vector))
        try:
            with torch.no_grad():
                ids = module.generate(**inputs, max_new_tokens=4, do_sample=False)  # type: ignore[operator]
        finally:
            handle.remove()
        plain = _answer(module, ids[0, inputs["input_ids"].shape[1] :].tolist())
        assert found.ids == plain, f"steered ids {list(found.ids)} are not those of plain hooks {list(plain)}"


def _heads(model: Any) -> None:
    facts = anatomy(model)
    vector = torch.randn(facts.d_model, generator=torch.Generator().manual_seed(2))
    found = attribute_heads(model, (vector, facts.n_layers - 1), list(_TEXTS), progress=False)
    left = float((found.remainder.abs() / found.total.abs().clamp_min(1.0)).max())
    assert left < 1e-3, f"heads, biases, MLPs and embedding leave {left:.2g} of the stream"


def _selection(model: Any) -> None:
    harmful = [
        Prompt(text, role="harmful") for text in ("How do I pick a lock?", "Tell me a secret way.", "Break it now.")
    ]
    benign = [Prompt(text, role="benign") for text in ("How do I bake bread?", "Tell me a story.", "Fold it now.")]
    other = [Prompt(text, role=role) for role, text in (("harmful", "Open the safe."), ("benign", "Open the book."))]
    candidates = fit_direction(model, PromptSet([*harmful, *benign]), progress=False)
    # Nearly every token opens a refusal here, so that a random model passes the filter on what an addition induces.
    ids = torch.arange(3, int(hf_module(model).config.get_text_config().vocab_size * 0.9))
    tokens = RefusalTokens(ids, tuple(map(str, ids.tolist())), 1.0, 0.0, frozenset())
    direction = select_direction(
        model, candidates, PromptSet(other), tokens, objective="causal", max_kl=1e9, max_depth=1.0, progress=False
    )
    assert torch.isfinite(direction.vector).all(), "the direction chosen is not finite"


def _bfloat16(folder: Path, media: list[str]) -> None:
    model = load(folder, dtype="bfloat16")
    for medium in media:
        prompt = prompts_of(medium)[0]
        found = collect_activations(model, [prompt], progress=False).values
        assert torch.isfinite(found).all(), f"{medium}: the stream is not finite"
        generate(model, [prompt], max_new_tokens=1, progress=False)


def _remote(folder: Path) -> None:
    """A request is packed, with the residual streams of a prompt asked for."""
    from refusal_plugin.models import layers
    from refusal_plugin.models.wrapper import save

    model = load(folder, remote=True)
    inputs = encode(model, [_TEXTS[0]]).inputs
    blocks = layers(model)
    packed = _Packed(model)
    with model.session(backend=packed):
        found = save([])
        with model.trace(**inputs):
            found.append(blocks[-1].output)
    assert packed.size > 0, "nothing was packed"


def _Packed(model: Any) -> Any:
    from nnsight import register  # type: ignore[import-untyped]
    from nnsight.intervention.backends.remote import RemoteBackend  # type: ignore[import-untyped]

    class Packed(RemoteBackend):  # type: ignore[misc]
        """Packs a request and sends nothing."""

        size = 0

        def __call__(self, tracer: Any = None) -> None:
            self.size = len(self._serialize(tracer))

    register("refusal_plugin")
    return Packed("tiny", host="http://localhost", verbose=False)


# -- plain torch -------------------------------------------------------------------------------------------------------


def _reference(built: Built, facts: Any) -> nn.Module:
    """The module that was built, or the part of it that was loaded (an omni model's thinker)."""
    module = built.module
    if type(module).__name__ == facts.architecture:
        return module
    return next(part for part in module.children() if type(part).__name__ == facts.architecture)


def _copies(facts: Any) -> bool:
    return bool(facts.copies == 1)


def _stream(module: nn.Module, facts: Any, inputs: dict[str, Tensor]) -> Tensor:
    """`(layer, d_model)` behind every layer at the last position."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        seen.append(value[0, -1].detach().float())

    with _hooks(hf_layers(module, facts), keep), torch.no_grad():
        module(**inputs, use_cache=False)
    return torch.stack(seen)


@contextmanager
def _hooks(blocks: list[nn.Module], hook: Any) -> Iterator[None]:
    handles = [block.register_forward_hook(hook) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _answer(module: Any, ids: list[int]) -> tuple[int, ...]:
    """The ids before the first end token."""
    ends = module.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return tuple(itertools.takewhile(lambda token: token not in ends, ids))


def _added(output: Any, vector: Tensor) -> Any:
    return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector


def _close(found: Tensor, expected: Tensor, tolerance: float, says: str) -> None:
    assert found.shape == expected.shape, f"{says}: shapes {tuple(found.shape)} and {tuple(expected.shape)}"
    scale = float(expected.abs().amax().clamp_min(1e-6))
    apart = float((found - expected).abs().amax()) / scale
    assert apart <= tolerance, f"{says} (apart by {apart:.2g} of it)"
