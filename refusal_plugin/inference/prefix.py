"""What prompts begin with is read once, and continued from copies of transformers' own cache.

    SARSteer     t and t + p of the same medium        the medium and t once, then what is left of either
    MARS         M media beside T texts                each medium once, then the texts
    arms         S strengths of the newest token       each prompt once, then its end and its answer S times

A decoder block sees earlier positions through their keys and values alone. Not every cache can be copied and continued
(recurrent states, windows), and not every model counts positions the same way behind one: each model, modality and
length is tried on two of its own prompts first, and reads the plain way where the two ways differ.
"""

import contextlib
import copy
import warnings
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ..models import anatomy, hf_layers, hf_module
from ..models.generation import greedy
from ..models.running import running
from ..progress import Progress, track
from ..prompts import Prompt, PromptSet, batches
from ..prompts.batch import PER_TOKEN, Batch
from ..prompts.encoding import as_prompts
from ..prompts.input_spec import input_spec_of
from ..prompts.light import continued_inputs, next_token_inputs
from ..prompts.texts import common_beginning, texts_of
from ..traced.gate import remember
from ..traced.measure import agrees
from ..traced.read import residual
from ..traced.write import on_rows
from .activations import collect_activations
from .edits import Edit, SiteEdit, has_attached
from .loop import Item, ReEncode, backed_off, is_out_of_memory, re_encoder
from .trunk import Enough, left_out, untouched_blocks

REST = 2
"""Tokens of a prompt that arms read for themselves: edits tell a prompt from a decode step by more than one token."""
LEAST = 512
"""Positions that must be saved: a further pass has a price of its own."""
PAYS = 0.15
"""Reading with a shared beginning has to save this share of the positions."""
KEPT = 2**28
"""Bytes of keys and values that are kept for the next pass."""
PLACES = (*PER_TOKEN, "position_ids")

_TRIED: weakref.WeakKeyDictionary[Any, dict[tuple[str, str, int], bool]] = weakref.WeakKeyDictionary()


def device_of(model: Any) -> torch.device:
    """Where a loaded model's weights begin, and its inputs have to be."""
    return next(hf_module(model).parameters()).device


@dataclass(frozen=True, eq=False)
class Stem:
    """What rows begin with, read.

    Attributes:
        model: the loaded model.
        inputs: per-token inputs of the beginnings, (row, pos).
        cache: their keys and values.
        deltas: (row, 1), how far a model with multimodal rotary positions is ahead of the count of tokens; else None.
    """

    model: Any
    inputs: dict[str, Tensor]
    cache: Any
    deltas: Tensor | None

    def cache_of(self, rows: Sequence[int]) -> Any:
        """A copy of the keys and values, one row for each of `rows`."""
        made = copy.deepcopy(self.cache)
        made.reorder_cache(torch.tensor(rows, device=device_of(self.model)))
        return made

    def continued(self, rows: Sequence[int], tails: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Inputs of a pass that goes on: row i continues beginning `rows[i]` with the tokens `tails[i]`."""
        longest = max(len(tail) for tail in tails)
        own = torch.tensor([[0] * (longest - len(tail)) + [1] * len(tail) for tail in tails])
        mask = torch.cat([self.inputs["attention_mask"][list(rows)], own], 1)
        inputs: dict[str, Any] = {name: torch.zeros_like(own) for name in self.inputs}
        inputs["input_ids"] = torch.tensor([[0] * (longest - len(tail)) + list(tail) for tail in tails])
        inputs["attention_mask"] = mask
        places = (mask.cumsum(-1) - 1).clamp_min(0)[:, -longest:]
        if self.deltas is not None:
            inputs["position_ids"] = (places + self.deltas[list(rows)].cpu()).expand(3, -1, -1)
        elif "position_ids" in self.inputs:
            inputs["position_ids"] = places
        device = device_of(self.model)
        moved = {name: value.to(device) for name, value in inputs.items()}
        return {**moved, "past_key_values": self.cache_of(rows), "use_cache": True}

    def answering(self, rows: Sequence[int], batch: Batch) -> dict[str, Any]:
        """Inputs of `generate` for the rows of a batch, each of which continues beginning `rows[i]`."""
        if self.deltas is not None:
            for part in hf_module(self.model).modules():
                if hasattr(part, "rope_deltas"):
                    part.rope_deltas = self.deltas[list(rows)]
        inputs = {name: value for name, value in batch.inputs.items() if name in PLACES}
        return {**inputs, "past_key_values": self.cache_of(rows)}


def read_stem(model: Any, batch: Batch, drops: Sequence[int]) -> Stem:
    """Read rows without their last tokens.

    Args:
        model: a loaded model, on this machine.
        batch: the rows.
        drops: of each row, how many tokens at its end are left out, at least one.
    """
    least = min(drops)

    def cut(values: Tensor) -> Tensor:
        """Rows without their ends, moved to the right so that all end in the last column."""
        kept = [row[: len(row) - drop] for row, drop in zip(values, drops, strict=True)]
        return torch.stack(
            [torch.nn.functional.pad(row, (drop - least, 0)) for row, drop in zip(kept, drops, strict=True)]
        )

    inputs = {name: cut(value) if name in PLACES else value for name, value in batch.inputs.items()}
    begin: dict[str, Any] = {name: value.to(device_of(model)) for name, value in inputs.items()}
    if "logits_to_keep" in (input_spec_of(model).accepts or ()):
        begin["logits_to_keep"] = 1
    with torch.no_grad():
        output = hf_module(model)(**begin, use_cache=True)
    places = {name: value for name, value in inputs.items() if name in PLACES}
    return Stem(model, places, output.past_key_values, getattr(output, "rope_deltas", None))


# -- arms: rows of a batch that are the same prompts -------------------------------------------------------------------


Stems: TypeAlias = dict[tuple[int, ...], Stem]
"""Beginnings by the prompts that they belong to, kept for the next pass over the same ones."""


def shared_stem(
    model: Any,
    batch: Batch,
    edit: Edit | None,
    again: ReEncode | None,
    *,
    answers: bool,
    kept: Stems | None = None,
    times: int = 1,
) -> tuple[Stem, list[int]] | None:
    """The beginnings of a batch whose rows repeat a few prompts, and whose each row is; None where it runs as it is.

    Args:
        model: a loaded model, on this machine.
        batch: the rows.
        edit: what acts on them; sharing needs one that acts at the newest token and looks at nothing before it.
        again: encodes some prompts of the batch anew; None where that is not known.
        answers: whether `generate` goes on from them, or a single pass.
        kept: where beginnings are looked up and, while they are small, kept; the caller keeps their prompts alive.
        times: passes over the same rows that `kept` is for, about.
    """
    if again is None or (edit is not None and not all(map(_newest_only, edit.parts))):
        return None
    first: dict[int, int] = {}
    copies = [first.setdefault(id(prompt), len(first)) for prompt in batch.prompts]
    if (times * batch.size - len(first)) * (batch.length - REST) < LEAST or has_attached(hf_module(model)):
        return None
    key = (batch.length, *first)
    if kept is not None and key in kept:
        return kept[key], copies
    stems = again(list({id(prompt): prompt for prompt in batch.prompts}.values()))
    if stems.length != batch.length or bool(stems.roles["media"][:, -REST:].any()):
        return None
    if not bool(stems.inputs["attention_mask"][:, -REST - 1].all()) or not trusted(
        model, stems, again, answers=answers
    ):
        return None
    stem = read_stem(model, stems, [REST] * stems.size)
    if kept is not None and sum(map(_bytes, [*kept.values(), stem])) <= KEPT:
        kept[key] = stem
    return stem, copies


def _bytes(stem: Stem) -> int:
    """Of the keys and values."""
    parts = [vars(layer).values() for layer in getattr(stem.cache, "layers", ())]
    return sum(value.nbytes for values in parts for value in values if isinstance(value, Tensor))


def shared_logits(
    model: Any, batch: Batch, edit: Edit | None, again: ReEncode | None
) -> Float[Tensor, "row vocab"] | None:
    """Logits of the next token of rows that repeat a few prompts; None where the batch has to run as it is."""
    found = shared_stem(model, batch, edit, again, answers=False)
    within: Any = contextlib.nullcontext()
    if found is not None:
        stem, copies = found
        inputs = stem.continued(copies, batch.inputs["input_ids"][:, -REST:].tolist())
    else:
        trunk = shared_trunk(model, batch, edit, again)
        if trunk is None:
            return None
        within, inputs = left_out(model, *trunk), on_device(model, next_token_inputs(model, batch))
    with torch.no_grad(), within, edit.attached(model) if edit is not None else contextlib.nullcontext():
        logits: Tensor = hf_module(model)(**inputs).logits[:, -1]
    return logits


def shared_trunk(
    model: Any,
    batch: Batch,
    edit: Edit | None,
    again: ReEncode | None,
    answers: Sequence[Sequence[int]] | None = None,
) -> tuple[dict[str, Any], list[int], int] | None:
    """What `left_out` needs for a batch whose rows repeat a few prompts; None where it does not pay, or is not sure.

    Args:
        model: a loaded model, on this machine.
        batch: the rows.
        edit: what acts on them.
        again: encodes some prompts of the batch anew; None where that is not known.
        answers: what the rows go on with.
    """
    depth, n_layers = untouched_blocks(model, edit), anatomy(model).n_layers
    first: dict[tuple[int, tuple[int, ...]], int] = {}
    given = [tuple(answer) for answer in answers] if answers else [()] * batch.size
    keys = [(id(prompt), answer) for prompt, answer in zip(batch.prompts, given, strict=True)]
    copies = [first.setdefault(key, len(first)) for key in keys]
    saved = (batch.size - len(first)) * (batch.length + max(map(len, given))) * depth
    if again is None or not depth or saved < LEAST * n_layers or has_attached(hf_module(model)):
        return None
    stems = again([batch.prompts[keys.index(key)] for key in first])
    if stems.length != batch.length or not trusted(model, stems, again, answers=False, depth=depth):
        return None
    return on_device(model, continued_inputs(model, stems, [answer for _, answer in first])), copies, depth


def on_device(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs where the weights begin."""
    device = device_of(model)
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _newest_only(part: SiteEdit) -> bool:
    """Whether a part does nothing to the tokens before the newest one, and does not look at them."""
    function = part.tensors["function"] if part.function is on_rows else part.function
    return part.where == "last" or function is remember


# -- reading: prompts that begin alike ---------------------------------------------------------------------------------


def collect_variants(
    model: Any,
    prompts: Prompt | str | Iterable[Prompt | str],
    suffixes: Sequence[str | None] = (None,),
    *,
    system: str | None = None,
    token_budget: int = 8192,
    max_rows: int = 128,
    progress: Progress = None,
) -> Float[Tensor, "suffix prompt layer d_model"]:
    """`resid_post` of every layer at the last prompt token, of every prompt with every suffix.

    The very same medium (the same path or object) is read once for all texts and suffixes beside it, a text once for
    all suffixes.

    Args:
        model: a loaded model.
        prompts: of any modality.
        suffixes: texts appended inside the user turn, None for nothing.
        Others as in `collect_activations`.

    Raises:
        PromptError, DataError: as `collect_activations`.
    """
    anatomy(model).require_stream("collect activations")
    chosen, spec = PromptSet(as_prompts(prompts)), input_spec_of(model)
    options: dict[str, Any] = {"system": system, "token_budget": token_budget, "max_rows": max_rows}
    values = torch.empty(len(suffixes), len(chosen), anatomy(model).n_layers, anatomy(model).d_model)
    left = {(k, row) for k in range(len(suffixes)) for row in range(len(chosen))}
    groups = [group for group in _groups(chosen, len(suffixes)) if len(group) > 1]
    ids: list[list[list[int]]] = []
    if groups and not anatomy(model).remote:
        ids = [[text.ids for text in texts_of(spec, chosen, system=system, suffix=suffix)] for suffix in suffixes]
    again = re_encoder(model, system=system, suffix=suffixes[0])

    def read(item: Item) -> tuple[list[tuple[int, int]], Tensor] | None:
        numbers, batch = item
        with running(model, "collect activations"):
            return _read_groups(
                model, batch, [groups[number] for number in numbers], ids, again, token_budget, max_rows
            )

    with track(len(left), "residual streams", progress) as advance:
        stems = [chosen[group[0][1]] for group in groups]
        work = batches(model, stems, suffix=suffixes[0], **options) if ids else ()
        for _item, found in backed_off(work, read, again, asked="collect activations"):
            if found is not None:
                for (k, row), streams in zip(found[0], found[1], strict=True):
                    values[k, row] = streams
                left -= set(found[0])
                advance(len(found[0]))
        for k, suffix in enumerate(suffixes):
            rows = [row for row in range(len(chosen)) if (k, row) in left]
            if rows or not len(chosen):
                plain = collect_activations(model, chosen[rows], suffix=suffix, progress=False, **options)
                values[k, rows] = plain.values[:, 0]
                advance(len(rows))
    return values


def _groups(prompts: Sequence[Prompt], variants: int) -> list[list[tuple[int, int]]]:
    """(suffix, row) of everything that begins with the same medium, or is the same text; the first has suffix 0."""
    found: dict[Any, list[tuple[int, int]]] = {}
    for row, prompt in enumerate(prompts):
        shown = [(p.kind, p.value if isinstance(p.value, str) else id(p.value)) for p in prompt.media]
        key = (tuple(shown), prompt.turns[0].text if len(prompt.turns) > 1 else "") if shown else row
        found.setdefault(key, []).append((0, row))
    return [[(k, row) for k in range(variants) for _, row in group] for group in found.values()]


def _read_groups(
    model: Any,
    batch: Batch,
    groups: Sequence[list[tuple[int, int]]],
    ids: Sequence[Sequence[list[int]]],
    again: ReEncode,
    token_budget: int,
    max_rows: int,
) -> tuple[list[tuple[int, int]], Tensor] | None:
    """Streams of the members of some groups, whose first members are the rows of a batch; None if not this way."""
    drops, members, rows, tails = [], [], [], []
    for number, group in enumerate(groups):
        every = [ids[k][row] for k, row in group]
        shared = min(len(every[0]), *(len(one) for one in every)) - 1
        shared = min(shared, *(common_beginning(every[0], one) for one in every))
        drops.append(len(every[0]) - shared)
        members += group
        rows += [number] * len(group)
        tails += [one[shared:] for one in every]
    longest = max(len(tail) for tail in tails)
    context = anatomy(model).context_length
    plain = len(members) * (batch.length + longest - min(drops))
    if plain - batch.size * batch.length - len(members) * longest < max(LEAST, PAYS * plain):
        return None
    if bool(batch.roles["media"][:, batch.length - max(drops) :].any()):
        return None
    if context is not None and batch.length + longest > context:
        return None
    if has_attached(hf_module(model)) or not trusted(model, batch, again, answers=False):
        return None
    stem = read_stem(model, batch, drops)
    at_once = max(1, min(max_rows, token_budget // (batch.length + longest)))
    parts = []
    for first in range(0, len(rows), at_once):
        here = slice(first, first + at_once)
        parts.append(_streams(model, stem.continued(rows[here], tails[here])))
    found = torch.cat(parts)
    return (members, found) if bool(found.isfinite().all()) else None


def _streams(model: Any, inputs: dict[str, Any]) -> Float[Tensor, "row layer d_model"]:
    """Streams of all layers at the last position, float32, in torch hooks: positions may have three rows here."""
    kept: list[Tensor] = []
    blocks = hf_layers(model)

    def keep(_module: Any, _args: Any, output: Any) -> None:
        kept.append(residual(output)[:, -1].float())
        if len(kept) == len(blocks):
            raise Enough

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        with torch.no_grad(), contextlib.suppress(Enough):
            hf_module(model)(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(kept, 1).cpu()


# -- whether a model allows it -----------------------------------------------------------------------------------------


def trusted(model: Any, batch: Batch, again: ReEncode, *, answers: bool, depth: int = 0) -> bool:
    """Whether this model goes on from copied keys and values, or behind blocks left out, as if it had read the prompt.

    A window of attention or a scaling of positions shows only in prompts that are long enough: it is tried anew when
    rows reach the next power of two, and once it has failed at some length it is not taken there or beyond.

    Args:
        model: a loaded model.
        batch: whose longest and shortest prompt are tried.
        again: encodes them.
        answers: whether `generate` goes on, or a single pass.
        depth: blocks that are left out (`trunk`); 0 tries the keys and values.
    """
    first = batch.prompts[0]
    kind = first.modality if len(first.media) < 2 else "several media"
    way = (f"behind {depth}" if depth else "answers" if answers else "pass", kind)
    known, size = _TRIED.setdefault(model, {}), batch.length.bit_length()
    failed = [length for (*what, length), good in known.items() if tuple(what) == way and not good]
    if failed and size >= min(failed):
        return False
    if (*way, size) not in known:
        order = batch.inputs["attention_mask"].sum(1).argsort(descending=True).tolist()
        alone = input_spec_of(model).join_of(first) == "alone"
        ends = dict.fromkeys(order[:1] if alone else (order[0], order[-1]))
        try:
            some = again([batch.prompts[row] for row in ends])
            if depth:
                known[(*way, size)] = _same_behind(model, some, again([*some.prompts, some.prompts[0]]), depth)
            else:
                known[(*way, size)] = (_same_answers if answers else _same_pass)(model, some)
        except Exception as error:  # whatever a cache raises when it is copied or goes on: the plain way then
            if is_out_of_memory(error):
                return False  # which says nothing of the model
            known[(*way, size)] = False
    return known[(*way, size)]


def _same_pass(model: Any, batch: Batch) -> bool:
    """Streams behind beginnings of different lengths, one of them twice, against those of the whole rows."""
    drops = [REST + row % 2 for row in range(batch.size)]
    rows = [*range(batch.size), 0]
    ids = batch.inputs["input_ids"].tolist()
    tails = [ids[row][len(ids[row]) - drops[row] :] for row in rows]
    found = _streams(model, read_stem(model, batch, drops).continued(rows, tails))
    device = device_of(model)
    plain = _streams(model, {name: value.to(device) for name, value in batch.inputs.items()})
    return bool(agrees(found, plain[rows], next(hf_module(model).parameters()).dtype).all())


def _same_behind(model: Any, batch: Batch, twice: Batch, depth: int) -> bool:
    """Streams with the first blocks left out, of prompts and the first of them again, against those of all blocks."""
    plain = on_device(model, next_token_inputs(model, twice))
    with left_out(model, on_device(model, next_token_inputs(model, batch)), [*range(batch.size), 0], depth):
        found = _streams(model, plain)
    dtype = next(hf_module(model).parameters()).dtype
    return bool(agrees(found[:, depth - 1 :], _streams(model, plain)[:, depth - 1 :], dtype).all())


def _same_answers(model: Any, batch: Batch) -> bool:
    """Logits of two steps of `generate` from copies of a beginning, against those of the whole rows."""
    module, device = hf_module(model), device_of(model)
    settings = {
        **greedy(2),
        "min_length": None,
        "min_new_tokens": 2,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    inputs = {name: value.to(device) for name, value in batch.inputs.items()}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = module.generate(**inputs, **settings)  # type: ignore[operator]
        stem = read_stem(model, batch, [REST] * batch.size)
        order = list(reversed(range(batch.size)))  # rows that leave change the others' places
        going = stem.answering(order, batch)
        going = {name: value[order].to(device) if name in PLACES else value for name, value in going.items()}
        quick = module.generate(**going, **settings)  # type: ignore[operator]
    # Where two words were all but equally likely, the answers part, and what follows cannot be compared.
    same = torch.ones(batch.size, dtype=torch.bool, device=device)
    for step, (found, expected) in enumerate(zip(quick.logits, plain.logits, strict=True)):
        if not bool(agrees(found, expected[order], found.dtype)[same].all()):
            return False
        same &= quick.sequences[:, step - 2] == plain.sequences[order, step - 2]
    return True
