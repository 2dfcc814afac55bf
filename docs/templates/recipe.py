"""How far apart does a model keep harmful and harmless prompts at its last layer? (Put your question here.)

    refusal-plugin run my_recipe.py                 on the embedded model
    refusal-plugin run my_recipe.py --json          the result as JSON

What it does not show: a distance is no cause; see `refusal_plugin.analyse_transfer` for a causal test.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

import refusal_plugin as rp
from refusal_plugin.report.shown import Shown
from refusal_plugin.statistics import auroc_interval


@dataclass(frozen=True)
class Found(Shown):
    """What the recipe found; it shows itself in a terminal and in a notebook, and `--json` writes its fields.

    Attributes:
        auroc: harmful against harmless test prompts along the direction of the training prompts.
        layer: where.
        warnings: what to know before quoting it.
    """

    auroc: rp.Estimate
    layer: int
    warnings: tuple[str, ...] = ()

    def finding(self) -> str:
        """The number with its interval and its n, in a sentence."""
        return f"AUROC {self.auroc} at layer {self.layer}; 0.5 is chance"


def run(model: Any, prompts: rp.PromptSet, *, remote: bool | str = False) -> Found:
    """Fit on the training part, measure on the test part; whole pairs lie in one part only.

    Args:
        model: a loaded model.
        prompts: with roles; splits are drawn where there are none.
        remote: run on NDIF; passed on to every call that takes it.
    """
    text = prompts.assigned().filter(modality="text")
    train, test = (text.filter(split=part).require(at_least=2, asked=part) for part in ("train", "test"))
    direction = rp.fit_direction(model, train, remote=remote).at(rp.anatomy(model).n_layers - 1)
    streams = rp.collect_activations(model, test, remote=remote)
    along = direction.coordinates(streams.values[:, 0])[:, direction.layer]
    bad, good = ([k for k, p in enumerate(test) if (p.role == "harmful") == harmful] for harmful in (True, False))
    pairs = [[test[k].pair for k in rows] for rows in (bad, good)]
    found = auroc_interval(along[bad], along[good], *pairs, rng=np.random.default_rng(0))
    n = len(set(pairs[0]))
    return Found(found, direction.layer, (f"only {n} pairs of harm: a look, not a result.",) if n < 30 else ())


def show(result: Found) -> None:
    """Print it; without this function `run` prints the result as it shows itself."""
    print(result)
