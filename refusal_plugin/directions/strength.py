"""The largest strength within a budget, in few looks: what an edit costs grows like a power of its strength.

    KL(c) = c^2 I / 2 + O(c^3)      I: the Fisher information along the edit, so one look fixes the scale
    KL(c) ~ a c^p                   between two strengths: the next look is where this line meets the target

A look measures some strengths as rows of one batch. The first spans the range, so that a cost which falls again far out
(a broken model can look cheap) is never used: the strength lies below the first one that was seen to be too dear.
"""

import math
from collections.abc import Callable, Sequence

SPAN = (1 / 16, 1 / 4, 1 / 2, 1.0)
"""Shares of the range that the first look measures."""
WITHIN = 0.02
"""The strength that is found lies at most this share below the one that costs the target."""
LOOKS = 8
"""Most looks; a gate that opens all at once leaves nothing to interpolate."""


def largest_strength(
    look: Callable[[Sequence[float]], list[float]], target: float, bounds: tuple[float, float]
) -> tuple[float, int]:
    """The largest strength below the first one that was seen to cost more than the target, and the looks it took.

    Args:
        look: cost of each of some strengths; NaN and infinity are too dear.
        target: largest allowed cost.
        bounds: strengths between which is searched; the lower one is taken to be free.
    """
    low, high = bounds
    if low == high:
        return high, 0
    costs = {low: 0.0}
    tried = [low + (high - low) * share for share in SPAN]
    looks = 0
    while True:
        looks += 1
        costs |= dict(zip(tried, look(tried), strict=True))
        ladder = sorted(costs)
        dear = next((c for c in ladder if not costs[c] <= target), None)
        if dear is None:
            return high, looks
        below = ladder[ladder.index(dear) - 1]
        edge = meeting(below - low, costs[below], dear - low, costs[dear], target)
        # Over a wide bracket the power law says where to look, and not how close that is.
        sure = edge if dear - low <= 1.15 * (below - low) else dear - low
        if below - low >= (1 - WITHIN) * sure or looks == LOOKS or dear - below < 1e-4 * (high - low):
            return below, looks
        near = dear - low <= 1.5 * (below - low)
        spread = (1 - 0.6 * WITHIN, 1.0, 1 + 0.6 * WITHIN) if near else (1 / 1.06, 1.0, 1.06)
        tried = sorted({low + edge * share for share in spread if below < low + edge * share < dear})
        if not tried or (low < below and costs[below] <= 0):  # it opens all at once: there is no law to follow
            tried = [below + (dear - below) * k / 4 for k in (1, 2, 3)]


def meeting(below: float, cost: float, dear: float, cost_dear: float, target: float) -> float:
    """Where the cost meets the target, between a strength within it and one beyond, both counted from the free one.

    On the power law through both; the square law where nothing was measured below; half-way in scale where the dear one
    broke the model or the law has no sense.
    """
    if not math.isfinite(cost_dear):
        return math.sqrt(below * dear) if below > 0 else dear / 4
    if below <= 0 or cost <= 0:
        return max(dear * math.sqrt(target / cost_dear), below + 0.1 * (dear - below))
    power = math.log(cost_dear / cost) / math.log(dear / below)
    return below * math.exp(math.log(target / cost) / power)
