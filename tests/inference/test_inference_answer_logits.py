"""One pass over prompt and answer under an edit gives what generation under the edit gives step by step."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from refusal_plugin.inference.answer_logits import answer_logits
from refusal_plugin.inference.answers import Answer, generate, generate_batches
from refusal_plugin.inference.drafts import agreed, answers_from_drafts
from refusal_plugin.inference.edits import Edit, SiteEdit, addition
from refusal_plugin.inference.loop import re_encoder
from refusal_plugin.models import anatomy
from refusal_plugin.models.generation import greedy
from refusal_plugin.prompts import PromptSet, batches
from refusal_plugin.traced import gate, write

TOKENS = 9


@pytest.fixture(scope="module")
def some(organism: Any) -> SimpleNamespace:
    """A few prompts with and without a medium, and a vector that changes what is said about some of them."""
    from refusal_plugin.organism.data import organism_prompts

    def few(modality: Any) -> PromptSet:
        return organism_prompts(split="val", modality=modality, limit=4, renderings=1)

    width = anatomy(organism).d_model
    vector = 60.0 * torch.nn.functional.normalize(torch.randn(width, generator=torch.Generator().manual_seed(5)), dim=0)
    return SimpleNamespace(text=few("text"), image=few("image"), vector=vector)


def conditional(vector: torch.Tensor, first: int, last: int | None, where: str) -> Edit:
    """Decided by the prompt, for some rows only, in a window of steps."""
    unit = vector / vector.norm()
    note = {"memory": "prompt", "gate": gate.sigmoid, "condition": {"unit": unit, "middle": 0.0, "width": 2.0}}
    act = {"function": write.add, "tensors": {"vector": vector}, "strength": 1.0, "first": first, "last": last}
    late = SiteEdit(5, "resid_post", gate.recall, {"memory": "prompt", **act}, where)  # type: ignore[arg-type]
    return Edit("conditional", (SiteEdit(2, "resid_post", gate.remember, note, "all"), late))


EDITS: dict[str, Any] = {
    "all, every step": lambda v: addition({3: v}, where="all"),
    "last, every step": lambda v: addition({3: v, 4: -v}, where="last"),
    "last, prefill": lambda v: addition({3: v}, where="last", when="prefill"),
    "all, prefill": lambda v: addition({3: v}, where="all", when="prefill"),
    "a gate": lambda v: conditional(v, 0, None, "all"),
    "a gate at the first tokens": lambda v: conditional(v, 0, 2, "last"),
    "a gate behind the first token": lambda v: conditional(v, 1, 1, "last"),
}


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("name", EDITS)
def test_a_pass_over_the_answer_is_generation_step_by_step(
    organism: Any, some: SimpleNamespace, name: str, modality: str
) -> None:
    prompts, edit = getattr(some, modality), EDITS[name](some.vector)
    ((rows, batch),) = batches(organism, prompts)
    settings = {**greedy(TOKENS), "output_logits": True, "return_dict_in_generate": True}
    with edit.attached(organism) as module, torch.no_grad():
        said = module.generate(**batch.inputs, **settings)
    written = torch.stack(said.logits, 1)
    answers = said.sequences[:, batch.length :].tolist()
    work, again = [(rows, batch)], re_encoder(organism)
    ((_, read),) = answer_logits(organism, work, lambda row: answers[rows.index(row)][:-1], lambda _: edit, again)
    assert read.shape == written.shape
    torch.testing.assert_close(read, written, atol=2e-3, rtol=1e-4)
    ((_, plain),) = answer_logits(organism, work, lambda row: answers[rows.index(row)][:-1], lambda _: None, again)
    assert float((read - plain).abs().max()) > 0.1, "and the edit does something"


def test_rows_with_strengths_of_their_own_share_the_reading_of_a_prompt(organism: Any, some: SimpleNamespace) -> None:
    prompts = list(some.image)
    work = list(batches(organism, prompts * 8))
    answers = [[105, 106, 107][: 1 + row % 3] for row in range(len(prompts))]

    def edit(rows: list[int]) -> Edit:
        each = torch.tensor([0.1 * (row // len(prompts)) for row in rows]).reshape(-1, 1, 1)
        tensors = {"vector": some.vector, "strength": each}
        return Edit("rows", (SiteEdit(3, "resid_post", write.add, tensors, "last"),))

    together: dict[int, torch.Tensor] = {}
    for rows, logits in answer_logits(
        organism, work, lambda row: answers[row % len(prompts)], edit, re_encoder(organism)
    ):
        together |= dict(zip(rows, logits, strict=True))
    for arm in (0, 7):
        alone = addition({3: some.vector}, strength=0.1 * arm, where="last")
        for rows, logits in answer_logits(
            organism, batches(organism, prompts), lambda row: answers[row], lambda _, e=alone: e, None
        ):
            for row, one in zip(rows, logits, strict=True):
                n = len(answers[row]) + 1
                found = together[arm * len(prompts) + row][:n]
                torch.testing.assert_close(found, one[:n], atol=2e-3, rtol=1e-4)


# -- drafts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("drafts", ["its own", "nonsense", "none"])
def test_drafts_change_the_work_and_not_the_answers(
    organism: Any, some: SimpleNamespace, drafts: str, strength: float
) -> None:
    edit = addition({3: some.vector}, strength=strength)
    ((_rows, batch),) = batches(organism, some.image)
    plain = {a.prompt_id: list(a.ids) for a in generate(organism, some.image, max_new_tokens=TOKENS, progress=False)}
    own = [{"its own": plain[p.id], "nonsense": [107, 108, 109], "none": []}[drafts] for p in batch.prompts]
    again = re_encoder(organism)
    found = answers_from_drafts(organism, batch, own, lambda _rows: edit, TOKENS, again)
    (expected,) = generate_batches(organism, [(batch, edit)], TOKENS)
    assert [said_of(organism, one) for one in found] == [said_of(organism, one) for one in expected]


def said_of(model: Any, new: list[int]) -> Answer:
    from refusal_plugin.inference.answers import decoded

    return decoded(model, "", new)


def test_an_answer_that_stays_as_it_is_is_never_generated(
    organism: Any, some: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was read")

    plain = {a.prompt_id: list(a.ids) for a in generate(organism, some.text, progress=False)}
    monkeypatch.setattr("refusal_plugin.inference.drafts.generate_batches", never)
    ((_rows, batch),) = batches(organism, some.text)
    own = [plain[p.id] for p in batch.prompts]
    found = answers_from_drafts(organism, batch, own, lambda _rows: None, 32, re_encoder(organism))
    assert [list(said_of(organism, one).ids) for one in found] == own


def test_a_row_in_which_two_tokens_are_as_likely_is_left_alone() -> None:
    logits = torch.tensor([[0.0, 3.0, 0.0], [2.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    assert agreed(logits, [1, 2]) == [1, 0], "up to and with the first one that differs"
    assert agreed(logits, [1, 0]) is None, "behind it nobody is sure"
    assert agreed(torch.full((1, 3), torch.nan), []) is None
