"""Is one method better than another on the same items?

    McNemar   b items only the first refuses, c items only the second: under no difference b ~ Binomial(b + c, 1/2)
    permutation test   the arms of whole pair groups are swapped (see `statistics.permutation_test`)

McNemar treats items as independent; two renderings of one pair are not. It is exact and easy to check by hand; the
permutation test is the one to quote where pairs hold several items.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from ..errors import DataError
from ..report.shown import Shown
from ..statistics import Estimate, paired_difference, permutation_test


@dataclass(frozen=True)
class PairedComparison(Shown):
    """One arm against another on the same items.

    Attributes:
        difference: mean of first minus second, with an interval over pair groups.
        only_first, only_second: items on which just one of them is true.
        p_mcnemar: exact two-sided p-value, items taken as independent.
        p_permutation: two-sided p-value of swapping whole pair groups.
    """

    difference: Estimate
    only_first: int
    only_second: int
    p_mcnemar: float
    p_permutation: float

    def finding(self) -> str:
        only = f"only the first {self.only_first} times, only the second {self.only_second} times"
        return f"first minus second {self.difference}; {only}; p = {self.p_permutation:.3g} by swapping pair groups"


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test from the discordant counts; 1 if there are none."""
    if only_first < 0 or only_second < 0:
        raise DataError("McNemar's test", f"counts {only_first} and {only_second}", "give counts >= 0")
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / float(2**n))


def paired_test(
    first: Sequence[bool], second: Sequence[bool], pairs: Sequence[str], *, rng: Generator, permutations: int = 1999
) -> PairedComparison:
    """Compare two arms on the same items.

    Args:
        first, second: outcome of every item in either arm.
        pairs: pair id of every item.
        rng: source of randomness.
        permutations: swaps drawn where not all can be enumerated.

    Raises:
        DataError: lengths differ, or fewer than two pair groups.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    difference = paired_difference(a.astype(float), b.astype(float), pairs, rng=rng)
    one, two = int((a & ~b).sum()), int((b & ~a).sum())
    p = permutation_test(a.astype(float), b.astype(float), pairs, rng=rng, permutations=permutations)
    return PairedComparison(difference, one, two, mcnemar(one, two), p)
