"""Which layer's refusal direction, and how strong? Chosen on held-out text by what adding and removing each one does.

Read top to bottom. ONE nnsight session, hence one request with `remote=True`: streams of the training text, a direction
of every layer from them beside the weights, then on held-out text per layer: the direction taken out everywhere, its
full vector added behind its own layer, and a search for the strength that costs 0.1 nats on harmless text. The passes
are spelled out in `refusal_plugin.traced.selecting`; additions begin behind their own layer.

    bypass   refusal score of harmful text without the direction      induce   of benign text with the full vector
    gain     what the vector at that strength adds to the score of harmful text whose direction was halved

The layer with the largest gain is chosen (see `refusal_plugin.directions.selection`, which has more objectives). The
refusal score is the log odds of the model's own refusal tokens: those that open answers to harmful text more often than
to benign.
What it does NOT show: that the vector works on media; and text of a few prompts gives wide figures.

    refusal-plugin run candidate_selection            on the embedded model
    refusal-plugin cp candidate_selection .           to change it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nnsight
import torch

from refusal_plugin.directions.direction import Candidates, Direction
from refusal_plugin.directions.figures import bench, figures_of, sites_of, units, work_of
from refusal_plugin.directions.selection import choose
from refusal_plugin.models import anatomy, layers
from refusal_plugin.models.provenance import provenance
from refusal_plugin.prompts import PromptSet, batches
from refusal_plugin.prompts.light import next_token_inputs
from refusal_plugin.remote import portions, workload
from refusal_plugin.traced.read import residuals
from refusal_plugin.traced.selecting import measure_candidates
from refusal_plugin.traced.transfer import class_means, opening_tokens

FIT, HELD_OUT = "train", "val"
MOST = 120  # held-out prompts
POSITIONS = (-1,)  # the last prompt token
TARGET_KL = 0.1  # nats per harmless prompt that the strength may cost
MAX_DEPTH = 0.8  # layers that may be chosen
SEED = 0
SHARE = 0.05  # of the answers to harmful text that a refusal token opens


@dataclass(frozen=True)
class Selection:
    """What the recipe found.

    Attributes:
        direction: the chosen one, with its strength and the table of all candidates.
        words: the model's refusal tokens.
        n_fit, n_held_out: prompts behind them.
    """

    direction: Direction
    words: tuple[str, ...]
    n_fit: int
    n_held_out: int


def run(model: Any, prompts: PromptSet, *, remote: bool = False) -> Selection:
    """Fit on the `train` split and choose on the `val` split.

    Args:
        model: a loaded model.
        prompts: text prompts with roles and splits.
        remote: run the session on NDIF.
    """
    facts, text = anatomy(model), prompts.filter(modality="text")
    fit = text.filter(split=FIT, role=("harmful", "benign")).require(asked="fit directions on text of 'train'")
    held_out = text.filter(split=HELD_OUT).limit(MOST, SEED).require(asked="choose a direction on text of 'val'")

    # Prepare on this side: render, tokenise, pad. Only tensors go into the session.
    fit_work, order = [], []
    for rows, batch in batches(model, fit):
        fit_work.append((next_token_inputs(model, batch), batch.last))
        order += rows
    harmful = torch.tensor([fit[row].role == "harmful" for row in order])
    groups, work = harmful.long(), bench(model, held_out, POSITIONS)
    places = [(layer, position) for position in POSITIONS for layer in range(facts.n_layers)]
    priced = [place for place in places if place[0] < MAX_DEPTH * facts.n_layers]
    every = units(POSITIONS, places, priced, target_kl=TARGET_KL)
    blocks, sites = layers(model), sites_of(model)

    # Measure beside the weights. One turn, hence one request, unless the job is too large for one.
    fitted: list[torch.Tensor] = []
    opened: list[torch.Tensor] = []
    measured: list[Any] = []
    for reading, trying in portions(workload(fit_work), work_of(model, work, every), remote=remote):
        with torch.no_grad(), model.session(remote=remote):
            streams, first, found = nnsight.save([]), nnsight.save([]), nnsight.save([])
            for inputs, last in reading:
                with model.trace(**inputs):
                    streams.append(residuals(blocks, last)[:, 0].cpu())
                    first.append(model.output.logits[:, -1].argmax(-1).cpu())
            if trying:
                means = class_means(torch.cat(fitted + streams), groups, 2).float()
                ids = opening_tokens(torch.cat(opened + first), harmful, SHARE)
                found.append(measure_candidates(model, blocks, sites, work, means[1:], means[:1], ids, trying))
        fitted, opened, measured = fitted + streams, opened + first, measured + found
        del streams, first, found  # or the next request would carry them, too

    # Conclude on this side.
    means = class_means(torch.cat(fitted), groups, 2).float()
    refusal_ids = opening_tokens(torch.cat(opened), harmful, SHARE)
    words = tuple(facts.tokenizer.decode([token]).strip() for token in refusal_ids.tolist())
    counts = (int(harmful.sum()), int((~harmful).sum()))
    candidates = Candidates(means[1:], means[:1], POSITIONS, *counts, provenance(model, fit))
    direction = choose(candidates, figures_of(POSITIONS, every, measured), max_depth=MAX_DEPTH)
    return Selection(direction, words, len(fit), len(held_out))


def show(result: Selection) -> None:
    """Print the table of candidates."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"Layer {result.direction.layer}, strength {result.direction.strength:.2f}: chosen on {result.n_held_out} "
        f"held-out prompts, fitted on {result.n_fit}. Refusals open with: {', '.join(result.words)}."
    )
    table = Table("layer", "bypass", "induce", "KL, ablated", "strength", "gain, nats", "AUROC", "", box=None)
    for row in result.direction.table:
        cells = [row[name] for name in ("bypass", "induce", "kl_ablate", "strength", "gain", "auroc")]
        shown = ["-" if value != value else f"{value:.2f}" for value in cells]
        table.add_row(str(row["layer"]), *shown, "chosen" if row["chosen"] else row["reason"])
    console.print(table)
