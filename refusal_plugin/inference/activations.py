"""Residual streams of many prompts: one trace per batch, one session per job, reduced beside the weights.

`collect_activations` keeps one vector per prompt; `collect_moments` keeps only counts, means and second moments per
group, so that its memory does not grow with the number of prompts. Both read `resid_post` of every chosen layer in a
single forward pass, which stops behind the last layer that is read, in one loop (`read_batches`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError, DirectionError, PromptError
from ..models import anatomy, layers
from ..models.running import running
from ..models.wrapper import save
from ..progress import Progress, track
from ..prompts import Prompt, PromptSet, batches
from ..prompts.batch import Batch, TokenRole
from ..prompts.encoding import as_prompts
from ..report.shown import Shown
from ..traced.read import residuals, span_residuals
from .loop import Room, re_encoder, run_batches

Positions: TypeAlias = Sequence[int] | TokenRole
"""Negative offsets from the end of the prompt (-1 is the last prompt token), or the mean over a token role."""


@dataclass(frozen=True)
class Activations(Shown):
    """Residual streams of a prompt set, one row per prompt.

    Attributes:
        values: (prompt, position, layer, d_model) float32, `resid_post`.
        prompts: the prompts, in the order of the rows.
        positions: negative offsets from the prompt's end, or the name of the token role that was averaged.
        layers: block indices, in order.
        site: always "resid_post": the stream behind each block.
        model: name of the model.
    """

    values: Float[Tensor, "prompt position layer d_model"]
    prompts: PromptSet
    positions: tuple[int, ...] | str
    layers: tuple[int, ...]
    site: str
    model: str

    def finding(self) -> str:
        n, positions, layers, width = self.values.shape
        return f"{n} prompts x {positions} positions x {layers} layers of width {width}, {self.site} of {self.model}"

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per prompt, position and layer: how long the stream is."""
        named = [self.positions] if isinstance(self.positions, str) else self.positions
        for prompt, rows in zip(self.prompts, self.values.norm(dim=-1).tolist(), strict=True):
            for position, norms in zip(named, rows, strict=True):
                for layer, norm in zip(self.layers, norms, strict=True):
                    yield {"id": prompt.id, "role": prompt.role, "position": position, "layer": layer, "norm": norm}

    def of(self, keep: Callable[[Prompt], bool]) -> Float[Tensor, "n position layer d_model"]:
        """Rows of the prompts for which `keep` is true."""
        return self.values[[row for row, prompt in enumerate(self.prompts) if keep(prompt)]]

    def role(self, *roles: str) -> Float[Tensor, "n position layer d_model"]:
        """Rows of the prompts with one of these roles."""
        return self.of(lambda prompt: prompt.role in roles)


def collect_activations(
    model: Any,
    prompts: Prompt | str | Iterable[Prompt | str],
    *,
    positions: Positions = (-1,),
    layer_ids: Sequence[int] | None = None,
    system: str | None = None,
    suffix: str | None = None,
    token_budget: int = 8192,
    max_rows: int = 128,
    remote: bool | str = False,
    progress: Progress = None,
) -> Activations:
    """`resid_post` of every prompt at the chosen positions and layers.

    Args:
        model: a loaded model.
        prompts: prompts of any modality the model takes.
        positions: see `Positions`.
        layer_ids: blocks to read; None for all.
        system, suffix: system text; text appended inside every user turn (the `t + p` arm of SARSteer).
        token_budget, max_rows: limits of one batch.
        remote: run on NDIF: one request, or several where one would exceed `remote.Settings.max_tokens`.
        progress: None shows a bar where somebody can see it.

    Raises:
        PromptError: 0 prompts, an unfit prompt, or a position that a prompt does not have.
        DirectionError: an unknown layer.
        DataError: the model's activations hold NaN or infinity.
        RemoteError: the server refuses or fails; says why and what to do.
    """
    chosen = PromptSet(as_prompts(prompts))
    ids = known_layers(model, layer_ids)
    slots = 1 if isinstance(positions, str) else len(positions)
    values = torch.empty(len(chosen), slots, len(ids), anatomy(model).d_model)
    if not len(chosen):
        raise PromptError("collect activations", "0 prompts", "give at least one")
    limits: dict[str, Any] = {"token_budget": token_budget, "max_rows": max_rows, "remote": remote}
    with track(len(chosen), "residual streams", progress) as advance:
        for rows, _batch, residual in read_batches(model, chosen, ids, positions, system, suffix, **limits):
            values[rows] = residual.cpu()
            advance(len(rows))
    where = positions if isinstance(positions, str) else tuple(positions)
    return Activations(values, chosen, where, tuple(ids), "resid_post", anatomy(model).name)


def position_index(batch: Batch, positions: Sequence[int]) -> Tensor:
    """Columns of per-prompt positions, derived from the last-prompt-token mask.

    Args:
        batch: an encoded batch.
        positions: negative offsets from the prompt's end.

    Returns:
        (batch, k) int64.

    Raises:
        PromptError: a position that is not negative, or that lies before the start of a prompt.
    """
    if not positions or any(p >= 0 for p in positions):
        raise PromptError(
            f"read positions {tuple(positions)}", "an offset is not negative", "count from the end: -1, -2, …"
        )
    last = batch.last
    index = last + 1 + torch.tensor(tuple(positions))
    first = batch.inputs["attention_mask"].int().argmax(1, keepdim=True)
    if bool((index < first).any()):
        row = int((index < first).any(1).int().argmax())
        n = int(last[row] - first[row]) + 1
        raise PromptError(
            f"read positions {tuple(positions)} of prompt '{batch.prompts[row].id}'",
            f"it has {n} tokens",
            "ask for fewer",
        )
    return index


def known_layers(model: Any, layer_ids: Sequence[int] | None) -> list[int]:
    """The layers asked for, in order, None for all.

    Raises:
        DirectionError: none, or one that the model does not have.
        ModelError: the model's stream is not one vector per token.
    """
    facts = anatomy(model)
    facts.require_stream("read the residual stream")
    chosen = sorted(set(range(facts.n_layers) if layer_ids is None else layer_ids))
    unknown = [layer for layer in chosen if not 0 <= layer < facts.n_layers]
    if unknown or not chosen:
        raise DirectionError(
            f"read layers {list(layer_ids or [])} of {facts.name}",
            f"it has layers 0 to {facts.n_layers - 1}",
            "choose some of these",
        )
    return chosen


def read_batches(
    model: Any,
    prompts: PromptSet,
    layer_ids: Sequence[int],
    positions: Positions,
    system: str | None = None,
    suffix: str | None = None,
    *,
    token_budget: int = 8192,
    max_rows: int = 128,
    remote: bool | str = False,
    room: Room | None = None,
) -> Iterator[tuple[list[int], Batch, Float[Tensor, "batch position layer d_model"]]]:
    """The one loop that reads streams: batch by batch, one trace each, halved where a batch does not fit.

    Args:
        layer_ids: see `known_layers`.
        room: what is known to fit, shared by several calls.
        Others as in `collect_activations`.

    Yields:
        row numbers, the batch that ran, and its `resid_post` in float32, on the model's device.
    """
    every, name = layers(model), anatomy(model).name
    blocks = [every[layer] for layer in layer_ids]
    read: Callable[..., Tensor] = span_residuals if isinstance(positions, str) else residuals

    def measure(group: list[tuple[list[int], Batch]]) -> list[Tensor]:
        """One session: a request where it is remote."""
        work = [
            (batch.inputs, _span(batch, positions) if isinstance(positions, str) else position_index(batch, positions))
            for _rows, batch in group
        ]
        with running(model, asked, remote), torch.no_grad(), model.session(remote=remote):
            found: list[Tensor] = save([])
            for inputs, where in work:
                with model.trace(**inputs) as tracer:
                    found.append(read(blocks, where))
                    tracer.stop()
        return found

    work = batches(model, prompts, token_budget=token_budget, max_rows=max_rows, system=system, suffix=suffix)
    again, asked = re_encoder(model, system=system, suffix=suffix), f"read the residual streams of {name}"
    row_bytes = 4 * (1 if isinstance(positions, str) else len(positions)) * len(blocks) * anatomy(model).d_model
    where: dict[str, Any] = {"remote": remote, "row_bytes": row_bytes}
    for (rows, batch), residual in run_batches(work, measure, again, asked=asked, room=room, **where):
        _require_finite(residual, batch, name)
        yield rows, batch, residual


def _require_finite(residual: Tensor, batch: Batch, name: str) -> None:
    bad = ~torch.isfinite(residual).flatten(1).all(1)
    if bool(bad.any()):
        prompt = batch.prompts[int(bad.int().argmax())].id
        raise DataError(
            f"activations of {name}", f"NaN or infinity in prompt '{prompt}'", "load in float32 or bfloat16"
        )


def _span(batch: Batch, role: str) -> Tensor:
    mask = batch.roles[role]  # type: ignore[index]
    empty = ~mask.any(1)
    if bool(empty.any()):
        name = batch.prompts[int(empty.int().argmax())].id
        raise PromptError(f"average over the {role} tokens of prompt '{name}'", "it has none", "choose another role")
    return mask
