"""Moments of as many prompts as there are: read a window at a time from any iterator, memory flat in their number.

    for each window of prompts:   for each batch of it:   moments of the batch, merged into those so far

Counts, means and second moments merge exactly (`geometry.Moments.merge`), so the windows leave no trace in the result.
`collect_moments` is the same over one window.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Literal

import torch

from ..errors import PromptError
from ..geometry import Moments
from ..progress import Progress, track
from ..prompts import Prompt, PromptSet
from ..prompts.encoding import WINDOW as ENCODED_AHEAD
from ..prompts.encoding import as_prompts
from ..traced.measure import group_moments
from .activations import Positions, known_layers, read_batches
from .loop import Room

WINDOW = ENCODED_AHEAD
"""Prompts held at a time: as many as `prompts.batches` sorts by length; more would only cost memory."""


def stream_moments(
    model: Any,
    prompts: Prompt | str | Iterable[Prompt | str],
    *,
    by: Callable[[Prompt], str] = lambda prompt: str(prompt.role),
    positions: Positions = (-1,),
    layer_ids: Sequence[int] | None = None,
    second: Literal["diagonal", "full"] = "diagonal",
    system: str | None = None,
    token_budget: int = 8192,
    max_rows: int = 128,
    remote: bool | str = False,
    window: int = WINDOW,
    advance: Callable[[int], None] = lambda _n: None,
    keep_up: Callable[[int, dict[str, Moments]], None] | None = None,
) -> dict[str, Moments]:
    """Count, mean and second moments of `resid_post` per group, of prompts that are never held all at once.

    Args:
        model: a loaded model.
        prompts: any iterable, also a generator that reads a file; ids need be unique within a window only.
        by, positions, layer_ids, second, system, token_budget, max_rows: as in `activations.collect_moments`.
        remote: run on NDIF: one request for each window, or several where one would exceed the server's limits.
        window: prompts held at a time.
        advance: told how many prompts each batch held, for a progress bar.
        keep_up: called behind every window with the number of prompts so far and the moments so far, to store or show
            them; a run that breaks off can go on from there with `Moments.merge`.

    Returns:
        group name to `Moments` of shape (position, layer, d_model), names in alphabetical order.

    Raises:
        PromptError: 0 prompts, or a window of fewer than 1.
        ModelError: a single prompt does not fit into memory.
    """
    if window < 1:
        raise PromptError(f"stream moments in windows of {window} prompts", "fewer than 1", "give at least 1")
    ids, room = known_layers(model, layer_ids), Room()
    limits: dict[str, Any] = {"token_budget": token_budget, "max_rows": max_rows, "remote": remote, "room": room}
    found: dict[str, Moments] = {}
    source, done = iter([*as_prompts(prompts)] if isinstance(prompts, Prompt | str) else prompts), 0
    while some := list(islice(source, window)):
        for rows, batch, residual in read_batches(model, PromptSet(as_prompts(some)), ids, positions, system, **limits):
            names = sorted({by(prompt) for prompt in batch.prompts})
            groups = torch.tensor([names.index(by(prompt)) for prompt in batch.prompts])
            counts, sums, products = group_moments(residual, groups, len(names), second)
            for g, name in enumerate(names):
                new = Moments.from_sums(int(counts[g]), sums[g].cpu(), products[g].cpu())
                found[name] = found[name].merge(new) if name in found else new
            advance(len(rows))
        done += len(some)
        if keep_up is not None:
            keep_up(done, found)
    if not done:
        raise PromptError("stream moments", "0 prompts", "give at least one")
    return dict(sorted(found.items()))


def collect_moments(
    model: Any,
    prompts: Prompt | str | Iterable[Prompt | str],
    *,
    by: Callable[[Prompt], str] = lambda prompt: str(prompt.role),
    positions: Positions = (-1,),
    layer_ids: Sequence[int] | None = None,
    second: Literal["diagonal", "full"] = "diagonal",
    system: str | None = None,
    token_budget: int = 8192,
    max_rows: int = 128,
    remote: bool | str = False,
    progress: Progress = None,
) -> dict[str, Moments]:
    """Count, mean and second moments of `resid_post` per group of prompts; memory does not grow with their number.

    `stream_moments` over one window that holds all prompts: it reads more than fit into memory.

    Args:
        by: the group of a prompt, its role by default.
        second: "diagonal" (variances) or "full" (covariances, for safe spaces).
        Others as in `collect_activations`.

    Returns:
        group name to `Moments` of shape (position, layer, d_model).
    """
    chosen = PromptSet(as_prompts(prompts))
    with track(len(chosen), "residual streams", progress) as advance:
        return stream_moments(
            model,
            chosen,
            by=by,
            positions=positions,
            layer_ids=layer_ids,
            second=second,
            system=system,
            token_budget=token_budget,
            max_rows=max_rows,
            remote=remote,
            window=max(1, len(chosen)),
            advance=advance,
        )
