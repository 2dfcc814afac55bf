"""What OmniSteer (arXiv 2602.10161) says of the gap, judged on its fit: media keep text's direction, and lose length.

    direction   cosine of a medium's own direction with text's at least .7              the paper: .73 to .86
    magnitude   its length at most .75 of text's                                        the paper: .45 to .72

Both from the training pairs of the first fit, freed from noise (`inference.kept`). That the gate pays is an ablation
like the others (`claims`).
"""

from collections.abc import Iterable

from ..defences import Defence
from ..defences.omnisteer import OmniSteer
from ..statistics import Estimate
from .claims import Claim, Sense, judge

KEPT: tuple[tuple[str, str, str, Sense, float], ...] = (
    ("omnisteer-direction", "cosine", "a medium keeps text's direction: cosine at least 70 of 100", "at least", 0.7),
    ("omnisteer-magnitude", "norm_ratio", "its length is at most 75 of 100 of text's", "at most", 0.75),
)


def kept_claims(defences: Iterable[Defence]) -> list[Claim]:
    """One claim of each kind per medium; none without a fit of OmniSteer on media.

    Args:
        defences: all that were fitted; the first `omnisteer` among them is judged.
    """
    fit = next((one for one in defences if isinstance(one, OmniSteer) and one.figures["kept"]), None)
    found = []
    for medium, row in (fit.figures["kept"] if fit else {}).items():
        for name, measure, words, sense, threshold in KEPT:
            estimate = Estimate.from_json(row[measure])
            verdict, certain, why = judge(estimate, sense, threshold)
            found.append(Claim(name, words, "omnisteer", medium, estimate, sense, threshold, verdict, certain, why))
    return found
