"""An edit of the residual stream as plain data, and the places where it runs.

    Edit = function of `traced.write` + tensors per block + where (last | all) + when (prefill | every step)

The same `Edit` runs in a tracing context (`refusal_plugin.answers`, `traced.write.edit_blocks`) and in plain torch
hooks (`with edit.attached(hf_model): hf_model.generate(...)`, no nnsight in the loop). Hooks are gone after the
`with`, also when setting them up failed half-way; no weight is touched.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import DirectionError
from ..models import Anatomy, anatomy, hf_layers, hf_module, layers
from ..report.shown import Shown, in_short
from ..traced import write
from ..traced.read import residual

Site = Literal["resid_pre", "attn_out", "mlp_out", "resid_post"]
Where = Literal["last", "all"]
When = Literal["prefill", "every_step"]
Operator = Literal["project_out", "benign_mean"]
"""How a direction is taken away, see `removal`."""

WIDE = ("vector", "unit", "centre", "safe", "unsafe", "target", "matrix")
"""Names of the tensors whose last dimension is the model's width."""
BOUND = ("strength", "vector", "centre", "value", "unit", "keep")
"""Names of the tensors that may have one entry per row of the batch: (row, 1, d_model) or (row, 1, 1)."""

_ATTACHED: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()

# The order in which a block runs its sites; nnsight reads them in execution order only.
SITE_ORDER: tuple[Site, ...] = ("resid_pre", "attn_out", "mlp_out", "resid_post")


@dataclass(frozen=True)
class SiteEdit(Shown):
    """One edit of one tensor of one block.

    Attributes:
        layer: index of the decoder block.
        site: which of its tensors.
        function: an edit function of `traced.write`.
        tensors: its keyword arguments; under "memory" a name: parts of one edit that give the same name share one dict,
            new and empty in every run (see `traced.gate`).
        where: "last" (the newest token of each row) or "all" positions.
        needed: whether a block without such a place is an error; False leaves the edit out there. Right for taking
            something away everywhere: where nothing is written there is nothing to take (Nemotron-H's blocks have
            either a mixer or an MLP).
    """

    layer: int
    site: Site
    function: Callable[..., Tensor]
    tensors: Mapping[str, Any]
    where: Where = "all"
    needed: bool = True


@dataclass(frozen=True)
class Edit(Shown):
    """What is changed in the residual stream while the model runs.

    Attributes:
        name: shown in tables.
        parts: the edits, in any order; they are applied in the order in which the model runs.
        when: "every_step" (prefill and each decode step) or "prefill" only.
    """

    name: str
    parts: tuple[SiteEdit, ...]
    when: When = "every_step"
    ordered: tuple[SiteEdit, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rank = {site: place for place, site in enumerate(SITE_ORDER)}  # an unknown one is refused by check()
        key = sorted(self.parts, key=lambda part: (part.layer, rank.get(part.site, 0)))
        object.__setattr__(self, "ordered", tuple(key))

    def finding(self) -> str:
        places = [f"{part.site} of layer {part.layer}" for part in self.ordered]
        where = places[0] if len(places) == 1 else f"{len(places)} places, first {places[0]}" if places else "nothing"
        return f"{self.name}: changes {where}, {'prefill only' if self.when == 'prefill' else 'at every step'}"

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per place, in the order of execution."""
        for part in self.ordered:
            place = {"layer": part.layer, "site": part.site, "where": part.where, "function": in_short(part.function)}
            yield {**place, **{name: in_short(value) for name, value in part.tensors.items()}}

    @property
    def rows(self) -> int | None:
        """Rows of the batch that its tensors are bound to, in that order; None if any batch will do."""
        sizes = {
            len(value)
            for part in self.parts
            for key, value in flat(part.tensors)
            if key in BOUND and isinstance(value, Tensor) and value.ndim == 3
        }
        return max(sizes, default=1) if sizes - {1} else None

    def check(self, facts: Anatomy) -> None:
        """Raise DirectionError unless every block and place exists and every vector has the model's width.

        ModelError for an edit of the residual stream where that is not one vector per token: "last" would be an axis of
        something else.
        """
        for name, value, known in (("when", self.when, get_args(When)), *_places(self.parts)):
            if value not in known:
                do = f"use one of {', '.join(known)}"
                raise DirectionError(f"apply edit '{self.name}'", f"{name} is {value!r}", do)
        if any(part.site in ("resid_pre", "resid_post") for part in self.parts):
            facts.require_stream(f"apply edit '{self.name}' to the residual stream")
        for part in self.parts:
            if not 0 <= part.layer < facts.n_layers:
                raise DirectionError(
                    f"edit layer {part.layer} of {facts.name}",
                    f"it has layers 0 to {facts.n_layers - 1}",
                    "choose one of these",
                )
            for key, value in flat(part.tensors):
                if not isinstance(value, Tensor) or value.ndim == 0:
                    continue
                if key in WIDE and value.shape[-1] != facts.d_model:
                    raise DirectionError(
                        f"apply edit '{self.name}' to {facts.name}",
                        f"its '{key}' has width {value.shape[-1]}, the model's d_model is {facts.d_model}",
                        "fit the direction on this model",
                    )
                if not bool(torch.isfinite(value).all()):
                    raise DirectionError(
                        f"apply edit '{self.name}'", f"its '{key}' holds NaN or infinity", "fit the direction again"
                    )

    def plan(self) -> list[tuple[int, str, str, Callable[..., Tensor], dict[str, Any]]]:
        """The parts as plain tuples, for `traced.write.edit_blocks`; one plan per run."""
        memories: dict[str, dict[str, Any]] = {}
        return [(p.layer, p.site, p.where, p.function, _tensors(p, memories)) for p in self.ordered]

    @contextmanager
    def attached(
        self, model: Any, facts: Anatomy | None = None, memories: dict[str, dict[str, Any]] | None = None
    ) -> Iterator[nn.Module]:
        """Run the edit in plain torch hooks on a Hugging Face model, with no tracing in the loop.

        Args:
            model: a loaded model, or a bare Hugging Face module together with its anatomy.
            facts: the anatomy of a bare module.
            memories: what the run remembers, by name, where it goes on later; None begins a new run.

        Yields:
            the Hugging Face module; call its `forward` or `generate` (left-padded) inside the block.

        Raises:
            DirectionError: a layer or a width does not fit.
        """
        module = model if isinstance(model, nn.Module) else hf_module(model)
        found = facts or anatomy(model)
        self.check(found)
        blocks = hf_layers(module, found)
        handles: list[Any] = []
        memories = {} if memories is None else memories
        _ATTACHED[module] = _ATTACHED.get(module, 0) + 1
        try:
            for part in _present(self.ordered, found):
                where = site_module(blocks[part.layer], part.layer, part.site, found)
                handles.append(_hook(where, part, _tensors(part, memories), self.when))
            yield module
        finally:
            _ATTACHED[module] -= 1
            for handle in handles:
                handle.remove()


def has_attached(module: nn.Module) -> bool:
    """Whether an edit hangs on a Hugging Face module at this moment, see `Edit.attached`."""
    return _ATTACHED.get(module, 0) > 0


NO_EDIT = Edit("none", ())
"""The model as it is."""


def _places(parts: Iterable[SiteEdit]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, value and known values of each part's site and place."""
    for part in parts:
        yield "site", part.site, SITE_ORDER
        yield "where", part.where, get_args(Where)


def flat(tensors: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values, those of nested mappings included."""
    for key, value in tensors.items():
        if isinstance(value, Mapping):
            yield from flat(value)
        else:
            yield key, value


def _tensors(part: SiteEdit, memories: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The keyword arguments of one run: a named memory becomes a dict that its parts share."""
    return _with_memory(part.tensors, memories)


def _with_memory(tensors: Mapping[str, Any], memories: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {key: _with_memory(v, memories) if key == "tensors" else v for key, v in tensors.items()}
    if "memory" in found:
        found["memory"] = memories.setdefault(found["memory"], {})
    return found


def _hook(module: nn.Module, part: SiteEdit, tensors: Mapping[str, Any], when: When) -> Any:
    """Hang one edit on a module; returns the handle that takes it off again."""

    def change(value: Any) -> None:
        # A decode step brings one new token; a prompt is never that short once it is rendered.
        if when == "every_step" or residual(value).shape[1] > 1:
            write.place(value, part.where, part.function, tensors)

    if part.site == "resid_pre":
        return module.register_forward_pre_hook(
            lambda _module, args, kwargs: change(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
    return module.register_forward_hook(lambda _module, _args, output: change(output))


def site_module(block: Any, layer: int, site: Site, facts: Anatomy) -> Any:
    """The module of a block (torch or traced) at whose input or output a site lives.

    `attn_out` and `mlp_out` are what is ADDED to the stream: behind the post-norm where a model has one. In a layer
    without attention what mixes positions in its place counts as attention (Mamba, short convolutions).
    """
    if site in ("resid_pre", "resid_post"):
        return block
    path = _site_path(layer, site, facts)
    if path is None:
        raise DirectionError(f"edit {site} of layer {layer}", "the block has no such module", "edit resid_post")
    for name in path.split("."):
        block = getattr(block, name)
    return block


def _site_path(layer: int, site: Site, facts: Anatomy) -> str | None:
    """Where `attn_out` or `mlp_out` is, relative to the block; None if the block has none."""
    parts = facts.parts[layer]
    if site == "attn_out":
        return parts.post_attention_norm or parts.writers.norm or parts.writers.mixer
    mlp = parts.post_mlp_norm or parts.mlp
    return None if mlp == parts.writers.mixer else mlp  # the only part of its layer (Nemotron-H) counts once


def block_sites(layer: int, facts: Anatomy) -> list[Site]:
    """The sites that a block has, in the order in which it runs them."""
    return [site for site in SITE_ORDER if site.startswith("resid") or _site_path(layer, site, facts) is not None]


def _present(parts: Iterable[SiteEdit], facts: Anatomy) -> list[SiteEdit]:
    return [part for part in parts if part.needed or part.site in block_sites(part.layer, facts)]


def site_modules(model: Any, edit: Edit) -> list[dict[str, Any]]:
    """Per block of a loaded model: the traced modules that an edit touches, for `traced.write.edit_blocks`."""
    facts = anatomy(model)
    modules: list[dict[str, Any]] = [{} for _ in range(facts.n_layers)]
    blocks = layers(model)
    for part in _present(edit.ordered, facts):
        modules[part.layer][part.site] = site_module(blocks[part.layer], part.layer, part.site, facts)
    return modules


def require_edit(edit: object, asked: str) -> None:
    """Raise DirectionError unless it is an edit or None: a direction alone does not say what is to be done with it."""
    if not isinstance(edit, Edit | None):
        do = "give direction.addition(), direction.ablation() or defence.edit()"
        raise DirectionError(asked, f"a {type(edit).__name__} in the place of an edit", do)


def require_strength(strength: Any, asked: str) -> Any:
    """A strength as it is; raises DirectionError unless it is a finite number, or a tensor of such."""
    if not isinstance(strength, Real | Tensor):
        raise DirectionError(asked, f"its strength is {strength!r}", "give a number: 1 is the whole vector")
    if not bool(torch.as_tensor(strength).isfinite().all()):
        raise DirectionError(asked, "its strength is NaN or infinite", "give a number")
    return strength


def addition(
    vectors: Mapping[int, Float[Tensor, "d_model"]],
    *,
    strength: float = 1.0,
    where: Where = "all",
    when: When = "every_step",
    name: str = "addition",
) -> Edit:
    """Add `strength * vector` to `resid_post` of the given layers (ActAdd, CAA).

    Args:
        vectors: layer to vector (d_model,), pointing TOWARDS refusal.
        strength: strength; 1 moves by the full vector.
        where: "all" positions, or the "last" only.
        when: "every_step", or "prefill" only.

    Raises:
        DirectionError: the strength is no finite number.
    """
    strength = require_strength(strength, f"make the edit '{name}'")
    parts = [SiteEdit(layer, "resid_post", write.add, {"vector": strength * v}, where) for layer, v in vectors.items()]
    return Edit(name, tuple(parts), when)


def ablation(unit: Float[Tensor, "d_model"], layer_ids: Iterable[int], *, name: str = "ablation") -> Edit:
    """Remove the component along `unit` from the residual stream and from all that is written into it.

    As in the reference code of Arditi et al. 2024: at the input of every block and at what attention and MLP write, all
    positions. A causal test inside a run; nothing of it can be saved.
    """
    places = [(layer, site) for layer in layer_ids for site in SITE_ORDER]
    parts = [SiteEdit(layer, site, write.set_coordinate, {"unit": unit}, needed=False) for layer, site in places]
    return Edit(name, tuple(parts))


def attenuation(
    units: Float[Tensor, "layer d_model"],
    benign: Float[Tensor, "layer d_model"],
    *,
    keep: float,
    name: str = "attenuation",
) -> Edit:
    """Move the last prompt token's coordinate along a direction part of the way to its benign mean, in every layer.

    `keep=0` sets it to that mean: the affine form of ablation (ACE, arXiv 2411.09003, with c = 0). Projecting the
    direction out instead puts the coordinate at zero, which is neither benign nor harmful where the stream has an
    offset, and can break benign answers. The means belong to the last PROMPT token, hence prefill only.

    Args:
        units: per layer, a direction of norm one.
        benign: per layer, the mean stream of benign prompts at the same position.
        keep: share of the coordinate's distance to the benign mean that stays.
        name: shown in tables.
    """
    parts = [
        SiteEdit(
            layer, "resid_post", write.set_coordinate, {"unit": unit, "value": float(mean @ unit), "keep": keep}, "last"
        )
        for layer, (unit, mean) in enumerate(zip(units, benign, strict=True))
    ]
    return Edit(name, tuple(parts), "prefill")


def removal(
    vector: Float[Tensor, "d_model"],
    benign: Float[Tensor, "layer d_model"],
    operator: Operator,
    *,
    name: str = "removal",
) -> Edit:
    """A direction taken away in every layer.

    Args:
        vector: of any length.
        benign: mean benign stream of every layer, at the last prompt token.
        operator: "benign_mean" sets the coordinate of the last prompt token to that of `benign`, in prefill;
            "project_out" sets it to zero at every site, position and step.
        name: shown in tables.
    """
    unit = vector / vector.norm()
    if operator == "project_out":
        return ablation(unit, range(len(benign)), name=name)
    return attenuation(unit.expand_as(benign), benign, keep=0.0, name=name)


def together(name: str, *edits: Edit) -> Edit:
    """Several edits as one; at the same place the earlier runs first.

    Raises:
        DirectionError: they act at different times.
    """
    when = {edit.when for edit in edits}
    if len(when) != 1:
        raise DirectionError(
            f"join edits {[edit.name for edit in edits]}", f"they act at {sorted(when)}", "give one time"
        )
    return Edit(name, tuple(part for edit in edits for part in edit.parts), when.pop())
