"""The modality gap: what changes in the stream when the same content comes as another medium.

Per layer and modality, on matched content (same pair group and role), against the reference modality (text):

    s_i = h_m,i - h_ref,i        D = mean_i s_i
    shift             |D| / |r|                       in lengths of the reference's refusal direction r
    along             <D, rhat> / |r|                 signed; -1 would undo a whole refusal direction
    share_along       <D, rhat>^2 / |D|^2             the rest, `share_orthogonal`, does not move the refusal coordinate
    translation       |D|^2 / mean_i |s_i|^2          1 = the gap is one translation, 0 = it differs from item to item
    cka               linear CKA of harmful and benign items of the same pairs, debiased; `cka_plain` is the plain form,
                      `cka_shuffled` the plain form with the pairs shuffled: what small sets reach without any relation
    harmful_before    mean coordinate of harmful items minus 1/2: their side of the midpoint between the reference's
                      benign (0) and harmful (1) means; positive is the refusal side
    ..._after         the same once the modality's benign shift (fit part) is subtracted (re-centring, as in MARS,
                      arXiv 2606.31876, with benign items in the place of neutral media)
    norm_ratio, ...   what the modality keeps of the reference's direction, and whether the rest is lost in length or by
                      turning away (`inference.kept`; test items, so that every target has them)

Squared lengths are freed from sampling noise (`contrasts`). Two findings are kept apart by the comprehension gate:
harm that is not SEEN is no gap in REFUSAL, so the refusal gap is given on all items and on those read back correctly.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..contrasts import Contrast, Fitted, GroupMean, empty, product, ratio, row
from ..evaluation import Outcomes
from ..geometry import linear_cka
from ..inference.kept import KEPT, direction_kept
from ..inference.streams import SAFE, Streams
from ..statistics import Estimate, mean_interval, paired_difference, resampled_groups

SHIFT = ("shift", "along", "share_along", "share_orthogonal", "translation")
ALIKE = ("cka", "cka_plain", "cka_shuffled")
MARGIN = ("harmful_before", "safe_before", "harmful_after", "safe_after")
MEASURES = (*SHIFT, *ALIKE, *MARGIN, *KEPT)


def gap_tables(
    test: Mapping[str, Streams],
    fit: Mapping[str, Streams],
    reference: str,
    means: tuple[Float[Tensor, "layer d_model"], Float[Tensor, "layer d_model"]],
    seed: int,
) -> dict[str, Float[Tensor, "modality layer 4"]]:
    """All measures of the module's docstring, per modality of `test` and layer.

    Args:
        test: modality to test streams, the reference among them.
        fit: modality to fit streams; without one, re-centring is not measured.
        reference: the modality whose direction counts, usually text.
        means: mean harmful and mean benign stream of the reference's fit part.
        seed: of the bootstrap.
    """
    harmful, benign = (m.double() for m in means)
    layers = harmful.shape[0]
    found = {name: empty(len(test), layers) for name in MEASURES}
    for m, (name, streams) in enumerate(test.items()):
        if name != reference:
            fill_shift({k: found[k][m] for k in SHIFT}, streams, test[reference], harmful - benign, seed)
            for layer, kept in enumerate(direction_kept(streams, test[reference], seed)):
                for key, one in kept.items():
                    found[key][m, layer] = row(one)
        _alike({k: found[k][m] for k in ALIKE}, streams, seed)
        moved = None
        if name == reference:
            moved = torch.zeros_like(benign)
        elif name in fit:
            moved = fit[name].of("benign").double().mean(0) - benign
        _margins({k: found[k][m] for k in MARGIN}, streams, harmful, benign, moved, seed)
    return found


def matched(streams: Streams, reference: Streams) -> tuple[Float[Tensor, "n layer d_model"], list[str]]:
    """Stream of each item minus the mean stream of the reference's items with the same pair and role, and its pair."""
    places: dict[tuple[str, str | None], list[int]] = {}
    for k, p in enumerate(reference.prompts):
        places.setdefault((p.pair, p.role), []).append(k)
    rows = [k for k, p in enumerate(streams.prompts) if (p.pair, p.role) in places]
    keys = [(streams.prompts[k].pair, streams.prompts[k].role) for k in rows]
    if not rows:
        return streams.values[:0], []
    twins = torch.stack([reference.values[places[key]].double().mean(0) for key in keys])
    return streams.values[rows].double() - twins, [pair for pair, _ in keys]


def fill_shift(
    found: Mapping[str, Tensor], streams: Streams, reference: Streams, r: Float[Tensor, "layer d_model"], seed: int
) -> None:
    """Fill in the rows of one modality; `r` is the reference's direction."""
    shifts, pairs = matched(streams, reference)
    groups = sorted(set(pairs))
    if len(groups) < 3:
        return
    n = len(pairs)
    weights = torch.from_numpy(resampled_groups(len(groups), rng=np.random.default_rng(seed), resamples=1000))
    mean = Contrast(GroupMean.of(shifts, pairs, groups))
    squares = GroupMean.of(shifts.square().sum(-1)[:, :, None], pairs, groups)
    for layer in range(r.shape[0]):
        size = r[layer].norm()
        along = Fitted.of(mean, weights, layer)
        whole = product(along, along, weights)
        inside = along.through((r[layer] / size)[:, None])
        part = product(inside, inside, weights)
        groups_n = len(groups)
        share = ratio(part, whole, groups_n, n)
        found["share_along"][layer] = row(share)
        if share.value is not None and share.low is not None and share.high is not None:
            found["share_orthogonal"][layer] = row(Estimate(1 - share.value, 1 - share.high, 1 - share.low, n))
        spread = (float(squares.mean[layer]), squares.resampled(weights, layer)[:, 0])
        found["translation"][layer] = row(ratio(whole, spread, groups_n, n))
        length = ratio(whole, (float(size**2), torch.full_like(whole[1], float(size**2))), groups_n, n, (0.0, 1e9))
        root = row(length)
        root[:3] = root[:3].sqrt()
        found["shift"][layer] = root
        coordinates = shifts[:, layer] @ (r[layer] / size**2)
        found["along"][layer] = row(mean_interval(coordinates, pairs, rng=np.random.default_rng(seed), resamples=1000))


def _alike(found: Mapping[str, Tensor], streams: Streams, seed: int) -> None:
    """CKA of the harmful and the benign item of each pair."""
    firsts: dict[tuple[str, str | None], int] = {}
    for k, p in enumerate(streams.prompts):
        firsts.setdefault((p.pair, p.role), k)
    pairs = [pair for pair, role in firsts if role == "harmful" and (pair, "benign") in firsts]
    if len(pairs) < 8:
        return
    x = streams.values[[firsts[pair, "harmful"] for pair in pairs]].double()
    y = streams.values[[firsts[pair, "benign"] for pair in pairs]].double()
    n, rng = len(pairs), np.random.default_rng(seed)
    orders = [torch.from_numpy(rng.permutation(n)) for _ in range(20)]
    for layer in range(x.shape[1]):
        a, b = x[:, layer], y[:, layer]
        found["cka"][layer] = row(_jackknife(a, b))
        plain = linear_cka(a, b)
        found["cka_plain"][layer] = row(Estimate(plain, plain, plain, n))
        null = [linear_cka(a, b[order]) for order in orders]
        low, high = np.quantile(null, [0.025, 0.975])
        found["cka_shuffled"][layer] = row(Estimate(float(np.mean(null)), float(low), float(high), n))


def _jackknife(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Estimate:
    """Debiased CKA with a jackknife interval: a bootstrap would draw pairs twice, which CKA takes for likeness."""
    n = len(a)
    value = linear_cka(a, b, debiased=True)
    every = torch.arange(n)
    left = torch.tensor([linear_cka(a[every != k], b[every != k], debiased=True) for k in range(n)])
    half = 1.96 * float(((left - left.mean()).square().sum() * (n - 1) / n).sqrt())
    return Estimate(value, max(-1.0, value - half), min(1.0, value + half), n)


def _margins(
    found: Mapping[str, Tensor],
    streams: Streams,
    harmful: Float[Tensor, "layer d_model"],
    benign: Float[Tensor, "layer d_model"],
    moved: Float[Tensor, "layer d_model"] | None,
    seed: int,
) -> None:
    """Distance of harmful and of safe items from the midpoint, before and after re-centring."""
    r = harmful - benign
    for side, roles in (("harmful", ("harmful",)), ("safe", SAFE)):
        pairs = streams.pairs(*roles)
        if len(set(pairs)) < 2:
            continue
        x = streams.of(*roles).double() - benign
        for when, values in (("before", x), ("after", None if moved is None else x - moved)):
            if values is None:
                continue
            place = (values * r).sum(-1) / r.square().sum(-1) - 0.5
            for layer in range(r.shape[0]):
                rng = np.random.default_rng(seed)
                found[f"{side}_{when}"][layer] = row(mean_interval(place[:, layer], pairs, rng=rng, resamples=1000))


def refusal_gap(
    reference: Outcomes, target: Outcomes, understood: frozenset[str] | None, seed: int
) -> dict[str, Estimate | int | None]:
    """How much less a modality's harmful items are refused than the same content in the reference.

    Args:
        reference, target: undefended outcomes on test items.
        understood: ids of the target's items that were read back correctly; None if nobody asked.
        seed: of the bootstrap.

    Returns:
        "ungated" and "gated" estimates (reference minus target, paired by pair group), "dropped" and "n".
    """
    text: dict[str, list[bool]] = {}
    for hit, pair in zip(*reference.refused("harmful"), strict=True):
        text.setdefault(pair, []).append(hit)
    hits, pairs = target.refused("harmful")
    ids = [p.id for p in target.prompts if p.role == "harmful"]
    rows = [
        (float(np.mean(text[pair])), float(hit), pair, i)
        for hit, pair, i in zip(hits, pairs, ids, strict=True)
        if pair in text
    ]

    def gap(kept: Sequence[tuple[float, float, str, str]]) -> Estimate:
        if len({pair for _, _, pair, _ in kept}) < 2:
            return Estimate.missing(len(kept))
        first, second, groups, _ = zip(*kept, strict=True)
        return paired_difference(first, second, groups, rng=np.random.default_rng(seed))

    if understood is None:
        return {"ungated": gap(rows), "gated": Estimate.missing(len(rows)), "dropped": None, "n": len(rows)}
    kept = [r for r in rows if r[3] in understood]
    return {"ungated": gap(rows), "gated": gap(kept), "dropped": len(rows) - len(kept), "n": len(rows)}
