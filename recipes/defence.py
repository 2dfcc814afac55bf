"""Can a direction found in text alone keep a model from answering harm it is shown or told? MARS, step by step.

Read top to bottom. One nnsight session, so one request (several if it is too large): streams of text and of meaningless
media are read, MARS (arXiv 2606.31876) is fitted on them between the traces, and the test prompts are answered without
and with it. No real medium is seen before the test. Strength is the paper's kappa = 1; `refusal-plugin compare` sets it
by price instead.

    refusal-plugin run defence            on the embedded model
    refusal-plugin cp defence .           to change it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nnsight
import torch

from refusal_plugin.evaluation import DefenceRates, Power, label_answers, rate_changes, refusal_rates, statistical_power
from refusal_plugin.inference.answers import Answer, end_ids
from refusal_plugin.models import anatomy, layers
from refusal_plugin.prompts import Prompt, PromptSet, batches
from refusal_plugin.prompts.neutral import neutral_prompts
from refusal_plugin.remote import portions, workload
from refusal_plugin.traced.gate import mars
from refusal_plugin.traced.read import residuals
from refusal_plugin.traced.write import place

N_TEXTS, N_MEDIA = 16, 4  # texts (half harmful) and meaningless media beside each, for the re-centring
DEPTH = 0.8  # layers that may be chosen
SETTINGS = {"max_new_tokens": 24, "do_sample": False}


@dataclass(frozen=True)
class Defended:
    """What the recipe found.

    Attributes:
        layer: where the step is taken, chosen on text.
        scores: per tried layer, the sum of the three normalised selection curves.
        before, after: rates by modality, without and with the defence.
        powers: by modality, what the test prompts can show.
    """

    layer: int
    scores: tuple[float, ...]
    before: dict[str, DefenceRates]
    after: dict[str, DefenceRates]
    powers: dict[str, Power]


def run(model: Any, prompts: PromptSet, *, remote: bool = False, strength: float = 1.0) -> Defended:
    """Fit MARS on text (train and val) and neutral media, and answer the test prompts.

    Args:
        model: a loaded model.
        prompts: with roles and splits.
        remote: run the session on NDIF.
        strength: kappa; 1 is the paper's.
    """
    facts, blocks = anatomy(model), layers(model)
    text = prompts.filter(modality="text", role=("harmful", "benign"))
    fit = text.filter(split="train").require(asked="fit MARS on text of 'train'")
    held = text.filter(split="val").require(asked="select the layer on text of 'val'")
    test = prompts.filter(split="test").require(roles=("harmful",), asked="test the defence")
    media = [m for m in facts.modalities if m != "text" and len(test.filter(modality=m))]

    # Prepare on this side: render, tokenise, pad. Only tensors go into the session.
    some = [p for role in ("harmful", "benign") for p in list(fit.filter(role=role))[: N_TEXTS // 2]]  # type: ignore[arg-type]
    neutral = {m: neutral_prompts(some, m, N_MEDIA, like=prompts.filter(modality=m)) for m in media}
    chosen: list[Prompt] = [*fit, *held, *(p for m in media for p in neutral[m])]
    reading = [(rows, b.inputs, b.last) for rows, b in batches(model, chosen)]
    asking = [(rows, b.inputs, b.prompts[0].modality, b.length) for rows, b in batches(model, test)]
    calls = [(inputs, modality) for _rows, inputs, modality, _length in asking]

    is_fit = torch.arange(len(chosen)) < len(fit)
    is_held = ~is_fit & (torch.arange(len(chosen)) < len(fit) + len(held))
    harmful = torch.tensor([p.role == "harmful" for p in chosen])
    places = {p.id: row for row, p in enumerate(fit)}
    start = len(fit) + len(held)
    beside = {}  # per medium: rows of the neutral prompts, and rows of the same texts without a medium
    for m in media:
        n = len(neutral[m])
        beside[m] = (list(range(start, start + n)), [places[p.id] for p in some for _ in range(n // len(some))])
        start += n
    shape, tried = (len(chosen), facts.n_layers, facts.d_model), range(int(DEPTH * facts.n_layers + 0.999))

    # One session: read, fit, answer; one turn, hence one request, unless the job is too large for one. No blank line,
    # comment line or statement of several lines inside: in a session that is sent they are lost, and nnsight 0.8 then
    # no longer finds the block behind a `generate`.
    seen: list[Any] = []
    said: dict[str, list[Any]] = {"plain": [], "defended": []}
    scores, layer = [], 0
    order = [rows for rows, _inputs, _last in reading]
    work = [
        workload([(inputs, last) for _rows, inputs, last in reading], row_bytes=4 * shape[1] * shape[2]),
        workload(calls, passes=2, new_tokens=2 * SETTINGS["max_new_tokens"]),
    ]
    for reads, asks in portions(*work, remote=remote):
        with torch.no_grad(), model.session(remote=remote):
            more = nnsight.save({"seen": [], "scores": [], "layer": 0, "plain": [], "defended": []})
            for inputs, last in reads:
                with model.trace(**inputs) as tracer:
                    more["seen"].append(residuals(blocks, last)[:, 0].cpu())
                    tracer.stop()
            if asks:
                stream = torch.empty(shape)
                for rows, values in zip(order, seen + more["seen"], strict=True):
                    stream[rows] = values
                unsafe, safe = stream[is_fit & harmful], stream[is_fit & ~harmful]  # S0: the direction, per layer
                mu_u, mu_s = unsafe.mean(0), safe.mean(0)
                r = mu_u - mu_s
                norm = r.norm(dim=-1)
                unit = r / norm.unsqueeze(-1)
                rows_of_curves = []  # S4: the layer, by three curves on held-out text
                for k in tried:
                    bad, good = stream[is_held & harmful][:, k], stream[is_held & ~harmful][:, k]
                    high, low = bad @ unit[k], good @ unit[k]
                    consistency = torch.nn.functional.cosine_similarity(bad - mu_s[k], r[k].unsqueeze(0), dim=-1).mean()
                    separability = (high.unsqueeze(1) > low.unsqueeze(0)).float().mean()
                    safety = (torch.quantile(high, 0.05) - torch.quantile(low, 0.95)) / norm[k]
                    rows_of_curves.append(torch.stack([consistency, separability, safety]))
                curves = torch.stack(rows_of_curves)
                span = (curves.max(0).values - curves.min(0).values).clamp_min(1e-12)
                more["scores"] = ((curves - curves.min(0).values) / span).sum(1).tolist()
                layer = more["layer"] = max(tried, key=more["scores"].__getitem__)
                centres = {"text": (mu_u[layer] + mu_s[layer]) / 2}
                for m in media:  # S1: what a medium does to the stream just by being there
                    with_medium, without = beside[m]
                    centres[m] = centres["text"] + (stream[with_medium] - stream[without]).mean(0)[layer]
                middle, u = centres["text"], unit[layer]
                margin = float(torch.quantile((safe[:, layer] - middle) @ u, 0.95))  # S2: of the gate
                reach = float(torch.quantile((unsafe[:, layer] - middle) @ u, 0.95))  # S3: of the step
                gate = {"unit": u, "margin": margin, "reach": reach, "norm": float(norm[layer]), "target": 0.0}
                gate |= {"safe": mu_s[layer] - middle, "unsafe": mu_u[layer] - middle}
                gate |= {"strength": strength, "gate": "hard", "mode": "distance"}
            for inputs, modality in asks:
                with model.generate(**inputs, **SETTINGS) as tracer:
                    more["plain"].append(tracer.result.cpu())
                with model.generate(**SETTINGS) as tracer:
                    with tracer.invoke(**inputs):  # S5: one gated step, prefill only
                        place(blocks[layer].output, "last", mars, {"centre": centres[modality], **gate})
                    with tracer.invoke():
                        more["defended"].append(tracer.result.cpu())
        seen = seen + more["seen"]
        said = {name: said[name] + more[name] for name in said}
        scores, layer = (more["scores"], more["layer"]) if asks else (scores, layer)
        del more  # or the next request would carry it, too

    # Conclude on this side.
    before, after, powers = {}, {}, {}
    spoken = [answers(model, test, asking, said[name]) for name in ("plain", "defended")]
    for m in ("text", *media):
        here = [row for row, p in enumerate(test) if p.modality == m]
        if not here:
            continue
        first, second = (label_answers(test[here], [found[row] for row in here]) for found in spoken)
        before[m], after[m], powers[m] = refusal_rates(first), rate_changes(second, first), statistical_power(first)
    return Defended(int(layer), tuple(scores), before, after, powers)


def answers(model: Any, prompts: PromptSet, asking: list[Any], generated: list[torch.Tensor]) -> list[Answer]:
    """Decoded answers in the order of the prompts."""
    tokenizer, stop = anatomy(model).tokenizer, end_ids(model)
    found: dict[int, Answer] = {}
    for (rows, _inputs, _modality, length), ids in zip(asking, generated, strict=True):
        for row, new in zip(rows, ids[:, length:].tolist(), strict=True):
            end = next((k for k, token in enumerate(new) if token in stop), len(new))
            text = tokenizer.decode(new[:end], skip_special_tokens=True).strip()
            found[row] = Answer(prompts[row].id, text, tuple(new[:end]), end < len(new))
    return [found[row] for row in range(len(prompts))]


def show(result: Defended) -> None:
    """Print the result as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "test prompts", "harmful refused", "gain [95 %]", "near miss", "benign", box=None, header_style="bold"
    )
    for name, after in result.after.items():
        both = [
            f"{100 * (old.value or 0):.0f} -> {100 * (new.value or 0):.0f} %"
            for old, new in (
                (getattr(result.before[name], key), getattr(after, key))
                for key in ("harmful_refusal", "near_miss_refusal", "benign_refusal")
            )
        ]
        table.add_row(name, both[0], str(after.gain), both[1], both[2])
    console = Console()
    console.print(f"MARS at layer {result.layer}, chosen on text. Before -> after:")
    console.print(table)
    for name, found in result.powers.items():
        if found.words:
            console.print(f"{name}: {found.words}.")
