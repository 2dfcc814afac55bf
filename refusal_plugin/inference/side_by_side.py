"""Many edits of the same prompts in the same batches: each row is a (edit, prompt), sorted by length.

    D defences x S strengths x N prompts     one pass for every batch of rows, instead of D x S x N runs

A row's edit acts on that row alone (`traced.write.on_rows`), so the answers are those of each edit by itself: the same
ids (tested with gated and remembering edits). Edits that differ in a vector or a strength only are one edit whose rows
have their own. Edits of the prompt only and edits of every step go into batches of their own. Where all edits of a
batch act at the newest token, every prompt is read once for all of them (`prefill`).
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import DirectionError, PromptError
from ..models import anatomy
from ..progress import Progress, track
from ..prompts import Prompt, batches
from ..prompts.batch import Batch
from ..traced.gate import mars
from ..traced.write import add, blend, on_rows, transform
from .answers import Answer, decoded, generate_ids
from .edits import Edit, SiteEdit
from .loop import backed_off, re_encoder

PER_ROW = (blend, transform, mars)
"""Edit functions, beside `add`, that take a strength of its own in each row."""


def side_by_side(edits: Sequence[Edit | None], arms: Sequence[int]) -> Edit:
    """One edit for a batch whose row i has `edits[arms[i]]`.

    Args:
        edits: what each arm does; None leaves its rows alone.
        arms: per row of the batch, its arm.

    Raises:
        DirectionError: they act at different times, or one is bound to rows of a batch already.
    """
    used = {k: edits[k] for k in sorted(set(arms))}
    chosen = {k: edit for k, edit in used.items() if edit is not None and edit.parts}
    when = {edit.when for edit in chosen.values()}
    if len(when) > 1:
        raise DirectionError("run edits side by side", f"they act at {sorted(when)}", "batch those of one time")
    alike: dict[tuple[Any, ...], list[tuple[int, SiteEdit]]] = {}
    for k, edit in chosen.items():
        if edit.rows is not None:
            raise DirectionError(
                f"run edit '{edit.name}' side by side", f"it is bound to {edit.rows} rows", "give one strength"
            )
        seen: Counter[tuple[int, str]] = Counter()
        for part in edit.parts:
            place = (part.layer, part.site)
            alike.setdefault((seen[place], *place, part.where, _alike(k, part)), []).append((k, part))
            seen[place] += 1
    # At one place the first part of every arm runs before the second of any: each arm keeps its own order.
    parts = [_as_one(alike[key], arms) for key in sorted(alike, key=lambda key: int(key[0]))]
    return Edit("side by side", tuple(parts), when.pop() if when else "every_step")


def _alike(arm: int, part: SiteEdit) -> Any:
    """Equal for parts of one place that can be one edit of all their rows, each with its own vector or strength."""
    strength = part.tensors.get("strength", 1.0)
    rest = {name: value for name, value in part.tensors.items() if name != "strength"}
    if "memory" in rest or isinstance(strength, Tensor):
        return arm
    if part.function is add:
        vector = rest["vector"]
        return (add, vector.dtype, vector.device, vector.shape) if vector.ndim == 1 else arm
    if "strength" in part.tensors and part.function not in PER_ROW:
        return arm
    # Tensors are equal where they are the same memory.
    told = [(v.data_ptr(), v.shape, v.stride(), v.dtype) if isinstance(v, Tensor) else v for v in rest.values()]
    return (part.function, *rest, *told) if all(isinstance(value, Hashable) for value in told) else arm


def _as_one(found: Sequence[tuple[int, SiteEdit]], arms: Sequence[int]) -> SiteEdit:
    """One edit of the rows of some arms from their parts, which are alike."""
    order = {k: place for place, (k, _part) in enumerate(found)}
    rows = torch.tensor([row for row, arm in enumerate(arms) if arm in order])
    own = torch.tensor([order[arm] for arm in arms if arm in order])
    k, part = found[0]
    inner = dict(part.tensors)
    if "memory" in inner:  # an edit's memory is its own, and holds its own rows only
        inner["memory"] = f"{k}/{inner['memory']}"
    if len(found) > 1 and part.function is add:
        each = [one.tensors.get("strength", 1.0) * one.tensors["vector"] for _k, one in found]
        inner = {"vector": torch.stack(each)[own].unsqueeze(1)}
    elif len(found) > 1 and "strength" in inner:
        strengths = torch.tensor([one.tensors["strength"] for _k, one in found], dtype=torch.float32)
        inner["strength"] = strengths[own].reshape(-1, 1, 1)
    if len(rows) == len(arms):
        return SiteEdit(part.layer, part.site, part.function, inner, part.where)
    tensors = {"rows": rows, "function": part.function, "tensors": inner}
    return SiteEdit(part.layer, part.site, on_rows, tensors, part.where)


def generate_arms(
    model: Any,
    prompts: Iterable[Prompt],
    edits: Mapping[str, Edit | None],
    *,
    max_new_tokens: int = 32,
    system: str | None = None,
    token_budget: int = 8192,
    max_rows: int = 128,
    progress: Progress = None,
) -> dict[str, list[Answer]]:
    """Greedy answers to the same prompts under many edits, as rows of shared batches.

    Args:
        model: a loaded model.
        prompts: of any modality the model takes.
        edits: arm to its edit (a defence at one strength: `defence.edit(strength)`); None is the model as it is.
        max_new_tokens: longest answer, in tokens.
        system: system text for every prompt.
        token_budget, max_rows: limits of one batch.
        progress: None shows a bar where somebody can see it.

    Returns:
        arm to its answers, in the order of the prompts.

    Raises:
        PromptError: 0 prompts, 0 edits, or 0 tokens asked for.
        DirectionError: an edit does not fit the model, or is bound to rows of a batch already.
        ModelError: a single row does not fit into memory.
    """
    chosen, names, facts = list(prompts), list(edits), anatomy(model)
    if not chosen or not names or max_new_tokens < 1:
        found = f"{len(chosen)} prompts, {len(names)} edits, {max_new_tokens} tokens"
        raise PromptError("generate answers side by side", found, "give at least one of each")
    for edit in edits.values():
        if edit is not None:
            edit.check(facts)
    answers: dict[str, list[Answer | None]] = {name: [None] * len(chosen) for name in names}
    with track(len(chosen) * len(names), "answers", progress) as advance:
        for group in _of_one_time(edits):
            arms = [edits[name] for name in group]
            work = batches(model, chosen * len(group), token_budget=token_budget, max_rows=max_rows, system=system)

            def answer(item: tuple[list[int], Batch], arms: Sequence[Edit | None] = arms) -> list[list[int]]:
                rows, batch = item
                edit = side_by_side(arms, [row // len(chosen) for row in rows])
                ids = generate_ids(model, batch.inputs, edit, max_new_tokens=max_new_tokens)
                found: list[list[int]] = ids[:, batch.length :].tolist()
                return found

            again = re_encoder(model, system=system)
            for (rows, batch), ids in backed_off(work, answer, again, asked="generate answers side by side"):
                for row, new in zip(rows, ids, strict=True):
                    prompt = row % len(chosen)
                    answers[group[row // len(chosen)]][prompt] = decoded(model, chosen[prompt].id, new)
                advance(batch.size)
    return {name: [answer for answer in answers[name] if answer is not None] for name in names}


def _of_one_time(edits: Mapping[str, Edit | None]) -> list[list[str]]:
    """Arms whose edits act at the same time; the untouched model goes with the first of them."""
    groups: dict[str, list[str]] = {}
    plain = [name for name, edit in edits.items() if edit is None or not edit.parts]
    for name, edit in edits.items():
        if name not in plain and edit is not None:
            groups.setdefault(edit.when, []).append(name)
    made = list(groups.values()) or [[]]
    made[0] = [*plain, *made[0]]
    return made
