"""Back-off on full memory: nothing is lost or done twice, small batches stay, other errors pass through.

Where a device is full is played by a hook that raises torch's own error inside the model's forward pass.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from refusal_plugin.errors import ModelError
from refusal_plugin.inference.activations import collect_activations
from refusal_plugin.inference.answers import generate
from refusal_plugin.inference.edits import Edit, SiteEdit, addition
from refusal_plugin.inference.loop import backed_off, is_out_of_memory, re_encoder
from refusal_plugin.inference.scores import Encoded, refusal_scores
from refusal_plugin.inference.streaming import collect_moments, stream_moments
from refusal_plugin.models import anatomy
from refusal_plugin.prompts import Prompt, PromptSet, batches
from refusal_plugin.prompts.batch import Batch
from refusal_plugin.traced.write import add

LENGTHS = (3, 9, 4, 30, 7, 5, 28, 6, 11, 2)


@pytest.fixture
def prompts() -> PromptSet:
    return PromptSet(Prompt(" ".join(["w1"] * n), id=f"p{n}") for n in LENGTHS)


class Device:
    """Holds so many tokens, and says so in the words of CUDA."""

    def __init__(self, tokens: int) -> None:
        self.tokens, self.tried, self.ran = tokens, [], []  # type: ignore[var-annotated]

    def run(self, item: tuple[list[int], Batch]) -> list[str]:
        batch = item[1]
        size = batch.size * batch.length
        self.tried.append(size)
        if size > self.tokens:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        self.ran.append(size)
        return [prompt.id for prompt in batch.prompts]


def finished(model: Any, prompts: PromptSet, device: Device, **options: Any) -> dict[int, str]:
    found: dict[int, str] = {}
    work = batches(model, prompts, **options)
    for (rows, batch), ids in backed_off(work, device.run, re_encoder(model), asked="read"):
        assert [prompt.id for prompt in batch.prompts] == ids
        for row, name in zip(rows, ids, strict=True):
            assert row not in found
            found[row] = name
    return found


@pytest.mark.parametrize("tokens", [10_000, 120, 60, 40])
def test_every_prompt_once_whatever_fits(tiny: Any, prompts: PromptSet, tokens: int) -> None:
    device = Device(tokens)
    found = finished(tiny("qwen2").model, prompts, device)
    assert found == {row: prompt.id for row, prompt in enumerate(prompts)}
    assert all(size <= tokens for size in device.ran)


def test_what_did_not_fit_is_not_tried_again(tiny: Any, prompts: PromptSet) -> None:
    device = Device(80)
    many = PromptSet(p.replace(id=f"{p.id}-{k}") for k in range(6) for p in prompts)
    finished(tiny("qwen2").model, many, device, max_rows=8)
    failures = [size for size in device.tried if size > 80]
    assert len(failures) <= 3, "the limit is learned"
    assert failures == sorted(failures, reverse=True)


def test_one_row_that_does_not_fit_says_which_and_how_many_were_finished(tiny: Any, prompts: PromptSet) -> None:
    with pytest.raises(ModelError, match=r"prompt 'p(28|30)' of \d+ tokens alone .* \d were finished") as error:
        finished(tiny("qwen2").model, prompts, Device(30))
    assert "\n" not in str(error.value)


def test_other_errors_pass_through(tiny: Any, prompts: PromptSet) -> None:
    def broken(_item: Any) -> None:
        raise RuntimeError("shapes do not match")

    work = batches(tiny("qwen2").model, prompts)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(backed_off(work, broken, re_encoder(tiny("qwen2").model)))


def test_errors_that_mean_memory() -> None:
    hidden = ValueError("trace failed")
    hidden.__cause__ = torch.cuda.OutOfMemoryError("CUDA out of memory")
    full: Sequence[BaseException] = (
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        hidden,
    )
    assert all(is_out_of_memory(error) for error in full)
    assert not is_out_of_memory(RuntimeError("index out of range"))
    assert not is_out_of_memory(KeyError("memory"))


def test_inside_a_trace(tiny: Any, prompts: PromptSet) -> None:
    """The error is recognised through nnsight, which wraps it."""
    made = tiny("qwen2")
    block = made.model._module.model.layers[0]

    def full(_module: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[0] > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    def read(item: tuple[list[int], Batch]) -> int:
        with torch.no_grad(), made.model.trace(**item[1].inputs):
            logits = made.model.output.logits.save()
        return len(logits)

    handle = block.register_forward_pre_hook(full, with_kwargs=True)
    try:
        sizes = [n for _, n in backed_off(batches(made.model, prompts), read, re_encoder(made.model))]
    finally:
        handle.remove()
    assert sum(sizes) == len(prompts) and max(sizes) <= 2


# -- the package's own loops -------------------------------------------------------------------------------------------

IDS = torch.tensor([50, 51])


class Full:
    """A model whose first block holds so many rows; counts prompts (by their tokens) whose pass went through."""

    def __init__(self, model: Any, rows: int) -> None:
        self.model, self.rows, self.finished, self.failed = model, rows, Counter[tuple[int, ...]](), 0

    def __enter__(self) -> "Full":
        module, pad = self.model._module, anatomy(self.model).tokenizer.pad_token_id

        def first(_module: Any, args: Any, kwargs: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            if hidden.shape[0] > self.rows:
                self.failed += 1
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

        def whole(_module: Any, _args: Any, kwargs: Any) -> None:
            self.asked = [tuple(token for token in row if token != pad) for row in kwargs["input_ids"].tolist()]

        def last(_module: Any, _args: Any, _output: Any) -> None:
            self.finished.update(row for row in self.asked if len(row) > 1)  # not the steps behind a prompt

        blocks = module.model.layers
        self.handles = [
            module.register_forward_pre_hook(whole, with_kwargs=True),
            blocks[0].register_forward_pre_hook(first, with_kwargs=True),
            blocks[-1].register_forward_hook(last),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


@pytest.fixture
def mixed() -> PromptSet:
    """More prompts than one batch of 6 rows holds, in two groups."""
    roles: Any = ("harmful", "benign")
    return PromptSet(
        Prompt(" ".join(f"w{(5 * k + i) % 40}" for i in range(n)), role=roles[k % 2], id=f"{k}")
        for k, n in enumerate((*LENGTHS, *LENGTHS))
    )


def flat(found: Any) -> list[Any]:
    """Whatever a loop returns, as numbers."""
    if isinstance(found, dict):
        return [value for name in found for value in (found[name].n, found[name].mean, found[name].m2)]
    if isinstance(found, list):
        return [(answer.prompt_id, answer.ids, answer.finished) for answer in found]
    return [value for value in vars(found).values() if isinstance(value, torch.Tensor)]


def loops(prompts: PromptSet) -> dict[str, Any]:
    """Every loop of the package that runs batches of prompts."""
    edit = addition({1: torch.ones(32)})
    options: dict[str, Any] = {"max_rows": 6, "progress": False}
    return {
        "collect": lambda model: collect_activations(model, prompts, positions=(-2, -1), **options),
        "collect with system and suffix": lambda model: collect_activations(
            model, prompts, system="w1", suffix="w2 w3", **options
        ),
        "collect_moments": lambda model: collect_moments(model, prompts, second="full", **options),
        "stream_moments": lambda model: stream_moments(model, iter(prompts), window=8, max_rows=6),
        "score": lambda model: refusal_scores(
            model, Encoded.of(model, prompts, max_rows=6), IDS, edit, keep_residual=True
        ),
        "generate": lambda model: generate(model, prompts, edit, max_new_tokens=4, system="w1", **options),
    }


@pytest.mark.parametrize("name", sorted(loops(PromptSet([Prompt("w1")]))))
def test_every_loop_backs_off_and_keeps_what_is_finished(tiny: Any, mixed: PromptSet, name: str) -> None:
    model, loop = tiny("qwen2").model, loops(mixed)[name]
    with Full(model, 1000) as free:
        expected = flat(loop(model))
    with Full(model, 2) as full:
        found = flat(loop(model))
    assert free.failed == 0 and 1 <= full.failed <= 4, "the limit is learned, also from one window to the next"
    assert full.finished == free.finished, "each prompt went through as often as without a full device"
    for a, b in zip(found, expected, strict=True):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        else:
            assert a == b


def test_no_hook_or_edit_is_left_behind(tiny: Any, mixed: PromptSet) -> None:
    model, loop = tiny("qwen2").model, loops(mixed)["collect"]
    before = flat(loop(model))
    with Full(model, 2):
        flat(loops(mixed)["generate"](model))
    torch.testing.assert_close(flat(loop(model)), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["collect", "score", "generate"])
def test_every_loop_says_which_prompt_does_not_fit(tiny: Any, mixed: PromptSet, name: str) -> None:
    model = tiny("qwen2").model
    with Full(model, 0), pytest.raises(ModelError, match=r"prompt '\d+' of \d+ tokens alone .* 0 were finished"):
        loops(mixed)[name](model)


def test_an_edit_bound_to_rows_is_not_halved(tiny: Any, mixed: PromptSet) -> None:
    """Strengths as rows of one batch belong to its rows: half of them would meet the wrong prompts."""
    model, four = tiny("qwen2").model, mixed.limit(4, seed=0)
    strengths = torch.arange(4.0).reshape(4, 1, 1)
    edit = Edit("rows", (SiteEdit(1, "resid_post", add, {"vector": torch.ones(32), "strength": strengths}),))
    with Full(model, 2), pytest.raises(ModelError, match="bound to these rows"):
        refusal_scores(model, Encoded.of(model, four), IDS, edit)
    with Full(model, 2), pytest.raises(ModelError, match="bound to these rows"):
        generate(model, four, edit, progress=False)
