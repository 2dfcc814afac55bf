"""The largest strength on a grid whose cost stays within a target, for many candidates in step.

The answer is that of bisection in fewer steps: a small addition costs a KL that grows with the square of its strength,
a larger one with some higher power, which the costs so far give; that says where the limit should lie. The neighbours
of each guess settle it. Who measures the costs asks and tells in turn, so the same search runs here and beside the
weights.

    state = grid_begin(n, size)
    while len((question := grid_ask(state, target))[1]):
        where, which = question                     # grid points (candidate,), and the candidates that are asked for
        grid_tell(state, where, which, costs, target)
"""

import torch


def grid_begin(n, size):
    """A search for n candidates over the grid points 0 to size; point 0 costs nothing.

    Returns:
        dict: "low", "high" (candidate,) grid points, "low_cost", "high_cost" (candidate,) and "step".
    """
    return {
        "low": torch.zeros(n, dtype=torch.long),
        "high": torch.full((n,), size),
        "low_cost": torch.zeros(n),
        "high_cost": torch.zeros(n),
        "step": -1,
    }


def grid_ask(state, target):
    """What to measure next.

    Returns:
        grid points (candidate,), given for all, and the candidates (k,) that are asked for; none when it is over.
    """
    low, high, step = state["low"], state["high"], state["step"]
    if step < 0:  # the end of the grid first: it may cost too little to be a limit
        return high.clone(), torch.arange(len(high))
    which = torch.nonzero(high - low > 1).flatten()
    # Where the power law through the bracket's ends, a square while nothing fits, meets the target; just above it, then
    # just below, so that both ends close in. Every third step halves, whatever the shape of the curve.
    a, b, middle = state["low_cost"].double().clamp_min(1e-12), state["high_cost"].double(), (low + high) // 2
    power = torch.where(low > 0, (b / a).log() / (high / low.clamp_min(1)).log(), 2.0)
    guess = high * (target / b) ** (1 / power)
    guess = torch.where(guess.isfinite(), guess, middle).long() + step % 2
    where = torch.where(torch.tensor(step % 3 == 2), middle, guess)
    return where.clamp(low + 1, high - 1), which


def grid_tell(state, where, which, costs, target):
    """Note costs (k,) of the candidates that were asked for, at their grid points.

    Args:
        state: changed in place.
        where, which: as they were asked.
        costs: measured; NaN counts as too much.
        target: largest allowed cost.
    """
    fits, at = costs <= target, where[which]
    state["low"][which[fits]], state["low_cost"][which[fits]] = at[fits], costs[fits]
    state["high"][which[~fits]], state["high_cost"][which[~fits]] = at[~fits], costs[~fits]
    state["step"] += 1
