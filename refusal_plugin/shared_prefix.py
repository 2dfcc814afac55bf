"""Prompts that begin alike are read once: the keys and values of the common beginning are kept, the rest is appended.

    arms     t and t + p of the same media               one pass over t, then only the tokens of p and the template
    grid     M media beside T texts, the medium first    one pass over the media with one text, then the other texts

A decoder block sees earlier positions through their keys and values alone, so a continued row is the whole row, and the
encoders of the media run once. Not every architecture's cache can be cut and continued (sliding windows beyond their
width, linear attention), so every (model, modality) is tried once on a few rows against the plain way, and falls back
to it where the streams differ or the cache refuses.
"""

import copy
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .activations import collect
from .continuation import repeatable
from .models import anatomy, hf_layers, hf_module
from .progress import Progress
from .prompts import Prompt, PromptSet, batches, encode
from .prompts.batch import PER_TOKEN, Batch
from .prompts.chat import render
from .prompts.encoding import tokenize
from .prompts.source import source_of
from .traced.read import residual

TRIED = 2
"""Rows of the trial."""
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-5}
"""Largest difference of the trial, relative to the norm of the stream; 3e-2 in half precision."""

_TRUSTED: weakref.WeakKeyDictionary[Any, dict[str, bool]] = weakref.WeakKeyDictionary()

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
        PromptError, DataError: as `collect`.
    """
    anatomy(model).require_stream("collect activations")
    chosen = list(PromptSet(prompts))
    plain: dict[str, Any] = {"system": system, "token_budget": token_budget, "max_rows": max_rows, "progress": progress}
    without = torch.empty(len(chosen), anatomy(model).n_layers, anatomy(model).d_model)
    with_it = torch.empty_like(without)
    left: list[int] = []
    work = batches(model, chosen, token_budget=token_budget, max_rows=max_rows, system=system) if chosen else ()
    for rows, batch in work:
        here = [chosen[row] for row in rows]
        own = _own_words(batch) if repeatable(batch) else _words(model, here, system)
        branch = _branch(batch, own, [_words(model, here, system, suffix)])

        def both(batch: Batch = batch, branch: Any = branch) -> Tensor:
            stem = _read_stem(model, batch)
            return torch.stack([stem.streams, _read_branch(model, stem, branch)[:, 0]])

        def truth(here: Sequence[Prompt] = here) -> Tensor:
            some, options = here[:TRIED], {**plain, "progress": False}
            arms = (None, suffix)
            return torch.stack([collect(model, some, suffix=text, **options).values[:, 0] for text in arms])

        found = _trusted(model, str(here[0].modality), both, truth) if branch is not None else None
        if found is None:
            left += rows
        else:
            without[rows], with_it[rows] = found
    if left or not chosen:
        some = [chosen[row] for row in left]
        without[left] = collect(model, some, **plain).values[:, 0]
        with_it[left] = collect(model, some, suffix=suffix, **plain).values[:, 0]
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
        PromptError, DataError: as `collect`.
    """
    chosen = list(PromptSet(prompts))
    plain: dict[str, Any] = {"system": system, "token_budget": token_budget, "max_rows": max_rows, "progress": progress}
    values = torch.empty(len(chosen), anatomy(model).n_layers, anatomy(model).d_model)
    left = set(range(len(chosen)))
    for columns in _grids(chosen):
        # One row per medium; the first text is the stem, the others branch off where they differ from it.
        stem_rows = [column[0] for column in columns]
        batch = encode(model, [chosen[row] for row in stem_rows], system=system)
        if batch.size > max_rows or batch.size * batch.length > token_budget:
            continue
        # Rendered text depends on the prompt's text and modality alone: one medium speaks for all.
        own, *arms = ([ids] * len(columns) for ids in _words(model, [chosen[row] for row in columns[0]], system))
        read: list[_Stem] = []  # once for all groups, and not before one of them asks for it
        for group in _of_one_length(arms, max_rows // batch.size):
            branch = _branch(batch, own, [arms[k] for k in group])
            rows = [[column[k + 1] for k in group] for column in columns]

            def grid(batch: Batch = batch, branch: Any = branch, read: list[_Stem] = read) -> Tensor:
                if not read:
                    read.append(_read_stem(model, batch))
                return torch.cat([read[0].streams.unsqueeze(1), _read_branch(model, read[0], branch)], 1)

            def truth(columns: Any = columns, group: Sequence[int] = group) -> Tensor:
                some = [chosen[row] for column in columns[:TRIED] for row in (column[0], column[group[0] + 1])]
                found = collect(model, some, **{**plain, "progress": False}).values[:, 0]
                return found.reshape(-1, 2, *found.shape[1:])

            found = _trusted(model, str(batch.prompts[0].modality), grid, truth) if branch is not None else None
            if found is None:
                continue
            values[stem_rows] = found[:, 0]
            left -= set(stem_rows)
            for row, streams in zip(rows, found[:, 1:], strict=True):
                values[row] = streams
                left -= set(row)
    if left or not chosen:
        rest = sorted(left)
        values[rest] = collect(model, [chosen[row] for row in rest], **plain).values[:, 0]
    return values


# -- one stem and its branches -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Stem:
    """Rows that were read whole, and the keys and values they left.

    `deltas` (row, 1) says how far a model with multimodal rotary positions is ahead of the count of tokens.
    """

    batch: Batch
    streams: Float[Tensor, "row layer d_model"]
    cache: Any
    deltas: Tensor | None


@dataclass(frozen=True, eq=False)
class _Branch:
    """Where the branches leave the stem, and with what: `drop` tokens from its end, then `tokens`."""

    drop: int
    tokens: Int[Tensor, "row branch new"]


def _words(model: Any, prompts: Sequence[Prompt], system: str | None, suffix: str | None = None) -> list[list[int]]:
    """Token ids of the rendered prompts with one placeholder for the medium, which nobody reads for this."""
    source, found = source_of(model), []
    for prompt in prompts:
        rendered = render(source, prompt, system=system, suffix=suffix, raw=False)
        found.append(list(tokenize(source, rendered, f"encode prompt {prompt.id!r}")["input_ids"]))
    return found


def _own_words(batch: Batch) -> list[list[int]]:
    """The same of rows without media, which are in the batch already."""
    rows = zip(batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True)
    return [ids[mask == 1].tolist() for ids, mask in rows]


def _branch(stem: Batch, own: Sequence[Sequence[int]], arms: Sequence[Sequence[Sequence[int]]]) -> _Branch | None:
    """The branches' tokens behind the common beginning; None where they are no branches of one shape.

    Args:
        stem: the encoded rows that are read whole.
        own: the token ids of these rows, see `_words`.
        arms: the token ids of the branches, per branch and row. A medium before the place where they part counts as
            one token there, which does not move the distance from the end.
    """
    drop = max(len(mine) - _same(mine, row) for rows in arms for mine, row in zip(own, rows, strict=True))
    tails = [[row[len(mine) - drop :] for mine, row in zip(own, rows, strict=True)] for rows in arms]
    lengths = {len(tail) for rows in tails for tail in rows}
    if len(lengths) != 1 or 0 in lengths or drop >= stem.length:
        return None
    if bool(stem.roles["media"][:, stem.length - drop :].any()):
        return None
    return _Branch(drop, torch.tensor(tails).transpose(0, 1).contiguous())


def _same(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning."""
    n = 0
    while n < min(len(left), len(right)) and left[n] == right[n]:
        n += 1
    return n


def _read_stem(model: Any, batch: Batch) -> _Stem:
    inputs: dict[str, Any] = {**batch.inputs, "use_cache": True}
    if "logits_to_keep" in (source_of(model).accepts or ()):
        inputs["logits_to_keep"] = 1
    streams, output = _read(model, inputs)
    return _Stem(batch, streams, output.past_key_values, getattr(output, "rope_deltas", None))


def _read_branch(model: Any, stem: _Stem, branch: _Branch) -> Float[Tensor, "row branch layer d_model"]:
    batch = stem.batch
    rows, each, new = branch.tokens.shape
    cache = copy.deepcopy(stem.cache)
    if branch.drop:
        cache.crop(-branch.drop)
    if each > 1:
        cache.batch_repeat_interleave(each)
    kept = batch.inputs["attention_mask"][:, : batch.length - branch.drop].repeat_interleave(each, 0)
    mask = torch.cat([kept, torch.ones(rows * each, new, dtype=kept.dtype)], 1)
    inputs: dict[str, Any] = {name: torch.zeros(rows * each, new, dtype=torch.long) for name in PER_TOKEN[2:]}
    inputs = {name: value for name, value in inputs.items() if name in batch.inputs}
    inputs |= {"input_ids": branch.tokens.reshape(rows * each, new), "attention_mask": mask}
    accepts = source_of(model).accepts or frozenset()
    places = (mask.cumsum(-1) - 1)[:, -new:]
    if stem.deltas is not None:
        inputs["position_ids"] = (places + stem.deltas.cpu().repeat_interleave(each, 0)).expand(3, -1, -1)
    elif "position_ids" in accepts:
        inputs["position_ids"] = places
    inputs |= {"past_key_values": cache, "use_cache": True}
    if "logits_to_keep" in accepts:
        inputs["logits_to_keep"] = 1
    streams, _ = _read(model, inputs)
    return streams.reshape(rows, each, *streams.shape[1:])


def _read(model: Any, inputs: dict[str, Any]) -> tuple[Float[Tensor, "row layer d_model"], Any]:
    """Streams of all layers at the last position, and the model's output.

    With torch hooks: a trace would check every input against the rows of `input_ids`, and positions of multimodal
    rotary embeddings have three rows.
    """
    module = hf_module(model)
    device = next(module.parameters()).device
    kept: list[Tensor] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        kept.append(residual(output)[:, -1].float())

    handles = [block.register_forward_hook(keep) for block in hf_layers(model)]
    try:
        with torch.no_grad():
            output = module(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()})
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(kept, 1).cpu(), output


def _trusted(model: Any, modality: str, quick: Callable[[], Tensor], truth: Callable[[], Tensor]) -> Tensor | None:
    """The quick result, or None where this model's cache cannot be continued; the first time it is compared.

    `truth` gives the first rows only, and in a grid the first branch.
    """
    known = _TRUSTED.setdefault(model, {})
    if known.get(modality) is False:
        return None
    try:
        found = quick()
    except Exception:  # whatever a cache raises when it is cut or repeated: the plain way then says what is wrong
        known[modality] = False
        return None
    if modality not in known:
        expected = truth()
        same = found[tuple(slice(size) for size in expected.shape)]
        dtype = next(hf_module(model).parameters()).dtype
        error = (same - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)
        known[modality] = bool((error <= TOLERANCE.get(dtype, 3e-2)).all())
    return found if known[modality] and bool(torch.isfinite(found).all()) else None


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


def _of_one_length(arms: Sequence[Sequence[Sequence[int]]], most: int) -> list[list[int]]:
    """Branches of equal length together, `most` at a time: continued rows hold no padding."""
    by_length: dict[int, list[int]] = {}
    for k, rows in enumerate(arms):
        by_length.setdefault(len(rows[0]), []).append(k)
    step = max(1, most)
    return [group[k : k + step] for group in by_length.values() for k in range(0, len(group), step)]
