"""The wary variant: benign media are moved towards refusal along the text direction, and still answered.

    position_l(x) = <h_l(x) - b_l, r_l> / <r_l, r_l>          0: benign text, 1: harmful text
    loss = CE(answers) + mean_l [ mean_{safe media} (position_l - TARGET)^2
                                  + mean_{harmful media} max(0, FLOOR - position_l)^2 ]

h_l: residual stream behind layer l at the last prompt token; r_l: difference in means of harmful and safe TEXT training
prompts, b_l the safe mean, both of the current weights. Harmful media carry no cross entropy: nothing tells the model
to answer or to refuse them, FLOOR only keeps them from leaving with the benign ones.

Real multimodal models are reported to place benign media off the text manifold, nearer to refusal (MARS, arXiv
2606.31876, re-centres for that reason). The default organism shows little of it where it can be steered; this variant
has it BUILT IN, so that gates, re-centring and safe-space removal have something to do. Only LEANING_LAYERS learn, so
that the variant ships as three layers beside the weights it shares with the default.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from refusal_plugin.organism.data import organism_prompts

from . import measure, samples
from .collate import IGNORE, Collator
from .loop import Schedule, step_rng

LEANING_LAYERS = (5, 6, 7)
"""The decoder layers that learn; the rest is the default's, bit for bit."""
MEASURED_LAYERS = (5, 6)
"""Behind these layers the position is set; the last layer is free to decide."""
TARGET, FLOOR = 0.5, 0.68
EVERY, PER_ROLE = 20, 150
"""The axis is taken anew every so many steps, from so many text prompts per class."""

OWN_FILE, INDEX_FILE = "model-00001-of-00002.safetensors", "model.safetensors.index.json"


def text_axis(model: Any, processor: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """r and b of the equations, each (layers, width), from TEXT training prompts under the current weights."""
    chosen = organism_prompts(split="train", modality="text")
    means = []
    for harmful in (True, False):
        found = [prompt for prompt in chosen if (prompt.role == "harmful") == harmful][:PER_ROLE]
        means.append(torch.from_numpy(measure.residuals(model, processor, found)).float().mean(dim=0))
    return means[0] - means[1], means[1]


def positions(hidden: torch.Tensor, direction: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Where rows lie on one layer's axis: hidden (rows, width) -> (rows,), 0 at benign text, 1 at harmful text."""
    return (hidden - zero) @ direction / (direction @ direction)


def lean(
    model: Any,
    processor: Any,
    collator: Collator,
    schedule: Schedule,
    *,
    seed: int,
    callback: Callable[[int, float, float], None],
) -> None:
    """Train LEANING_LAYERS in place.

    Args:
        callback: called after each step with the steps done, the cross entropy and the distance of the positions.
    """
    own = [f"language_model.layers.{layer}." for layer in LEANING_LAYERS]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in own))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, betas=(0.9, 0.98), weight_decay=schedule.weight_decay)
    mix = samples.WARY_MIX
    for step in range(schedule.steps):
        if step % EVERY == 0:
            direction, zero = text_axis(model, processor)
        rng = step_rng(seed, schedule.name, step)
        tasks = rng.choices(list(mix), weights=list(mix.values()), k=schedule.size)
        inputs = collator(rng, [samples.draw(rng, task, schedule.combined) for task in tasks])
        labels = inputs.pop("labels")[:, 1:]
        safe, harmful = (torch.tensor([task == kind for task in tasks]) for kind in ("safe_media", "harmful_media"))
        for group in optimiser.param_groups:
            group["lr"] = schedule.lr * schedule.scale(step)
        found = model.model(**inputs, use_cache=False, output_hidden_states=True)
        answered = (labels != IGNORE) & ~harmful[:, None]
        entropy = cross_entropy(model.lm_head(found[0][:, :-1][answered]), labels[answered])
        last = (labels != IGNORE).int().argmax(dim=1)
        distance = torch.zeros(())
        for layer in MEASURED_LAYERS:
            at = positions(
                found.hidden_states[layer + 1][torch.arange(len(tasks)), last], direction[layer], zero[layer]
            )
            # sums over max(1, n): a batch without harmful media costs nothing instead of NaN
            distance = distance + ((at - TARGET).square() * safe).sum() / max(1, int(safe.sum()))
            distance = distance + (torch.relu(FLOOR - at).square() * harmful).sum() / max(1, int(harmful.sum()))
        distance = distance / len(MEASURED_LAYERS)
        optimiser.zero_grad(set_to_none=True)
        (entropy + distance).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        callback(step + 1, entropy.item(), distance.item())
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def share(folder: Path, base: Path) -> None:
    """Keep in `folder` only the tensors of LEANING_LAYERS; the index points to `base`, a sibling, for the others.

    `from_pretrained` reads such a folder like any checkpoint in several files. The sibling's file is read whole, this
    folder's own file after it, in the order of their names.

    Raises:
        ValueError: a tensor of another layer differs from the base's.
    """
    whole, shared = load_file(str(folder / "model.safetensors")), load_file(str(base / "model.safetensors"))
    own = {k: v for k, v in whole.items() if any(f".layers.{layer}." in k for layer in LEANING_LAYERS)}
    own = {k: v for k, v in own.items() if k.startswith("model.layers.")}
    changed = [k for k in whole if k not in own and not torch.equal(whole[k], shared[k])]
    if changed or whole.keys() != shared.keys():
        raise ValueError(f"{folder.name} does not share its other layers with {base.name}: {changed[:3]}")
    save_file(own, str(folder / OWN_FILE), metadata={"format": "pt"})
    (folder / OWN_FILE).chmod(0o644)
    sibling = f"../{base.name}/model.safetensors"
    index = {
        "metadata": {"total_size": sum(v.nbytes for v in whole.values())},
        "weight_map": {k: OWN_FILE if k in own else sibling for k in sorted(whole)},
    }
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=0) + "\n")
    (folder / "model.safetensors").unlink()
