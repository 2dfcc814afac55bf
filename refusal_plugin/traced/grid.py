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
    n, none = len(start), torch.zeros(len(start), 0, dtype=torch.double)
    state = {"start": start, "power": power, "seen": none, "costs": none, "low_cost": torch.zeros(n)}
    return state | {"low": torch.zeros(n, dtype=torch.long), "high": torch.full((n,), size + 1)}


def grid_ask(state, target):
    """What to measure next.

    Returns:
        grid points (candidate,), given for all, and the candidates (k,) that are asked for; none when it is over.
    """
    low, high, looks = state["low"], state["high"], state["seen"].shape[1]
    which = torch.nonzero(high - low > 1).flatten()
    if looks == 0:
        return state["start"].clone(), which
    x, y = nearest(state, target)
    middle = (low + high).double() / 2
    guess = (y[:, 0] - x[:, 0] / state["power"]).exp()
    for n in range(2, x.shape[1] + 1):
        line = torch.zeros_like(middle)
        for i in range(n):
            others = [j for j in range(n) if j != i]
            line += y[:, i] * (x[:, others] / (x[:, others] - x[:, i : i + 1])).prod(1)
        guess = torch.where((line.exp() > low) & (line.exp() < high), line.exp(), guess)
    # A curve that no polynomial follows is halved.
    guess = torch.where(guess.isfinite() & torch.tensor(looks % 5 < 4), guess, middle)
    return guess.long().clamp(low + 1, high - 1), which


def nearest(state, target):
    """log(cost / target) and log(grid point) of the points nearest to the target, (candidate, 3 or fewer); else NaN."""
    x = (state["costs"].clamp_min(1e-12) / target).log()
    order = torch.where(x.isfinite(), x.abs(), torch.inf).argsort(dim=1)[:, :3]
    return x.gather(1, order), state["seen"].log().gather(1, order)


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
    state["high"][which[~fits]] = at[~fits]
    for name, values in (("seen", at), ("costs", costs)):
        column = torch.full((len(where), 1), torch.nan, dtype=torch.double)
        column[which, 0] = values.double()
        state[name] = torch.cat([state[name], column], dim=1)


def grid_law(state, target):
    """Where the search ended, at least 1, and the exponent of the cost there (2 if unknown): a start for the next."""
    x, y = nearest(state, target)
    power = (x[:, :2].diff(dim=1) / y[:, :2].diff(dim=1)).sum(1)
    return state["low"].clamp_min(1), torch.where(power.isfinite() & (power > 0), power, 2.0)
