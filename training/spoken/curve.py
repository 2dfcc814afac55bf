"""Refusal against reading: the same measurements at every checkpoint of the projector.

    python -m training.spoken.curve CHECKPOINT... --out FILE      (the model "spoken" is in the cache)

The text direction is fitted on half of the matched twins in text; its layer is the one whose AUROC is highest on a few
more pairs. Test pairs are asked in text once, and spoken by held-out voices at every checkpoint:

    recall        share of the words of held-out sentences that come back when the model is asked to repeat them
    refused       share of harmful and of safe twins that are refused
    coordinate    mean along the text direction, in units of the gap between harmful and safe text (0 safe, 1 harmful)
    auroc         harmful against safe twins along it
"""

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import refusal_plugin as rp
from refusal_plugin import progress
from refusal_plugin.prompts.twins import twins
from refusal_plugin.statistics import auroc, auroc_interval, rate

from .sentences import instructions
from .voices import draw_speaker, speak

FIT, SELECT, TEST, READ = 40, 12, 24, 16
CARRIER, REPEAT = "Answer what was said.", "Repeat what was said, word by word."
Record = dict[str, Any]


def words(text: str) -> Counter[str]:
    """Words without case and punctuation."""
    return Counter(re.findall(r"[a-z0-9']+", text.lower()))


def word_recall(said: Sequence[str], heard: Sequence[str]) -> list[float]:
    """Per sentence, the share of its words that came back."""
    pairs = [(words(a), words(b)) for a, b in zip(said, heard, strict=True)]
    return [(a & b).total() / a.total() for a, b in pairs]


def spoken(prompts: rp.PromptSet, carrier: str) -> rp.PromptSet:
    """The same prompts said aloud by held-out voices, with a carrier in text."""
    return rp.PromptSet(
        p.replace(text=carrier, audio=speak(p.text, draw_speaker("held_out", random.Random(p.id))), id=f"{p.id}-said")
        for p in prompts
    )


def drawn() -> dict[str, rp.PromptSet]:
    """Twins to fit, to select and to test, split by pair."""
    pairs = sorted({p.pair for p in twins()})
    random.Random(1).shuffle(pairs)
    cuts = {"fit": pairs[:FIT], "select": pairs[FIT : FIT + SELECT], "test": pairs[FIT + SELECT :][:TEST]}
    return {name: rp.PromptSet(p for p in twins() if p.pair in some) for name, some in cuts.items()}


def at(model: Any, prompts: rp.PromptSet) -> torch.Tensor:
    """Streams at the last prompt token: (prompt, layer, d)."""
    return rp.collect_activations(model, prompts, positions=(-1,)).values[:, 0].float()


def along(model: Any, prompts: rp.PromptSet, layer: int, harmful: torch.Tensor, safe: torch.Tensor) -> Record:
    """Coordinates, AUROC and refusals of prompts."""
    unit = (harmful - safe) / (harmful - safe).square().sum()
    where = (at(model, prompts)[:, layer] - safe) @ unit
    answers = rp.generate(model, prompts, max_new_tokens=14)
    refused = [label == "refusal" for label in rp.PhraseJudge.for_model(model).label(list(prompts), answers)]
    roles = {role: [n for n, p in enumerate(prompts) if p.role == role] for role in ("harmful", "near_miss")}
    pairs = [p.pair for p in prompts]
    harm, calm = roles["harmful"], roles["near_miss"]
    groups = ([pairs[n] for n in harm], [pairs[n] for n in calm])
    found: Record = {"auroc": auroc_interval(where[harm], where[calm], *groups, rng=np.random.default_rng(0)).to_json()}
    for role, rows in roles.items():
        share = rate([refused[n] for n in rows], [pairs[n] for n in rows], rng=np.random.default_rng(0))
        found[role] = {"coordinate": float(where[rows].mean()), "refused": share.to_json()}
    return found


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    progress.speak("lines")
    torch.set_flush_denormal(True)
    model = rp.load("spoken")
    sets = drawn()
    means = {role: at(model, sets["fit"].filter(role=role)).mean(0) for role in ("harmful", "near_miss")}
    direction = means["harmful"] - means["near_miss"]
    streams = at(model, sets["select"])
    chosen, best = 0, -1.0
    for layer in range(int(0.8 * len(direction))):
        where = streams[:, layer] @ direction[layer]
        bad = [n for n, p in enumerate(sets["select"]) if p.role == "harmful"]
        good = [n for n, p in enumerate(sets["select"]) if p.role == "near_miss"]
        value = auroc(where[bad], where[good])
        chosen, best = (layer, value) if value > best else (chosen, best)
    ends = (means["harmful"][chosen], means["near_miss"][chosen])
    results: Record = {
        "layer": chosen,
        "n_pairs": {name: len(some) // 2 for name, some in sets.items()},
        "text": along(model, sets["test"], chosen, *ends),
        "checkpoints": [],
    }
    said = [s.text for s in instructions(READ, "held_out")]
    aloud, read = spoken(sets["test"], CARRIER), spoken(rp.PromptSet(rp.Prompt(text) for text in said), REPEAT)
    for path in asked.checkpoints:
        projector = model._module.model.multi_modal_projector
        projector.load_state_dict(
            {name: value.to(projector.linear_1.weight) for name, value in load_file(path).items()}
        )
        heard = [answer.text for answer in rp.generate(model, read, max_new_tokens=24)]
        shares = word_recall(said, heard)
        row = {"checkpoint": path.stem, "recall": sum(shares) / len(shares), "n_read": len(shares)}
        results["checkpoints"].append(row | along(model, aloud, chosen, *ends))
        results["checkpoints"].sort(key=lambda row: row["checkpoint"])
        asked.out.write_text(json.dumps(results, indent=1) + "\n")
        progress.say(f"{path.stem}: recall {row['recall']:.2f}")


if __name__ == "__main__":
    main()
