"""The largest strength on a grid whose cost stays within a target, for many candidates in step.

The answer is that of bisection in fewer steps. Near the target a cost is a power of its strength, whose exponent
changes slowly: strength is interpolated as a function of cost, both in logarithms,

    log c* = the polynomial through the (log(cost / target), log c) of the two or three nearest points, at 0

and the grid's neighbours of each guess settle it. A search may begin where another one ended, say that of the layer
before; else at the grid's end. Who measures the costs asks and tells in turn, so the same search runs here and beside
the weights.

    state = grid_begin(start, power, size)
    while len((question := grid_ask(state, target))[1]):
        where, which = question                     # grid points (candidate,), and the candidates that are asked for
        grid_tell(state, where, which, costs, target)
"""

import torch


def grid_begin(start, power, size):
    """A search over the grid points 0 to size; point 0 costs nothing.

    Args:
        start: (candidate,) grid point of the first look; `size` where nothing is known.
        power: (candidate,) exponent of the cost until two points tell it; 2 where nothing is known.

    Returns:
        dict: "low" and "high" (candidate,) grid points, high beyond the grid while nothing cost too much, "low_cost"
        (candidate,), and what was seen.
    """
    n = len(start)
    return {
        "start": start.clone(),
        "power": power.double(),
        "low": torch.zeros(n, dtype=torch.long),
        "high": torch.full((n,), size + 1),
        "low_cost": torch.zeros(n),
        "seen": torch.zeros(n, 0, dtype=torch.double),
        "costs": torch.zeros(n, 0, dtype=torch.double),
        "slow": torch.zeros(n, dtype=torch.long),
    }


def grid_ask(state, target):
    """What to measure next.

    Returns:
        grid points (candidate,), given for all, and the candidates (k,) that are asked for; none when it is over.
    """
    low, high = state["low"], state["high"]
    which = torch.nonzero(high - low > 1).flatten()
    if state["seen"].shape[1] == 0:
        return state["start"].clone(), which
    middle = (low + high).double() / 2
    x, y, told = nearest(state["seen"], state["costs"], target)
    guess = torch.where(told[:, 0], (y[:, 0] - x[:, 0] / state["power"]).exp(), middle)
    for n in range(2, x.shape[1] + 1):
        better = crossing(x[:, :n], y[:, :n]).exp()
        guess = torch.where(told[:, n - 1] & (better > low) & (better < high), better, guess)
    # A curve that no polynomial follows is halved.
    guess = torch.where((state["slow"] > 2) | ~guess.isfinite(), middle, guess)
    return guess.long().clamp(low + 1, high - 1), which


def nearest(seen, costs, target):
    """The three points whose costs are nearest to the target, nearest first.

    Returns:
        log(cost / target) and log(grid point), (candidate, 3 or fewer), and which of them mean something.
    """
    good = costs.isfinite() & (costs > 1e-9)
    x = torch.where(good, (costs / target).log(), torch.inf)
    order = x.abs().argsort(dim=1)[:, :3]
    return x.gather(1, order), seen.log().gather(1, order), good.gather(1, order)


def crossing(x, y):
    """The polynomial through some points (candidate, n), at x = 0 (Lagrange)."""
    total = torch.zeros_like(y[:, 0])
    for i in range(x.shape[1]):
        term = y[:, i]
        for j in range(x.shape[1]):
            if i != j:
                term = term * x[:, j] / (x[:, j] - x[:, i])
        total = total + term
    return total


def grid_tell(state, where, which, costs, target):
    """Note costs (k,) of the candidates that were asked for, at their grid points.

    Args:
        state: changed in place.
        where, which: as they were asked.
        costs: measured; NaN counts as too much.
        target: largest allowed cost.
    """
    width = (state["high"] - state["low"])[which]
    fits, at = costs <= target, where[which]
    state["low"][which[fits]], state["low_cost"][which[fits]] = at[fits], costs[fits]
    state["high"][which[~fits]] = at[~fits]
    less = 2 * (state["high"] - state["low"])[which] <= width
    state["slow"][which] = torch.where(less | (state["slow"][which] > 2), 0, state["slow"][which] + 1)
    for name, values in (("seen", at.double()), ("costs", costs.double())):
        column = torch.full((len(state["low"]), 1), torch.nan, dtype=torch.double)
        column[which, 0] = values
        state[name] = torch.cat([state[name], column], dim=1)


def grid_law(state):
    """Where the search ended, and the exponent of the cost there: the start of the next one.

    Returns:
        grid points (candidate,), at least 1, and exponents (candidate,); 2 where the target was not crossed.
    """
    low, high, ends = state["low"], state["high"], []
    for at in (low, high):
        there = (state["seen"] == at.unsqueeze(1)) & state["costs"].isfinite()
        ends.append(torch.where(there, state["costs"], 0.0).sum(1))
    power = (ends[1] / ends[0]).log() / (high.double() / low).log()
    return low.clamp_min(1), torch.where(power.isfinite() & (power > 0), power, 2.0)
