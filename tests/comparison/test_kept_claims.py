"""OmniSteer's claims about the gap: held, failed or undecided by the intervals of its own fit."""

from typing import Any

import torch

from refusal_plugin.comparison.kept_claims import kept_claims
from refusal_plugin.defences.omnisteer import OmniSteer


def fit(**kept: Any) -> OmniSteer:
    """A fit that found these cosines and norm ratios, each within .05, per medium."""
    rows = {
        medium: {
            name: {"value": v, "low": v - 0.05, "high": v + 0.05, "n": 60}
            for name, v in zip(("cosine", "norm_ratio"), pair, strict=True)
        }
        for medium, pair in kept.items()
    }
    return OmniSteer(
        name="omnisteer", layers=(0,), vectors=torch.ones(1, 4), gate_layer=0, network={}, figures={"kept": rows}
    )


def test_direction_kept_and_magnitude_lost_are_judged_by_medium() -> None:
    found = kept_claims([fit(), fit(image=(0.8, 0.5), audio=(0.6, 0.95)), fit(image=(0.0, 9.0))])
    verdicts = {(c.id.removeprefix("omnisteer-"), c.modality): (c.verdict, c.certain) for c in found}
    assert verdicts == {
        ("direction", "image"): ("held", True),
        ("magnitude", "image"): ("held", True),
        ("direction", "audio"): ("failed", False),
        ("magnitude", "audio"): ("failed", False),
    }
    assert kept_claims([]) == [] and kept_claims([fit()]) == [], "no fit on media, nothing to judge"
