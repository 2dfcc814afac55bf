"""Statistics for small, paired prompt sets: numbers with intervals, honest about what they cannot show. Knows no model.

The unit of resampling is the *pair group* (a harmful prompt, its benign twin and its near-miss twin share one id), not
the prompt: prompts of one group share words and media and are not independent. Every function that resamples takes
`clusters=` (the pair ids) and an explicit `rng=numpy.random.Generator`; nothing reads a global seed.

Intervals are expanded percentile bootstrap intervals (Hesterberg 2015): the usual percentile interval is too narrow for
few groups, so its quantile is moved out by the ratio of Student's t to the normal quantile and by `sqrt(m / (m - 1))`.
A bootstrap can only see what it has seen: 0 refusals of 60 resample to 0 for ever and would print the false certainty
[0, 0]. Where all outcomes are equal the interval of Wilson (1927) with n = number of groups is used instead.

What an interval here does NOT cover: another model, another training seed, another judge, other wordings than those in
the set. It covers other pair groups drawn like these.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.random import Generator

from .errors import DataError

__all__ = [
    "Estimate",
    "RandomDirectionNull",
    "auroc",
    "auroc_interval",
    "group_numbers",
    "holm",
    "mean_interval",
    "mean_ranks",
    "minimum_detectable_effect",
    "paired_difference",
    "pearson",
    "permutation_test",
    "percentile_interval",
    "random_direction_null",
    "rate",
    "resampled_groups",
    "spearman",
    "student_p_value",
    "wilson",
]

Values = Sequence[float] | np.ndarray | torch.Tensor
Clusters = Iterable[Hashable] | None

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the estimate; None if it cannot be measured (then so are `low` and `high`).
        low: lower end of the interval (95 % unless asked otherwise).
        high: upper end.
        n: number of items behind it (not of groups).
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def missing(cls, n: int = 0) -> "Estimate":
        """A number that could not be measured: `null` in JSON."""
        return cls(None, None, None, n)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Estimate":
        """Read what `to_json` wrote."""
        return cls(record["value"], record["low"], record["high"], int(record["n"]))

    def to_json(self) -> dict[str, float | int | None]:
        """`{value, low, high, n}`, the form of every rate in `results.json`."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}

    def excludes(self, point: float) -> bool:
        """Whether the whole interval lies on one side of `point`; False if not measured."""
        if self.low is None or self.high is None:
            return False
        return point < self.low or point > self.high

    def __str__(self) -> str:
        """`0.95 [0.87, 0.98] (n = 60)`."""
        if self.value is None or self.low is None or self.high is None:
            return f"not measured (n = {self.n})"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}] (n = {self.n})"


# -- separability ------------------------------------------------------------------------------------------------------


def auroc(pos: Values, neg: Values) -> float:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counting one half.

    Args:
        pos: scores of the positives (harmful), any number >= 1.
        neg: scores of the negatives (benign, near miss), any number >= 1.

    Returns:
        A number in [0, 1]; 0.5 is chance, below 0.5 the sign is the wrong way round.

    Raises:
        DataError: one of the two is empty, or holds NaN.
    """
    up, down = _values(pos, "scores of the positives"), np.sort(_values(neg, "scores of the negatives"))
    below, not_above = np.searchsorted(down, up, "left"), np.searchsorted(down, up, "right")
    return float((below + not_above).sum() / (2 * up.size * down.size))


def auroc_interval(
    pos: Values,
    neg: Values,
    pos_clusters: Clusters = None,
    neg_clusters: Clusters = None,
    *,
    rng: Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """AUROC with a bootstrap interval over pair groups.

    A group drawn twice brings its positives and its negatives twice, so the pairing is kept. Without clusters positives
    and negatives are drawn separately. With perfect separation (every resample gives 1, or 0) the interval is Wilson's
    for m of m successes, m the smaller number of groups: m independent positive-negative pairs all came out right.

    Args:
        pos: scores of the positives (harmful).
        neg: scores of the negatives.
        pos_clusters: pair id of each positive; give both or neither.
        neg_clusters: pair id of each negative.
        rng: source of randomness.
        resamples: number of bootstrap resamples.
        confidence: nominal coverage.

    Raises:
        DataError: a side is empty or holds NaN, or only one side has clusters.
    """
    up, down = _values(pos, "scores of the positives"), _values(neg, "scores of the negatives")
    if (pos_clusters is None) != (neg_clusters is None):
        raise DataError(
            "AUROC interval", "pair ids for one class only", "pass pos_clusters and neg_clusters, or neither"
        )
    value = auroc(up, down)
    n = up.size + down.size
    if pos_clusters is None or neg_clusters is None:
        up_ids, down_ids = np.arange(up.size), np.arange(down.size)
        up_draws = _draws(up.size, resamples, rng)
        down_draws = _draws(down.size, resamples, rng)
        groups = min(up.size, down.size)
    else:
        ids = group_numbers([*pos_clusters, *neg_clusters], n)
        up_ids, down_ids = ids[: up.size], ids[up.size :]
        groups = min(np.unique(up_ids).size, np.unique(down_ids).size)
        up_draws = down_draws = _draws(int(ids.max()) + 1, resamples, rng)
    if value in (0.0, 1.0) or groups < 2:
        return Estimate(value, *wilson(value * groups, groups, confidence=confidence), n)
    # wins[g, h]: positives of group g against negatives of group h. A resample is then two small matrix products.
    better = (up[:, None] > down[None, :]) + 0.5 * (up[:, None] == down[None, :])
    wins = _sum_by(_sum_by(better, up_ids, up_draws.shape[1]).T, down_ids, down_draws.shape[1]).T
    n_up = up_draws @ np.bincount(up_ids, minlength=up_draws.shape[1])
    n_down = down_draws @ np.bincount(down_ids, minlength=down_draws.shape[1])
    total = np.einsum("bh,bh->b", up_draws @ wins, down_draws)
    both = (n_up > 0) & (n_down > 0)  # a resample may miss a class when groups hold only one
    low, high = _percentiles(total[both] / (n_up[both] * n_down[both]), groups, confidence)
    return Estimate(value, low, high, n)


@dataclass(frozen=True)
class RandomDirectionNull:
    """AUROC of random directions: what a direction with no meaning reaches on the same activations.

    Attributes:
        values: AUROC of each random direction. Symmetric around 0.5: a direction and its opposite are equally likely.
        low: lower end of their central band (95 % unless asked otherwise).
        high: upper end.
    """

    values: Float[np.ndarray, " directions"]
    low: float
    high: float

    def p_value(self, observed: float, *, alternative: Literal["greater", "two-sided"] = "greater") -> float:
        """Share of random directions at least as good as `observed` (an AUROC), counting itself: never 0."""
        if alternative == "two-sided":
            extreme = np.abs(self.values - 0.5) >= abs(observed - 0.5) - 1e-12
        else:
            extreme = self.values >= observed - 1e-12
        return float((1 + extreme.sum()) / (1 + self.values.size))


def random_direction_null(
    pos: Float[torch.Tensor, "n d"],
    neg: Float[torch.Tensor, "m e"],
    *,
    rng: Generator,
    directions: int = 1000,
    draw: Literal["isotropic", "within_class"] = "isotropic",
    confidence: float = CONFIDENCE,
) -> RandomDirectionNull:
    """AUROC of random unit directions on given activations.

    In a residual stream a few directions carry most of the variance, and an isotropic direction rarely meets them.
    `draw="within_class"` draws from the pooled within-class covariance instead, so that the null moves where
    activations really move; centring by class keeps the difference between the classes itself out of the null.

    Args:
        pos: activations of the positives `(n, d)`.
        neg: activations of the negatives `(m, d)`.
        rng: source of randomness.
        directions: how many are drawn.
        draw: "isotropic" (every orientation equally likely) or "within_class" (Gaussian with the data's covariance).
        confidence: width of the reported band.

    Raises:
        DataError: empty, NaN, different `d`, or no variance within the classes with `draw="within_class"`.
    """
    up, down = _matrix(pos, "activations of the positives"), _matrix(neg, "activations of the negatives")
    if up.shape[1] != down.shape[1]:
        raise DataError(
            "random-direction null", f"d = {up.shape[1]} and d = {down.shape[1]}", "pass one model and site"
        )
    if draw == "isotropic":
        drawn = rng.standard_normal((up.shape[1], directions))
    else:
        rows = np.concatenate([up - up.mean(0), down - down.mean(0)])
        drawn = rows.T @ rng.standard_normal((rows.shape[0], directions))
    length = np.linalg.norm(drawn, axis=0)
    if not (length > 1e-12 * max(1.0, float(np.abs(up).max()))).all():
        raise DataError(
            'random-direction null with draw="within_class"',
            "activations do not vary within the classes",
            'pass more prompts, or draw="isotropic"',
        )
    drawn /= length
    values = _auroc_columns(up @ drawn, down @ drawn)
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return RandomDirectionNull(values, float(low), float(high))


# -- rates and means ---------------------------------------------------------------------------------------------------


def rate(
    labels: Values,
    clusters: Clusters = None,
    *,
    rng: Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Share of true labels with an interval over pair groups.

    Bootstrap over groups; Wilson's interval with n = number of groups where all labels are equal or there is a single
    group (see the module's docstring). Taking groups and not items for n is the careful choice: it assumes that the
    items of one group would always agree.

    Args:
        labels: 0/1 or booleans, one per item.
        clusters: pair id of each item; None = items are independent.
        rng: source of randomness.
        resamples: number of bootstrap resamples.
        confidence: nominal coverage.

    Raises:
        DataError: no labels, NaN, or values other than 0 and 1.
    """
    hits = _values(labels, "labels")
    if not np.isin(hits, (0.0, 1.0)).all():
        raise DataError("rate of labels", "values other than 0 and 1", "pass booleans, or use mean_interval")
    ids = group_numbers(clusters, hits.size)
    groups = int(ids.max()) + 1
    value = float(hits.mean())
    if value in (0.0, 1.0) or groups < 2:
        return Estimate(value, *wilson(value * groups, groups, confidence=confidence), hits.size)
    low, high = _bootstrap_mean(hits, ids, rng, resamples, confidence)
    return Estimate(value, low, high, hits.size)


def wilson(successes: float, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion: 0 of 60 gives [0, 0.060], never a point."""
    if n < 1 or not 0 <= successes <= n:
        raise DataError("Wilson interval", f"{successes} successes of {n}", "pass 0 <= successes <= n, n >= 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == n else min(1.0, middle + half)
    return low, high


def mean_interval(
    values: Values,
    clusters: Clusters = None,
    *,
    rng: Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Mean of real numbers (projections, KL, scores) with a bootstrap interval over pair groups.

    Raises:
        DataError: empty, NaN, or fewer than 2 groups (one group says nothing about the spread between groups).
    """
    x = _values(values, "values")
    ids = group_numbers(clusters, x.size)
    _need_groups(int(ids.max()) + 1, "interval of a mean")
    low, high = _bootstrap_mean(x, ids, rng, resamples, confidence)
    return Estimate(float(x.mean()), low, high, x.size)


def paired_difference(
    a: Values,
    b: Values,
    clusters: Clusters = None,
    *,
    rng: Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Mean of `a - b` over the SAME items (with a defence minus without), with a bootstrap interval over pair groups.

    For 0/1 outcomes whose differences are all equal the bootstrap would give a point; the interval then comes from
    Wilson's bound on the share of items that could have differed: no change in 60 items gives [-0.06, 0.06], and a gain
    on all 60 gives [0.94, 1].

    Args:
        a: outcome of each item in the first arm.
        b: outcome of the same item in the second arm.
        clusters: pair id of each item; None = items are independent.
        rng: source of randomness.
        resamples: number of bootstrap resamples.
        confidence: nominal coverage.

    Raises:
        DataError: lengths differ, empty, NaN, or fewer than 2 groups.
    """
    change = _difference(a, b)
    ids = group_numbers(clusters, change.size)
    groups = int(ids.max()) + 1
    _need_groups(groups, "interval of a paired difference")
    value = float(change.mean())
    binary = bool(
        np.isin(_values(a, "first arm"), (0.0, 1.0)).all() and np.isin(_values(b, "second arm"), (0.0, 1.0)).all()
    )
    if binary and (change == change[0]).all():
        spread = wilson(0, groups, confidence=confidence)[1]
        return Estimate(value, max(-1.0, value - spread), min(1.0, value + spread), change.size)
    low, high = _bootstrap_mean(change, ids, rng, resamples, confidence)
    return Estimate(value, low, high, change.size)


# -- tests -------------------------------------------------------------------------------------------------------------


def permutation_test(
    a: Values,
    b: Values,
    clusters: Clusters = None,
    *,
    rng: Generator,
    permutations: int = 9999,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
) -> float:
    """p-value of a paired permutation test on the mean of `a - b`: the arms of a whole group are swapped together.

    With `2 ** groups <= permutations + 1` every swap is enumerated and the p-value is exact. Otherwise it is
    `(1 + at least as extreme) / (1 + permutations)`, never 0, and valid at any number of permutations.

    Args:
        a: outcome of each item in the first arm.
        b: outcome of the same item in the second arm.
        clusters: pair id of each item; None = items are independent.
        rng: source of randomness.
        permutations: how many random swaps.
        alternative: "greater" = a above b.
    """
    change = _difference(a, b)
    ids = group_numbers(clusters, change.size)
    sums = np.bincount(ids, weights=change)
    sign = -1.0 if alternative == "less" else 1.0
    observed = sign * sums.sum()
    exact = 2.0**sums.size <= permutations + 1
    if exact:
        codes = np.arange(2**sums.size)[:, None] >> np.arange(sums.size)[None, :]
        flips = 1.0 - 2.0 * (codes & 1)
    else:
        flips = rng.choice((-1.0, 1.0), size=(permutations, sums.size))
    null = sign * (flips @ sums)
    slack = 1e-9 * max(1.0, float(np.abs(sums).sum()))  # equal sums must not differ by rounding
    extreme = np.abs(null) >= abs(observed) - slack if alternative == "two-sided" else null >= observed - slack
    return float(extreme.mean()) if exact else float((1 + extreme.sum()) / (1 + permutations))


def student_p_value(observed: float, draws: Values) -> float:
    """Two-sided p-value of "`observed` is one more draw": a t-test of one value against a few draws of a null.

    `t = (observed - mean) / (sd sqrt(1 + 1/k))` with `k - 1` degrees of freedom. For the mean effect of a random
    direction, which is nearly normal in many dimensions, a dozen draws suffice where a rank test would need thousands.

    Args:
        observed: the figure in question.
        draws: the same figure of k >= 3 random directions.

    Raises:
        DataError: fewer than 3 draws, or NaN.
    """
    null = _values(draws, "draws of the null")
    if null.size < 3 or not math.isfinite(observed):
        raise DataError(
            "p-value against random draws",
            f"{null.size} draws and an observed value of {observed}",
            "pass at least 3 draws and a finite value",
        )
    spread = float(null.std(ddof=1)) * math.sqrt(1 + 1 / null.size)
    away = abs(observed - float(null.mean()))
    if spread == 0:
        return 1.0 if away == 0 else 0.0
    return _student_tail(away / spread, null.size - 1)


def holm(pvalues: Values) -> Float[np.ndarray, " tests"]:
    """Holm's adjusted p-values, in the order given: reject where `<= alpha`, and the chance of any false rejection is
    at most alpha, whatever the dependence between the tests.

    Raises:
        DataError: empty, NaN, or outside [0, 1].
    """
    p = _values(pvalues, "p-values")
    if (p < 0).any() or (p > 1).any():
        raise DataError("Holm adjustment", "p-values outside [0, 1]", "pass probabilities")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def minimum_detectable_effect(
    n: int,
    baseline: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    correlation: float = 0.0,
    design_effect: float = 1.0,
    direction: Literal["increase", "decrease"] = "increase",
) -> float | None:
    """Smallest change of a rate that a two-sided test would find with the given power.

    For anything smaller the set is *underpowered*. Two arms of n items each, normal approximation:
    `delta = z_{1-alpha/2} sd_0 + z_{power} sd_1`, where
    `sd_1^2 = (p1 q1 + p2 q2 - 2 rho sqrt(p1 q1 p2 q2)) / n` and `sd_0` is the same with both rates at their mean.

    Args:
        n: items per arm (the same items in both arms if paired).
        baseline: rate of the first arm, in [0, 1].
        power: chance to find the change.
        alpha: level of the test.
        correlation: of the two arms' outcomes on the same item, in [0, 1); 0 = unpaired or unknown, the careful choice.
        design_effect: variance inflation by clustering; with g fully agreeing groups `n / g`.
        direction: whether the rate rises or falls.

    Returns:
        The change as a positive number in (0, 1], or None if not even a change to 1 (to 0) would be found.
    """
    if n < 1 or not 0 <= baseline <= 1 or not 0 <= correlation < 1 or design_effect < 1:
        raise DataError(
            "minimum detectable effect",
            f"n = {n}, baseline = {baseline}, correlation = {correlation}, design effect = {design_effect}",
            "pass n >= 1, rates in [0, 1], correlation in [0, 1) and a design effect >= 1",
        )
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    room = 1 - baseline if direction == "increase" else baseline
    size = n / design_effect

    def found(delta: float) -> bool:
        other = baseline + delta if direction == "increase" else baseline - delta
        v1, v2 = baseline * (1 - baseline), other * (1 - other)
        middle = (baseline + other) / 2
        v0 = middle * (1 - middle)
        sd0 = math.sqrt(2 * v0 * (1 - correlation) / size)
        sd1 = math.sqrt(max(0.0, v1 + v2 - 2 * correlation * math.sqrt(max(0.0, v1 * v2))) / size)
        return delta >= z_alpha * sd0 + z_power * sd1

    if room <= 0 or not found(room):
        return None
    low, high = 0.0, room
    for _ in range(60):
        half = (low + high) / 2
        low, high = (low, half) if found(half) else (half, high)
    return high


# -- resampling --------------------------------------------------------------------------------------------------------


def group_numbers(clusters: Clusters, n: int) -> Int[np.ndarray, " n"]:
    """Group number 0, 1, ... of every item."""
    if clusters is None:
        return np.arange(n)
    numbers: dict[Hashable, int] = {}
    ids = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    if len(ids) != n:
        raise DataError("clusters", f"{len(ids)} pair ids for {n} items", "pass one pair id per item")
    return np.asarray(ids, dtype=np.int64)


def resampled_groups(
    groups: int, *, rng: Generator, resamples: int = RESAMPLES
) -> Float[np.ndarray, "resamples groups"]:
    """How often each pair group is drawn in each bootstrap resample: weights for figures that are no plain means."""
    _need_groups(groups, "bootstrap over pair groups")
    return _draws(groups, resamples, rng)


def percentile_interval(resampled: Values, groups: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Expanded percentile interval of bootstrapped values of a figure, given the number of groups that were drawn."""
    _need_groups(groups, "percentile interval")
    return _percentiles(_values(resampled, "bootstrapped values"), groups, confidence)


def _draws(groups: int, resamples: int, rng: Generator) -> Float[np.ndarray, "resamples groups"]:
    """How often each group is drawn in each resample; rows sum to `groups`."""
    if resamples < 100:
        raise DataError("bootstrap", f"{resamples} resamples", "ask for at least 100")
    picks = rng.integers(0, groups, size=(resamples, groups))
    picks += np.arange(resamples)[:, None] * groups
    return np.bincount(picks.ravel(), minlength=resamples * groups).reshape(resamples, groups).astype(np.float64)


def _bootstrap_mean(
    x: Float[np.ndarray, " n"], ids: Int[np.ndarray, " n"], rng: Generator, resamples: int, confidence: float
) -> tuple[float, float]:
    """Interval of the mean over items when whole groups are drawn."""
    draws = _draws(int(ids.max()) + 1, resamples, rng)
    sums = draws @ np.bincount(ids, weights=x)
    counts = draws @ np.bincount(ids).astype(np.float64)
    return _percentiles(sums / counts, draws.shape[1], confidence)


def _percentiles(resampled: Float[np.ndarray, " resamples"], groups: int, confidence: float) -> tuple[float, float]:
    """Expanded percentile interval: quantiles moved out for few groups (Hesterberg 2015, section 4.3)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    tail = NormalDist().cdf(-math.sqrt(groups / (groups - 1)) * student(z, groups - 1))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def student(z: float, df: int) -> float:
    """Quantile of Student's t that belongs to the normal quantile `z`: Cornish-Fisher, error < 1 % from df = 4 on."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / float(df) ** (power + 1) for power, term in enumerate(terms)))


def _student_tail(t: float, df: int) -> float:
    """P(|T| > t) for whole degrees of freedom, by the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(df))
    cosine2 = math.cos(angle) ** 2
    term = math.cos(angle) if df % 2 else 1.0
    total = term if df > 1 or df % 2 == 0 else 0.0
    for j in range(2 if df % 2 else 1, df - 1, 2):
        term *= cosine2 * j / (j + 1)
        total += term
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if df % 2 else math.sin(angle) * total
    return min(1.0, max(1e-12, 1.0 - inside))  # the difference holds no digits below that


def _sum_by(rows: Float[np.ndarray, "n k"], ids: Int[np.ndarray, " n"], groups: int) -> Float[np.ndarray, "groups k"]:
    """Sum rows of one group."""
    if groups == rows.shape[0] and np.array_equal(ids, np.arange(groups)):
        return rows
    total = np.zeros((groups, rows.shape[1]))
    np.add.at(total, ids, rows)
    return total


def _auroc_columns(up: Float[np.ndarray, "n k"], down: Float[np.ndarray, "m k"]) -> Float[np.ndarray, " k"]:
    """AUROC of every column, by mean ranks (ties one half)."""
    both = np.concatenate([up, down])
    order = np.argsort(both, axis=0, kind="stable")
    ordered = np.take_along_axis(both, order, axis=0)
    place = np.broadcast_to(np.arange(both.shape[0])[:, None], both.shape)
    starts = np.ones(both.shape, dtype=bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    ends = np.ones(both.shape, dtype=bool)
    ends[:-1] = starts[1:]
    first = np.maximum.accumulate(np.where(starts, place, 0), axis=0)
    last = np.minimum.accumulate(np.where(ends, place, both.shape[0])[::-1], axis=0)[::-1]
    ranks = np.empty(both.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=0)
    n, m = up.shape[0], down.shape[0]
    area: np.ndarray = (ranks[:n].sum(0) - n * (n + 1) / 2) / (n * m)
    return area


# -- checks ------------------------------------------------------------------------------------------------------------


def spearman(a: Values, b: Values) -> float:
    """Rank correlation, ties by mean rank; 0 if one side is constant."""
    return pearson(mean_ranks(_array(a)), mean_ranks(_array(b)))


def mean_ranks(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, " n"]:
    """Rank of every value from 1, equal ones the mean of theirs."""
    _values, inverse, counts = np.unique(x.ravel(), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: np.ndarray = (ends - (counts - 1) / 2)[inverse.ravel()]
    return mean


def pearson(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Linear correlation; 0 if one side is constant."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def _array(x: Any) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        x = x.detach().to("cpu", torch.float64).numpy()
    out: np.ndarray = np.asarray(x, dtype=np.float64)
    return out


def _values(x: Any, name: str) -> Float[np.ndarray, " n"]:
    """A finite, non-empty float64 vector."""
    out = _array(x)
    if out.ndim != 1 or out.size == 0:
        raise DataError(name, f"shape {out.shape}", "pass a vector with at least one value")
    bad = int((~np.isfinite(out)).sum())
    if bad:
        raise DataError(
            name, f"{bad} of {out.size} are NaN or infinite", "drop these items, or find out where they arise"
        )
    return out


def _matrix(x: Any, name: str) -> Float[np.ndarray, "n d"]:
    """A finite, non-empty float64 matrix."""
    out = _array(x)
    if out.ndim != 2 or out.size == 0:
        raise DataError(name, f"shape {out.shape}", "pass activations of shape (n, d) with n >= 1")
    if not np.isfinite(out).all():
        raise DataError(name, "NaN or infinite values", "drop these items, or find out where they arise")
    return out


def _difference(a: Any, b: Any) -> Float[np.ndarray, " n"]:
    first, second = _values(a, "first arm"), _values(b, "second arm")
    if first.size != second.size:
        raise DataError(
            "paired comparison", f"{first.size} and {second.size} items", "pass the same items in the same order"
        )
    change: np.ndarray = first - second
    return change


def _need_groups(groups: int, asked: str) -> None:
    if groups < 2:
        raise DataError(asked, f"{groups} pair group", "pass at least 2 groups")
