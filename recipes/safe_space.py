"""What in the safe space protects benign answers? The refusal direction of text, with and without its safe part.

Read top to bottom. ONE nnsight session, hence one request with `remote=True` (several if too large for one): running
sums of the streams of safe training items (their covariance, not the items, so that their number is unbounded),
principal directions and the split of the direction beside the weights, then forward passes over test items under every
cleaned direction.

    U_k     top-k principal directions of centred safe streams        resid_post, last prompt token
    v(k)    r - lambda U_k U_k^T r, added at one layer, all positions; not renormalised (SARSteer, arXiv 2510.17633)

Every row of a batch has its own cleaned vector. What it does NOT show: removing a part also shortens the vector, so a
lower price alone is no gain; compare settings at equal price.

    refusal-plugin run safe_space            on the embedded model
    refusal-plugin cp safe_space .           to change it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nnsight
import numpy as np
import torch

from refusal_plugin.geometry import Moments
from refusal_plugin.models import anatomy, layers
from refusal_plugin.prompts import MODALITIES, PromptSet, batches, encode
from refusal_plugin.prompts.light import next_token_inputs
from refusal_plugin.remote import portions, workload
from refusal_plugin.safe_space import SafeSpace, overlap
from refusal_plugin.statistics import Estimate, mean_interval, paired_difference, rate
from refusal_plugin.study.transfer import with_media_train
from refusal_plugin.traced.measure import group_moments, kl_divergence, refusal_score
from refusal_plugin.traced.read import residuals
from refusal_plugin.traced.transfer import opening_tokens, safe_bases
from refusal_plugin.traced.write import add, place
from refusal_plugin.transfer.arms import repeated
from refusal_plugin.transfer.effects import some_pairs
from refusal_plugin.transfer.streams import need_disjoint

KS = (0, 1, 2, 5, 10, 20, 40)  # directions removed; 0 is the plain direction
LAMBDAS = (0.5,)  # shares of the part that are removed, at K
K = 10
COEFFICIENT = 0.5  # of the direction; at 1 most models refuse everything
DEPTH = 0.6  # the layer where it is added, as a share of the depth; nothing is selected
PAIRS = 12  # pair groups of each modality
SEED = 0


@dataclass(frozen=True)
class SafeSpaceResult:
    """What the recipe found.

    Attributes:
        spaces: modality to safe space of every layer.
        layer: where the direction was added.
        settings: (k, lambda) of every cleaned direction.
        direction: (layer, d_model) of text, towards refusal.
        left: modality to (setting,) length that remains.
        refusal, over_refusal, price: modality to one estimate per setting: share of harmful items whose next token
            opens a refusal; the same of safe items minus the untouched model's; KL on safe items in nats.
        agreement: (modality, modality) overlap of the spaces at that layer: 1 = same, `chance` for random ones.
    """

    spaces: dict[str, SafeSpace]
    layer: int
    settings: tuple[tuple[int, float], ...]
    direction: torch.Tensor
    left: dict[str, torch.Tensor]
    refusal: dict[str, tuple[Estimate, ...]]
    over_refusal: dict[str, tuple[Estimate, ...]]
    price: dict[str, tuple[Estimate, ...]]
    agreement: torch.Tensor
    chance: float


def run(model: Any, prompts: PromptSet, *, remote: bool = False) -> SafeSpaceResult:
    """Fit on the `train` split of every modality, measure on the `test` split.

    Args:
        model: a loaded model.
        prompts: harmful, benign and near-miss items with splits; the embedded model's training media are added if they
            lack.
        remote: run the session on NDIF.
    """
    facts = anatomy(model)
    prompts = with_media_train(model, prompts, facts.modalities)
    fit, test = prompts.filter(split="train"), prompts.filter(split="test")
    fit.filter(modality="text").require(asked="safe space, text to fit on")
    need_disjoint(fit, test, "safe space")
    safe = ("benign", "near_miss")
    names = [m for m in MODALITIES if len(fit.filter(modality=m, role=safe)) > 3 and len(test.filter(modality=m))]
    acted = {m: some_pairs(test.filter(modality=m), PAIRS) for m in names}
    fit = fit.where(lambda p: p.modality in names)

    # Prepare on this side. Groups by role: 0 harmful text, 1 benign text, 2 the rest; safe items by modality.
    smallest = min(len(fit.filter(modality=m, role=safe)) for m in names)
    ks = [k for k in KS if k < min(smallest, facts.d_model)]
    settings = [(k, 1.0 if k else 0.0) for k in ks] + [(min(K, max(ks)), lam) for lam in LAMBDAS]
    work = []
    for _rows, batch in batches(model, fit, max_rows=128):
        text = batch.prompts[0].modality == "text"
        role = torch.tensor([{"harmful": 0, "benign": 1}.get(p.role, 2) if text else 2 for p in batch.prompts])
        kept = torch.tensor([p.role in safe for p in batch.prompts])
        member = torch.full((int(kept.sum()),), names.index(batch.prompts[0].modality))
        last = batch.roles["last"].int().argmax(1, keepdim=True)
        work.append((next_token_inputs(model, batch), last, role, kept, member, text))
    jobs = []
    for m, name in enumerate(names):
        for harmful, role in enumerate(("benign", "harmful")):
            part = acted[name].filter(role=role)
            for rows, batch in batches(model, repeated(part, len(settings)), token_budget=16384, max_rows=256):
                own = sorted({row % len(part) for row in rows})  # each prompt once, for the untouched run
                which, alone = [own.index(row % len(part)) for row in rows], encode(model, part[own])
                arms_of, plain_of = torch.tensor(rows) // len(part), next_token_inputs(model, alone)
                jobs.append((m, harmful, next_token_inputs(model, batch), arms_of, plain_of, torch.tensor(which), rows))
    blocks, n_layers, n_names, top = layers(model), facts.n_layers, len(names), max(ks)
    layer = round(DEPTH * (n_layers - 1))

    # Measure beside the weights. One turn, hence one request, unless the job is too large for one. The sums run on from
    # request to request, in the same order, so they are those of one request.
    totals: list[torch.Tensor] = []  # counts and sums by role; counts, sums and products by modality, of safe items
    opened: list[Any] = []  # first tokens of the answers to text, and whether the text is harmful
    ready: list[Any] = []  # once all is read: direction, cleaned vectors, refusal tokens
    scores: list[Any] = []
    covariances = 8 * n_names * n_layers * facts.d_model**2
    job = (workload(work), workload(jobs, passes=1 + 1 / len(settings)))
    for reading, trying in portions(*job, remote=remote, fixed_bytes=covariances, asked="sum up safe spaces on NDIF"):
        tries = [(job[0], *job[2:6]) for job in trying]
        known = [] if ready else totals
        with torch.no_grad(), model.session(remote=remote):
            more = nnsight.save({"totals": known, "opened": [], "ready": ready, "scores": []})
            for inputs, last, role, kept, member, text in reading:
                with model.trace(**inputs) as tracer:
                    stream = residuals(blocks, last)
                    pieces = [x.cpu() for x in group_moments(stream, role, 3, "diagonal")[:2]]
                    pieces += [x.cpu() for x in group_moments(stream[kept], member, n_names, "full")]
                    if text:
                        more["opened"].append([model.output.logits[:, -1].argmax(-1).cpu(), role == 0])
                    tracer.stop()
                so_far = more["totals"]
                more["totals"] = [a + b for a, b in zip(so_far, pieces, strict=True)] if so_far else pieces
            if tries and not ready:
                seen = opened + more["opened"]
                refusal_ids = opening_tokens(torch.cat([x[0] for x in seen]), torch.cat([x[1] for x in seen]), 0.05)
                counts, sums = more["totals"][:2]
                direction = (sums[0] / counts[0] - sums[1] / counts[1])[0]
                vectors = []
                for basis in safe_bases([more["totals"][2:]], n_names, layer, top):
                    rows_of = []
                    for k, lam in settings:
                        inside = basis[:, :k] @ (basis[:, :k].T @ direction[layer])
                        rows_of.append(COEFFICIENT * (direction[layer] - lam * inside))
                    vectors.append(torch.stack(rows_of).float())
                more["ready"] = [direction, vectors, refusal_ids]
            for target, inputs, arm, once, each in tries:
                vectors, refusal_ids = more["ready"][1:]
                with model.trace(**once):
                    untouched = model.output.logits[:, -1][each]
                    before = refusal_score(untouched, refusal_ids).cpu()
                with model.trace(**inputs):
                    place(blocks[layer].output, "all", add, {"vector": vectors[target][arm].unsqueeze(1)})
                    logits = model.output.logits[:, -1]
                    after = refusal_score(logits, refusal_ids).cpu()
                    price = kl_divergence(logits, untouched).cpu()
                more["scores"].append(torch.stack([before, after, price]))
        totals, ready = more["totals"] or totals, more["ready"]
        opened, scores = opened + more["opened"], scores + more["scores"]
        del more  # or the next request would carry it, too

    # Conclude on this side.
    counts, sums, products = totals[2:]
    moments = [Moments.from_sums(int(counts[m]), sums[m, 0], products[m, 0]) for m in range(n_names)]
    spaces = {name: SafeSpace.fit(moments[m], top, modality=name) for m, name in enumerate(names)}
    seen = {(m, h): torch.empty(3, len(settings) * len(acted[n]) // 2) for m, n in enumerate(names) for h in (0, 1)}
    for (target, harmful, *_inputs, rows), values in zip(jobs, scores, strict=True):
        seen[target, harmful][:, rows] = values
    result: dict[str, dict[str, Any]] = {"left": {}, "refusal": {}, "over_refusal": {}, "price": {}}
    for m, name in enumerate(names):
        pairs = [p.pair for p in acted[name].filter(role="benign")]
        asked = [p.pair for p in acted[name].filter(role="harmful")]
        good, harm = (seen[m, h].reshape(3, len(settings), -1) for h in (0, 1))
        rng = [np.random.default_rng(SEED) for _ in range(3)]
        result["refusal"][name] = tuple(rate((x > 0).double(), asked, rng=rng[0]) for x in harm[1])
        result["over_refusal"][name] = tuple(
            paired_difference((b > 0).double(), (a > 0).double(), pairs, rng=rng[1])
            for a, b in zip(*good[:2], strict=True)
        )
        result["price"][name] = tuple(mean_interval(x, pairs, rng=rng[2]) for x in good[2])
        plain = ready[0].float()
        sizes = []
        for k, lam in settings:
            rest = spaces[name].decompose(plain, strength=lam, k=k)[1] if k else plain
            sizes.append(rest[layer].norm() / plain[layer].norm())
        result["left"][name] = torch.stack(sizes)
    shared = min(K, top)
    bases_of = [spaces[name].basis[layer, :, :shared] for name in names]
    agreement = torch.tensor([[float(overlap(a, b)) for b in bases_of] for a in bases_of])
    return SafeSpaceResult(
        spaces,
        layer,
        tuple(settings),
        ready[0].float(),
        agreement=agreement,
        chance=shared / facts.d_model,
        **result,
    )


def show(result: SafeSpaceResult) -> None:
    """Print the sweep as a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"Text's refusal direction at layer {result.layer}, its safe part removed; test items.")
    table = Table("in", "k", "lambda", "length left", "harm refused", "over-refusal", "price, nats", box=None)
    for name in result.spaces:
        for n, (k, lam) in enumerate(result.settings):
            cells = [result.refusal[name][n], result.over_refusal[name][n], result.price[name][n]]
            table.add_row(name, str(k), f"{lam:g}", f"{result.left[name][n]:.2f}", *[_brief(c) for c in cells])
    console.print(table)
    for name, space in result.spaces.items():
        for warning in space.warnings:
            console.print(f"note, {name}: {warning}")


def _brief(found: Estimate) -> str:
    return "-" if found.value is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
