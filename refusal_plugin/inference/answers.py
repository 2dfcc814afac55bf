"""Answers of a model, with or without an edit: here in torch hooks (`leaving`), on a server in a trace per batch.

Greedy, whatever the checkpoint's own settings say (`models.generation`): an answer is a function of the prompt and the
edit alone. The ids are those of torch hooks on the bare model, bit for bit (tested), because both run
`traced.write.place` on the same tensors.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..errors import DataError, PromptError
from ..models import anatomy, hf_module
from ..models.generation import greedy
from ..models.running import running
from ..models.wrapper import save
from ..progress import Progress, track
from ..prompts import Prompt, batches
from ..prompts.batch import Batch
from ..prompts.encoding import as_prompts
from ..report.shown import Shown
from ..traced.read import next_logits
from ..traced.write import edit_blocks
from .edits import NO_EDIT, Edit, has_attached, require_edit, site_modules
from .leaving import generate_here
from .loop import Item, ReEncode, re_encoder, run_batches
from .prefix import LEAST, shared_stem, trusted


@dataclass(frozen=True)
class Answer(Shown):
    """What a model said.

    Attributes:
        prompt_id: of the prompt.
        text: decoded answer without special tokens, stripped; what follows the beginning that a prompt gives.
        ids: generated token ids up to and without the end token.
        finished: whether the model ended by itself before `max_new_tokens`.
    """

    prompt_id: str
    text: str
    ids: tuple[int, ...] = field(repr=False)
    finished: bool


class Answers(Shown, list[Answer]):
    """Answers in the order of their prompts: a list that shows itself."""

    def finding(self) -> str:
        return f"{len(self)} answers" + (f", the first {self[0].text[:60]!r}" if self else "")

    def caveats(self) -> Sequence[str]:
        cut = sum(not answer.finished for answer in self)
        said = f"{cut} of {len(self)} were cut at max_new_tokens: a refusal that comes late is not in them."
        return [said] if cut else []

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per answer."""
        return ({"id": a.prompt_id, "text": a.text, "tokens": len(a.ids), "finished": a.finished} for a in self)


def generate(
    model: Any,
    prompts: Prompt | str | Iterable[Prompt | str],
    edit: Edit | None = None,
    *,
    max_new_tokens: int = 32,
    system: str | None = None,
    token_budget: int = 8192,
    max_rows: int = 128,
    remote: bool | str = False,
    progress: Progress = None,
    label: str = "answers",
) -> Answers:
    """Greedy answers to prompts, in their order.

    Args:
        model: a loaded model.
        prompts: prompts of any modality the model takes; a single one, or a text, is one prompt.
        edit: what to change in the residual stream while it answers; None for the model as it is.
        max_new_tokens: longest answer, in tokens.
        system: system text for every prompt.
        token_budget, max_rows: limits of one batch.
        remote: run on NDIF: one request, or several where one would exceed `remote.Settings.max_tokens`.
        progress: None shows a bar in a terminal or notebook, False shows none.
        label: of the bar.

    Raises:
        PromptError: 0 prompts or 0 tokens asked for, or a prompt the model does not take.
        DirectionError: the edit does not fit the model.
        DataError: NaN or infinite logits.
        ModelError: a single prompt does not fit into memory (larger batches are halved, finished ones kept).
        RemoteError: the server refuses or fails; says why and what to do.
    """
    chosen = as_prompts(prompts)
    if not chosen:
        raise PromptError("generate answers", "0 prompts", "give at least one")
    if max_new_tokens < 1:
        raise PromptError("generate answers", f"max_new_tokens = {max_new_tokens}", "give at least 1")
    require_edit(edit, "generate answers")
    if edit is not None:
        edit.check(anatomy(model))
    found: list[Answer | None] = [None] * len(chosen)

    def answer(group: list[Item]) -> list[list[list[int]]]:
        some = [(batch, edit) for _rows, batch in group]
        return generate_batches(model, some, max_new_tokens, again, remote=remote)

    # An edit whose tensors are bound to the rows of a batch cannot follow when it is halved.
    again = re_encoder(model, system=system) if edit is None or edit.rows is None else None
    work = batches(model, chosen, token_budget=token_budget, max_rows=max_rows, system=system)
    where: dict[str, Any] = {"remote": remote, "new_tokens": max_new_tokens, "asked": "generate answers"}
    with track(len(chosen), label, progress) as advance:
        for (rows, _batch), said in run_batches(work, answer, again, **where):
            for row, new in zip(rows, said, strict=True):
                found[row] = decoded(model, chosen[row].id, new)
            advance(len(rows))
    return Answers(answer for answer in found if answer is not None)


def generate_batches(
    model: Any,
    work: Sequence[tuple[Batch, Edit | None]],
    max_new_tokens: int,
    again: ReEncode | None = None,
    *,
    remote: bool | str = False,
) -> list[list[list[int]]]:
    """Generated token ids of several encoded batches, each under an edit, in one session: one request if remote.

    Args:
        model: a loaded model.
        work: batches and their edits.
        max_new_tokens: longest answer.
        again: encodes some prompts of a batch anew: rows of the same prompt may then share its beginning.
        remote: run on NDIF.

    Returns:
        per batch and row the new tokens, whatever follows an end token included.

    Raises:
        PromptError: prompt and answer are longer than the model's context.
        DataError: NaN or infinite logits.
    """
    for batch, _edit in work:
        _require_room(model, batch, max_new_tokens)
    with running(model, "generate answers", remote):
        every, finite = _answered(model, work, max_new_tokens, again, remote)
    said = []
    for (batch, _edit), ids, good in zip(work, every, finite, strict=True):
        if not bool(good.all()):
            name = batch.prompts[int((~good).int().argmax())].id
            found = f"NaN or infinite logits while answering prompt '{name}'"
            raise DataError("generate answers", found, "check the edit's strength and the dtype")
        said.append(ids.tolist())
    return said


def _answered(
    model: Any,
    work: Sequence[tuple[Batch, Edit | None]],
    max_new_tokens: int,
    again: ReEncode | None,
    remote: bool | str,
) -> tuple[list[Int[Tensor, "batch pos"]], list[Bool[Tensor, " batch"]]]:
    """New tokens, and per row whether all logits were finite."""
    if remote:
        every, finite = _generate(model, [(batch.inputs, edit) for batch, edit in work], max_new_tokens, remote)
        return [ids[:, batch.length :] for ids, (batch, _) in zip(every, work, strict=True)], finite
    every, finite = [], []
    for batch, edit in work:
        shared = shared_stem(model, batch, edit, again, answers=True)
        inputs = batch.inputs if shared is None else shared[0].answering(shared[1], batch)
        leave = shared is not None or _may_leave(model, batch, max_new_tokens, again)
        ids, good = generate_here(
            model, inputs, edit or NO_EDIT, max_new_tokens, end_ids(model), leave=batch.size > 1 and leave
        )
        every.append(ids)
        finite.append(good)
    return every, finite


def _may_leave(model: Any, batch: Batch, max_new_tokens: int, again: ReEncode | None) -> bool:
    """Whether rows that have ended may leave: other rows then go on from a cache that was cut, which is tried first."""
    if again is None or batch.size * max_new_tokens < LEAST or has_attached(hf_module(model)):
        return False
    return trusted(model, batch, again, answers=True)


def _require_room(model: Any, batch: Batch, max_new_tokens: int) -> None:
    """PromptError where an answer would run beyond the context: a model goes on there, into nonsense."""
    context = anatomy(model).context_length
    lengths = batch.inputs["attention_mask"].sum(1)
    longest = int(lengths.max())
    if context is not None and longest + max_new_tokens > context:
        name = batch.prompts[int(lengths.argmax())].id
        found = f"its {longest} tokens and {max_new_tokens} new ones exceed the model's context of {context}"
        raise PromptError(f"answer prompt '{name}'", found, "shorten it or ask for fewer new tokens")


def generate_ids(
    model: Any,
    inputs: dict[str, Tensor],
    edit: Edit | None,
    *,
    max_new_tokens: int,
    remote: bool | str = False,
) -> Int[Tensor, "batch pos"]:
    """One traced greedy generation of an encoded batch.

    Args:
        model: a loaded model.
        inputs: keyword arguments of the Hugging Face model, left-padded.
        edit: None leaves the model alone.
        max_new_tokens: longest answer.
        remote: run on NDIF.

    Returns:
        token ids, prompts included; rows that ended early are padded.
    """
    with running(model, "generate answers", remote):
        return _generate(model, [(inputs, edit)], max_new_tokens, remote)[0][0]


def _generate(
    model: Any, work: Sequence[tuple[dict[str, Tensor], Edit | None]], max_new_tokens: int, remote: bool | str
) -> tuple[list[Int[Tensor, "batch pos"]], list[Bool[Tensor, " batch"]]]:
    """Ids, and per row whether all logits were finite, of several encoded batches in one session."""
    settings = greedy(max_new_tokens)
    # A plan per batch: some edits keep a memory from the prompt to the last token of an answer.
    planned = []
    for inputs, edit in work:
        chosen = edit or NO_EDIT
        last = 1 if chosen.when == "prefill" else max_new_tokens
        planned.append((inputs, site_modules(model, chosen), chosen.plan(), last))
    with torch.no_grad(), warnings.catch_warnings():
        # The loop over decode steps ends where the model ends: nnsight announces that as a warning each time.
        warnings.filterwarnings("ignore", message=".*was never reached", category=UserWarning)
        with model.session(remote=remote):
            found: list[Tensor] = save([])
            finite: list[list[Tensor]] = save([])
            for inputs, sites, edits, last in planned:
                good: list[Tensor] = []
                finite.append(good)
                with model.generate(**settings) as tracer:
                    with tracer.invoke(**inputs):
                        for step in tracer.iter[:]:
                            if step < last:
                                edit_blocks(sites, edits)
                            good.append(next_logits(model.output).amax(-1).isfinite())
                    with tracer.invoke():
                        found.append(tracer.result)
    return [ids.cpu() for ids in found], [torch.stack(good).all(0).cpu() for good in finite]


def decoded(model: Any, prompt_id: str, new: list[int]) -> Answer:
    """Generated token ids of one row, prompt and padding aside, as an answer."""
    tokenizer = anatomy(model).tokenizer
    stop = end_ids(model)
    length = next((k for k, token in enumerate(new) if token in stop), len(new))
    text = tokenizer.decode(new[:length], skip_special_tokens=True).strip()
    return Answer(prompt_id, text, tuple(new[:length]), length < len(new))


def end_ids(model: Any) -> frozenset[int]:
    """Token ids that end an answer: of the generation config, and the tokenizer's end and padding tokens."""
    module = model._module
    config = getattr(module, "generation_config", None)
    end = getattr(config, "eos_token_id", None)
    ids = set(end if isinstance(end, (list, tuple)) else [end])
    tokenizer = anatomy(model).tokenizer
    ids |= {tokenizer.eos_token_id, tokenizer.pad_token_id}
    return frozenset(token for token in ids if token is not None)
