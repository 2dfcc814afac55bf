"""Answers of a model, with or without an edit, in one traced generation per batch.

Greedy by default: an answer is then a function of the prompt and the edit alone. The ids are those of torch hooks on
the bare model, bit for bit (tested), because both run `traced.write.place` on the same tensors. Rows that begin alike
are read once where no edit acts there (`prefill`).
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import PromptError
from ..models import anatomy
from ..models.wrapper import save
from ..progress import Progress, track
from ..prompts import Prompt, batches
from ..prompts.batch import Batch
from ..traced.write import edit_blocks
from .edits import Edit, site_modules
from .loop import re_encoder, run_batches
from .prefill import begun


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        prompt_id: of the prompt.
        text: decoded answer without special tokens, stripped.
        ids: generated token ids up to and without the end token.
        finished: whether the model ended by itself before `max_new_tokens`.
    """

    prompt_id: str
    text: str
    ids: tuple[int, ...]
    finished: bool


def generate(
    model: Any,
    prompts: Iterable[Prompt | str],
    edit: Edit | None = None,
    *,
    max_new_tokens: int = 32,
    system: str | None = None,
    token_budget: int = 8192,
    max_rows: int = 128,
    remote: bool | str = False,
    progress: Progress = None,
    label: str = "answers",
) -> list[Answer]:
    """Greedy answers to prompts, in their order.

    Args:
        model: a loaded model.
        prompts: prompts of any modality the model takes.
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
        ModelError: a single prompt does not fit into memory (larger batches are halved, finished ones kept).
        RemoteError: the server refuses or fails; says why and what to do.
    """
    chosen = [p if isinstance(p, Prompt) else Prompt(text=p) for p in prompts]
    if not chosen:
        raise PromptError("generate answers", "0 prompts", "give at least one")
    if max_new_tokens < 1:
        raise PromptError("generate answers", f"max_new_tokens = {max_new_tokens}", "give at least 1")
    if edit is not None:
        edit.check(anatomy(model))
    found: list[Answer | None] = [None] * len(chosen)

    def answer(group: list[tuple[list[int], Batch]]) -> list[Tensor]:
        return _generate(model, [batch.inputs for _rows, batch in group], edit, max_new_tokens, remote)

    # An edit whose tensors are bound to the rows of a batch cannot follow when it is halved.
    again = re_encoder(model, system=system) if edit is None or edit.rows is None else None
    work = batches(model, chosen, token_budget=token_budget, max_rows=max_rows, system=system)
    where: dict[str, Any] = {"remote": remote, "new_tokens": max_new_tokens, "asked": "generate answers"}
    with track(len(chosen), label, progress) as advance:
        for (rows, batch), ids in run_batches(work, answer, again, **where):
            for row, new in zip(rows, ids[:, batch.length :].tolist(), strict=True):
                found[row] = decoded(model, chosen[row].id, new)
            advance(len(rows))
    return [answer for answer in found if answer is not None]


def generate_ids(
    model: Any,
    inputs: dict[str, Tensor],
    edit: Edit | None,
    *,
    max_new_tokens: int,
    remote: bool | str = False,
) -> Tensor:
    """One traced greedy generation of an encoded batch.

    Args:
        model: a loaded model.
        inputs: keyword arguments of the Hugging Face model, left-padded.
        edit: None leaves the model alone.
        max_new_tokens: longest answer.
        remote: run on NDIF.

    Returns:
        (batch, pos + new) int64 token ids, prompts included; rows that ended early are padded.
    """
    return _generate(model, [inputs], edit, max_new_tokens, remote)[0]


def _generate(
    model: Any, work: list[dict[str, Tensor]], edit: Edit | None, max_new_tokens: int, remote: bool | str
) -> list[Tensor]:
    """Ids of several encoded batches in one session: one request where it is remote."""
    settings = {"max_new_tokens": max_new_tokens, "do_sample": False}
    # A plan per batch: some edits keep a memory from the prompt to the last token of an answer.
    planned = [(inputs, [] if edit is None else edit.plan()) for inputs in work]
    sites = [] if edit is None else site_modules(model, edit)
    if not remote:
        planned = [({**inputs, **begun(model, inputs, edit)}, edits) for inputs, edits in planned]
    with torch.no_grad(), warnings.catch_warnings():
        # The loop over decode steps ends where the model ends: nnsight announces that as a warning each time.
        warnings.filterwarnings("ignore", message=".*was never reached", category=UserWarning)
        if edit is None or not edit.parts:
            with model.session(remote=remote):
                found: list[Tensor] = save([])
                for inputs, _edits in planned:
                    with model.generate(**inputs, **settings) as tracer:
                        found.append(tracer.result)
        elif edit.when == "prefill":
            with model.session(remote=remote):
                found = save([])
                for inputs, edits in planned:
                    with model.generate(**settings) as tracer:
                        with tracer.invoke(**inputs):
                            edit_blocks(sites, edits)
                        with tracer.invoke():
                            found.append(tracer.result)
        else:
            with model.session(remote=remote):
                found = save([])
                for inputs, edits in planned:
                    with model.generate(**settings) as tracer:
                        with tracer.invoke(**inputs):
                            for _step in tracer.iter[:]:
                                edit_blocks(sites, edits)
                        with tracer.invoke():
                            found.append(tracer.result)
    return [ids.cpu() for ids in found]


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
