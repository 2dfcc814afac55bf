"""Prompts that begin alike are read once.

    arms     t and t + p, text                           one pass: both endings side by side, several prompts in a row
             t and t + p of the same media               one pass over t, then only the tokens of p and the template
    grid     M media beside T texts, the medium first    one pass over the media with one text, then the other texts

A decoder block sees earlier positions through their keys and values alone, so a row that is continued or that hides its
neighbours behind a mask is the whole row, and the encoders of the media run once. Not every architecture allows it
(sliding windows beyond their width, linear attention, kernels that take no mask), so every way is tried on a few rows
against the plain one (`trials`), and left where the streams differ or something refuses.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..models import anatomy
from ..progress import Progress
from ..prompts import Prompt, PromptSet, batches, encode
from ..prompts.batch import Batch
from ..prompts.input_spec import input_spec_of
from ..prompts.packing import WIDEST, Packed, pack, same
from ..prompts.texts import texts_of
from ..prompts.tree import words
from .activations import collect_activations
from .branches import Branches, Stem, branches_of, read_branches, read_packed, read_stem
from .continuation import repeatable
from .trials import TRIED, Check, longest_row, trusted

Streams = Float[Tensor, "prompt layer d_model"]


def collect_arms(
    model: Any,
    prompts: Iterable[Prompt],
    suffix: str,
    *,
    system: str | None = None,
    token_budget: int = 8192,
    max_rows: int = 128,
    progress: Progress = None,
) -> tuple[Streams, Streams]:
    """`resid_post` of every layer at the last prompt token of `t` and of `t + suffix`, for little more than one pass.

    Args:
        model: a loaded model.
        prompts: of any modality.
        suffix: text appended inside the user turn in the second arm.
        Others as in `activations.collect`.

    Returns:
        without and with the suffix, rows in the order of the prompts.

    Raises:
        PromptError, DataError: as `collect_activations`.
    """
    anatomy(model).require_stream("collect activations")
    chosen = list(PromptSet(prompts))
    plain: dict[str, Any] = {"system": system, "token_budget": token_budget, "max_rows": max_rows, "progress": progress}
    without = torch.empty(len(chosen), anatomy(model).n_layers, anatomy(model).d_model)
    with_it = torch.empty_like(without)
    left: list[int] = []
    spec = input_spec_of(model)
    work = batches(model, chosen, token_budget=token_budget, max_rows=max_rows, system=system) if chosen else ()
    for rows, batch in work:
        here = [chosen[row] for row in rows]
        arms = [text.ids for text in texts_of(spec, here, system=system, suffix=suffix)]

        def check(found: Tensor, here: Sequence[Prompt] = here) -> tuple[Tensor, Tensor]:
            some, options = here[-TRIED:], {**plain, "progress": False}  # the longest of the batch
            truth = [collect_activations(model, some, suffix=text, **options).values[:, 0] for text in (None, suffix)]
            return found[-TRIED:], torch.stack(truth, 1)

        found = None
        if repeatable(batch):
            found = _packed_arms(model, batch, arms, check)
        if found is None:
            own = None if repeatable(batch) else [text.ids for text in texts_of(spec, here, system=system)]
            found = _continued_arms(model, batch, own or words(batch), arms, check)
        if found is None:
            left += rows
        else:
            without[rows], with_it[rows] = found.unbind(1)
    if left or not chosen:
        some = [chosen[row] for row in left]
        without[left] = collect_activations(model, some, **plain).values[:, 0]
        with_it[left] = collect_activations(model, some, suffix=suffix, **plain).values[:, 0]
    return without, with_it


def collect_grid(
    model: Any,
    prompts: Iterable[Prompt],
    *,
    system: str | None = None,
    token_budget: int = 8192,
    max_rows: int = 128,
    progress: Progress = None,
) -> Streams:
    """`resid_post` of every layer at the last prompt token, where the same media come with many texts.

    Args:
        model: a loaded model.
        prompts: those with the very same medium (the same path or object) share it; others run the plain way.
        Others as in `activations.collect`.

    Raises:
        PromptError, DataError: as `collect_activations`.
    """
    chosen = list(PromptSet(prompts))
    plain: dict[str, Any] = {"system": system, "token_budget": token_budget, "max_rows": max_rows, "progress": progress}
    values = torch.empty(len(chosen), anatomy(model).n_layers, anatomy(model).d_model)
    left, spec = set(range(len(chosen))), input_spec_of(model)
    for columns in _grids(chosen):
        # One row per medium; the first text is the stem, the others branch off where they differ from it.
        stem_rows = [column[0] for column in columns]
        batch = encode(model, [chosen[row] for row in stem_rows], system=system)
        if batch.size > max_rows or batch.size * batch.length > token_budget:
            continue
        # Rendered text depends on the prompt's text and modality alone: one medium speaks for all.
        own, *arms = [text.ids for text in texts_of(spec, [chosen[row] for row in columns[0]], system=system)]
        most = max(1, min(WIDEST, 2 * anatomy(model).d_model, token_budget // batch.size))
        read: list[Stem] = []  # once for all groups, and not before one of them asks for it
        for group in _fitting([len(ids) - same(own, ids) for ids in arms], most):
            columns_here = [[column[0], *(column[k + 1] for k in group)] for column in columns]
            branches = branches_of(batch, [own] * batch.size, [[arms[k]] * batch.size for k in group])
            if branches is None or not _room(model, batch, branches):
                continue

            def grid(batch: Batch = batch, branches: Branches = branches, read: list[Stem] = read) -> Tensor:
                stem = read.pop() if read else read_stem(model, batch)
                found = torch.cat([stem.streams.unsqueeze(1), read_branches(model, stem, branches)], 1)
                read.append(stem)  # but not where something refused: its keys and values may be longer than it is
                return found

            def check(found: Tensor, here: Any = columns_here) -> tuple[Tensor, Tensor]:
                some = [chosen[row] for column in here[:TRIED] for row in (column[0], column[-1])]
                truth = collect_activations(model, some, **{**plain, "progress": False}).values[:, 0]
                return found[:TRIED, [0, -1]], truth.reshape(-1, 2, *truth.shape[1:])

            way, length = f"grid of {batch.prompts[0].modality}", batch.length + branches.tokens.shape[1]
            found = trusted(model, way, length, grid, check)
            if found is not None:
                for column, streams in zip(columns_here, found, strict=True):
                    values[column] = streams
                    left -= set(column)
    if left or not chosen:
        rest = sorted(left)
        values[rest] = collect_activations(model, [chosen[row] for row in rest], **plain).values[:, 0]
    return values


def _packed_arms(model: Any, batch: Batch, arms: Sequence[list[int]], check: Check) -> Tensor | None:
    """Both arms of text in packed rows, (prompt, arm, layer, d_model); None where the model does not allow it."""
    if "position_ids" not in (input_spec_of(model).accepts or ()):
        return None
    facts = anatomy(model)
    packed = pack([*words(batch), *arms], width=facts.d_model, head=facts.d_head, most=longest_row(model))
    if packed is None:
        return None

    def both(packed: Packed = packed) -> Tensor:
        return torch.stack(read_packed(model, packed).chunk(2), 1)

    return trusted(model, "packed text", packed.ids.shape[1], both, check)


def _continued_arms(
    model: Any,
    batch: Batch,
    own: Sequence[list[int]],
    arms: Sequence[list[int]],
    check: Check,
) -> Tensor | None:
    """The second arm behind the keys and values of the first; None where the model does not allow it."""
    branches = branches_of(batch, own, [arms])
    if branches is None or not _room(model, batch, branches):
        return None

    def both() -> Tensor:
        stem = read_stem(model, batch)
        return torch.cat([stem.streams.unsqueeze(1), read_branches(model, stem, branches, cut=True)], 1)

    return trusted(model, f"continued {batch.prompts[0].modality}", batch.length, both, check)


# -- grids -------------------------------------------------------------------------------------------------------------


def _grids(prompts: Sequence[Prompt]) -> list[list[list[int]]]:
    """Row numbers of full grids: per modality, per medium, the texts in one order; at least two texts each."""
    found: list[list[list[int]]] = []
    by_kind: dict[tuple[Any, ...], dict[Any, list[int]]] = {}
    for modality in dict.fromkeys(p.modality for p in prompts if p.medium is not None):
        media: dict[Any, dict[str, int]] = {}
        for row, prompt in enumerate(prompts):
            if prompt.modality == modality:
                medium: Any = prompt.medium
                key = medium if isinstance(medium, str) else id(medium)
                media.setdefault(key, {}).setdefault(prompt.text, row)
        for key, texts in media.items():
            by_kind.setdefault((modality, *sorted(texts)), {})[key] = [texts[text] for text in sorted(texts)]
    for columns in by_kind.values():
        made = list(columns.values())
        if len(made[0]) > 1:
            found.append(made)
    return found


def _room(model: Any, batch: Batch, branches: Branches) -> bool:
    """Whether no row is longer than the context; the plain way says which one is."""
    context = anatomy(model).context_length
    longest = max(n - drop for n, drop in zip(branches.lengths, branches.drops, strict=True))
    return context is None or batch.length + longest <= context


def _fitting(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Branches that are read in one pass, `most` tokens at a time."""
    groups: list[list[int]] = []
    used = most
    for k, size in enumerate(sizes):
        if used + size > most:
            groups.append([])
            used = 0
        groups[-1].append(k)
        used += size
    return groups
