"""A race between candidates: most show on a part of the prompts that they cannot be the best, and run no further.

    part       a random half of the harmful prompts, at least `LEAST`, and at most a quarter where there are many
    leader     the smallest mean bypass on the part among the candidates that pass the filters
    out        candidates whose bypass exceeds the leader's by more than `MARGIN` standard errors of the paired
               differences over the prompts of the part

Those left are measured on all prompts, as `figures="needed"` does. The choice is that of all figures unless one that is
so far behind on the part catches up on the rest: with differences near normal less than one in a thousand per candidate
(t distribution with 7 degrees of freedom beyond 5). Near ties never drop out.

Source: Hoeffding races, Maron and Moore 1994; with a paired test, Moore and Lee 1994.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .errors import DirectionError
from .selection_figures import Figures, Operator, Place, groups

if TYPE_CHECKING:
    from .selection import Row, Search

LEAST = 8
"""Prompts that a race needs at least."""
MARGIN = 5.0
"""Standard errors behind the leader at which a candidate is out."""


def behind(bypass: Float[Tensor, "candidate prompt"], leader: int, margin: float = MARGIN) -> list[int]:
    """Candidates whose bypass is significantly larger than the leader's, by paired differences over prompts."""
    apart = bypass.double() - bypass[leader].double()
    error = apart.std(1) / apart.shape[1] ** 0.5
    return torch.nonzero(apart.mean(1) > margin * error).flatten().tolist()


def race(search: "Search", rows: "dict[Place, Row]", passes: "Callable[[Place], bool]") -> list[Place]:
    """Candidates that are out of the race for the smallest bypass; none where there are too few prompts for one.

    Args:
        search: for a causal choice by interventions, on this machine.
        rows: the table so far; candidates with a reason are out already.
        passes: measures the filters of a candidate and says whether it passes.

    Raises:
        DirectionError: another objective or method, or figures that come from a server.
    """
    bench = search.figures
    if search.objective != "causal" or search.method != "interventions" or not isinstance(bench, Figures):
        asked = f"race candidates for {search.objective} by {search.method}"
        raise DirectionError(asked, "a race ranks by bypass, on this machine", 'use figures="needed"')
    every = [p.id for p in bench.harmful.prompts.prompts]
    size = max(LEAST, len(every) // 4)
    if 2 * size > len(every):
        return []
    chosen = {every[k] for k in np.random.default_rng(0).permutation(len(every))[:size]}
    part = bench.harmful.part(bench.model, lambda prompt: prompt.id in chosen)
    places = [place for place, row in rows.items() if not row.reason]
    bypass: dict[Place, Tensor] = {}
    for kind in (True, False):  # position -1 can be set to its benign mean, others are projected out
        operator: Operator = search.operator if kind else "project_out"
        for group in groups([place for place in places if (place[1] == -1) == kind]):
            found: Any = bench.ablated(part, group, operator)
            bypass |= dict(zip(group, found.score, strict=True))
    order = sorted(bypass, key=lambda place: float(bypass[place].mean().nan_to_num(float("inf"))))
    leader = next((place for place in order if passes(place)), None)
    return [] if leader is None else _out(bypass, leader, places)


def _out(bypass: dict[Place, Tensor], leader: Place, places: Sequence[Place]) -> list[Place]:
    stacked = torch.stack([bypass[place] for place in places])
    return [places[k] for k in behind(stacked, places.index(leader))]
