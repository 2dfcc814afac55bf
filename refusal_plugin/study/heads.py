"""The section `heads` of results.json: which heads write the direction, what they read, what removing them does.

Heads are ranked by their contrast on the validation split; everything that is reported about them is measured on the
test split, whose pairs are others. Prompts per role and modality are bounded, so that the section costs seconds.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..directions.direction import Direction
from ..errors import RefusalPluginError
from ..evaluation.refusal_tokens import RefusalTokens
from ..heads import HeadAttribution, attribute_heads
from ..heads.causal import Head, HeadAblation
from ..heads.circuits import head_agreement
from ..heads.projection import TokenProjection, project_answer, project_tokens
from ..heads.sources import SPANS, attribute_sources
from ..models import anatomy
from ..models.heads import media_grid
from ..prompts import Prompt, PromptSet, encode
from ..prompts.data_uris import spectrogram

Record = dict[str, Any]

TOP = 4
"""Heads per modality that get the exact columns."""
PROMPTS = 40
"""Most prompts per role and modality."""
DRAWS = 4
"""Random sets of heads in the control."""
TOKENS = 8
"""Length of the answers that are judged without heads: a refusal says so in its first words."""
USUAL = 4
"""Benign text answers, and a quarter of the benign prompts of a modality, that pictures are compared with."""
PICTURED = 3
"""Heads per modality whose attention is drawn."""


def heads_section(
    model: Any, direction: Direction, tokens: RefusalTokens, prompts: PromptSet, shown: Sequence[str], seed: int
) -> Record:
    """Everything the report says about heads.

    Args:
        model: a loaded model.
        direction: the study's direction.
        tokens: the model's refusal tokens.
        prompts: val and test prompts of every modality.
        shown: ids of test prompts to draw, one per modality.
        seed: of bootstrap, permutations and random heads.

    Returns:
        the section; `{"missing": why}` where the model's heads cannot be attributed.
    """
    try:
        return _section(model, direction, tokens, prompts, shown, seed)
    except RefusalPluginError as error:
        return {"missing": str(error)}


def _section(
    model: Any, direction: Direction, tokens: RefusalTokens, prompts: PromptSet, shown: Sequence[str], seed: int
) -> Record:
    used = prompts.filter(role=("harmful", "benign"), split=("val", "test"))
    kinds = [m for m in used.modalities if anatomy(model).takes(m) and _both(used.filter(modality=m, split="test"))]
    kept = [p for m in kinds for split in ("val", "test") for p in _some(used.filter(modality=m, split=split))]
    found = attribute_heads(model, direction, PromptSet(p for p in kept if p.split == "test"), progress=False)
    ranked: dict[str, list[Head]] = {
        m: _rank(model, direction, [p for p in kept if p.split == "val" and p.modality == m]) for m in kinds
    }
    ranked = {m: heads or [(r.layer, r.head) for r in found.top(TOP, m)] for m, heads in ranked.items()}
    compared = head_agreement(found, k=min(5, found.heads.shape[2]), seed=seed) if len(kinds) > 1 else None
    top: list[Record] = []
    removal: list[Record] = []
    for modality in kinds:
        asked = PromptSet(p for p in kept if p.split == "test" and p.modality == modality)
        bench = HeadAblation.of(model, asked, tokens).only("harmful")
        union = list(dict.fromkeys(head for m in (modality, "text") for head in ranked.get(m, [])))
        top += [_row(found, bench, modality, head, direction, seed) for head in union]
        removal.append(_removal(bench, ranked[modality], modality, seed))
    _add_sources(model, direction, kept, top)
    return {
        "layer": direction.layer,
        "layers": direction.layer + 1,
        "n_heads": int(found.heads.shape[2]),
        "norm": float(direction.vector.norm()),
        "conservation_error": found.conservation_error,
        "contrast": {m: _contrast(found, m, seed) for m in kinds},
        "profile": {m: _profile(found, m) for m in kinds},
        "top": top,
        "removal": removal,
        "overlap": [] if compared is None else [vars(row) for row in compared.agreements],
        "silent": [] if compared is None else [vars(row) for row in compared.silent],
        "examples": _examples(model, direction, used, kept, ranked, set(shown)),
    }


def _both(prompts: PromptSet) -> bool:
    return {"harmful", "benign"} <= {p.role for p in prompts}


def _some(prompts: PromptSet) -> list[Prompt]:
    """The first prompts of each role."""
    return [p for role in ("harmful", "benign") for p in list(prompts.filter(role=role))[:PROMPTS]]


def _rank(model: Any, direction: Direction, prompts: list[Prompt]) -> list[Head]:
    if not _both(PromptSet(prompts)):
        return []
    found = attribute_heads(model, direction, prompts, progress=False)
    return [(row.layer, row.head) for row in found.top(TOP)]


def _pictured(ranked: dict[str, list[Head]], modality: str) -> list[Head]:
    """Heads of a picture: the strongest of text first, then the modality's own."""
    mine, text = ranked.get(modality, []), ranked.get("text", [])
    return sorted(dict.fromkeys([*text[:PICTURED], *mine[:PICTURED]]))


def _contrast(found: HeadAttribution, modality: str, seed: int) -> Record:
    cells = found.contrast(modality, seed=seed)
    named = {"value": cells.value, "low": cells.low, "high": cells.high}
    named |= {role: found.mean(role, modality) for role in ("harmful", "benign")}
    return {name: _numbers(value) for name, value in named.items()}


def _profile(found: HeadAttribution, modality: str) -> list[Record]:
    """How the harmful-benign difference is built, layer by layer."""
    bad, good = found.labels.rows("harmful", modality), found.labels.rows("benign", modality)

    def gap(x: torch.Tensor) -> torch.Tensor:
        difference: torch.Tensor = x[bad].mean(0) - x[good].mean(0)
        return difference

    heads, bias, mlp = gap(found.heads[..., 0].sum(-1)), gap(found.bias[..., 0]), gap(found.mlp[..., 0])
    rows = [{"part": "embedding", "layer": None, "value": _number(gap(found.embedding[..., 0]))}]
    for layer in range(len(heads)):
        rows.append({"part": "heads", "layer": layer, "value": _number(heads[layer] + bias[layer])})
        rows.append({"part": "mlp", "layer": layer, "value": _number(mlp[layer])})
    rows.append({"part": "remainder", "layer": None, "value": _number(gap(found.remainder[..., 0]))})
    return rows


def _row(
    found: HeadAttribution, bench: HeadAblation, modality: str, head: Head, direction: Direction, seed: int
) -> Record:
    """One line of the table of heads: direct, contrast and total are three different columns."""
    cells = found.contrast(modality, seed=seed)
    total, zero = (bench.effect([head], modality, kind=kind, seed=seed) for kind in ("mean", "zero"))
    return {
        "layer": head[0],
        "head": head[1],
        "modality": modality,
        "direct": _number(found.mean("harmful", modality)[head]),
        "contrast": _number(cells.value[head]),
        "low": _number(cells.low[head]),
        "high": _number(cells.high[head]),
        "share": _number(cells.value[head] / direction.vector.norm()),
        "total": total.to_json(),
        "total_zero": zero.to_json(),
        "patching": _number(bench.ranking(modality)[head]),
    }


def _removal(bench: HeadAblation, heads: list[Head], modality: str, seed: int) -> Record:
    """The top heads of a modality removed together, against random heads of the same layers."""
    random = [bench.random_heads(heads, seed + draw) for draw in range(DRAWS)]
    scores = [bench.effect(drawn, modality, seed=seed) for drawn in random]
    said = {
        "none": bench.answers([], max_new_tokens=TOKENS, progress=False),
        "top": bench.answers(heads, max_new_tokens=TOKENS, progress=False),
        "random": bench.answers(random[0], max_new_tokens=TOKENS, progress=False),
    }
    return {
        "modality": modality,
        "heads": [list(head) for head in heads],
        "score": bench.effect(heads, modality, seed=seed).to_json(),
        "score_random": [effect.to_json() for effect in scores],
        "refused": {name: bench.refused(answers, modality, seed=seed).to_json() for name, answers in said.items()},
    }


def _add_sources(model: Any, direction: Direction, kept: list[Prompt], top: list[Record]) -> None:
    """Where each top head's contrast comes from, on test prompts; left out where attention cannot be read."""
    heads = sorted({(row["layer"], row["head"]) for row in top})
    try:
        found = attribute_sources(model, direction, [p for p in kept if p.split == "test"], heads, progress=False)
    except RefusalPluginError as error:
        for row in top:
            row["sources"] = {"missing": str(error)}
        return
    sides = {m: [found.shares(role, m) for role in ("harmful", "benign")] for m in found.labels.kinds()}
    for row in top:
        place = heads.index((row["layer"], row["head"]))
        bad, good = sides[row["modality"]]
        row["sources"] = {span: _number(bad[span][place] - good[span][place]) for span in SPANS}


def _examples(
    model: Any,
    direction: Direction,
    prompts: PromptSet,
    kept: list[Prompt],
    ranked: dict[str, list[Head]],
    shown: set[str],
) -> list[Record]:
    """The prompts to draw, each against benign prompts of its modality."""
    found: list[Record] = []
    benign = [p for p in kept if p.split == "test" and p.role == "benign"]
    spoken = [project_answer(model, direction, p).values for p in benign[:USUAL] if p.modality == "text"]
    for prompt in prompts.where(lambda p: p.id in shown):
        same = [p for p in benign if p.modality == prompt.modality][: 4 * USUAL]
        usual = usual_projection(project_tokens(model, direction, same))
        record = _example(model, direction, prompt, _pictured(ranked, prompt.modality), usual)
        words, steps = project_answer(model, direction, prompt)
        level = torch.cat(spoken).mean() if spoken else torch.tensor(0.0)
        record["answer"] = {"words": list(words), "projection": _numbers(steps), "above": _numbers(steps - level)}
        found.append(record)
    return found


def usual_projection(found: TokenProjection) -> Callable[[Sequence[str]], torch.Tensor]:
    """The mean projection of prompts by part: by place from either end in the template, one mean inside the rest.

    Streams lie at different places along the direction at every token of a template, harm or no harm; against this
    baseline only what THIS prompt adds is left.
    """
    rows: dict[tuple[str, int], list[float]] = {}
    for values, spans in zip(found.values, found.spans, strict=True):
        for key, value in zip(_keys(spans), values.tolist(), strict=True):
            rows.setdefault(key, []).append(value)
            rows.setdefault((key[0], 0), []).append(value)
    means = {key: sum(row) / len(row) for key, row in rows.items()}

    def usual(spans: Sequence[str]) -> torch.Tensor:
        return torch.tensor([means.get(key, means.get((key[0], 0), 0.0)) for key in _keys(spans)])

    return usual


def _keys(spans: Sequence[str]) -> list[tuple[str, int]]:
    """Tokens that can be compared between prompts: template tokens by their place, all others by their part."""
    first = next((place for place, span in enumerate(spans) if span != "before"), len(spans))
    keys = []
    for place, span in enumerate(spans):
        if span == "after":
            keys.append((span, place - len(spans)))
        else:
            keys.append((span, place + 1 if span == "before" and place < first else 0))
    return keys


def _example(
    model: Any,
    direction: Direction,
    prompt: Prompt,
    heads: list[Head],
    usual: Callable[[Sequence[str]], torch.Tensor],
) -> Record:
    """One prompt to draw: its tokens along the direction, and what each head takes from each token."""
    along = project_tokens(model, direction, [prompt])
    spans = along.spans[0]
    record: Record = {
        "id": prompt.id,
        "modality": prompt.modality,
        "role": prompt.role,
        "tokens": readable(along.tokens[0], spans, prompt.modality),
        "spans": list(spans),
        "projection": _numbers(along.values[0]),
        "above": _numbers(along.values[0] - usual(spans)),
    }
    if len(prompt.media) == 1:
        inputs, n = encode(model, prompt).inputs, sum(span == "media" for span in spans)
        record["grid"] = list(media_grid(inputs, prompt.modality, n))
        record["picture"] = spectrogram(inputs)
    try:
        found = attribute_sources(model, direction, [prompt], heads, keep_attention=True, progress=False)
    except RefusalPluginError as error:
        return record | {"missing": str(error)}
    record["heads"] = [
        {"layer": at[0], "head": at[1], "values": _numbers(value)}
        for at, value in zip(heads, found.values[0], strict=True)
    ]
    record["attention"] = _numbers(found.attention[0], 3)
    return record


def readable(tokens: Sequence[str], spans: Sequence[str], modality: str) -> list[str]:
    """Tokens of a medium by number: its placeholder says nothing."""
    found, n = [], 0
    for word, span in zip(tokens, spans, strict=True):
        n += span == "media"
        found.append(f"{modality} {n}" if span == "media" else word)
    return found


def _number(value: Any) -> float | None:
    """JSON has no NaN."""
    found = float(value)
    return round(found, 5) if math.isfinite(found) else None


def _numbers(value: torch.Tensor, digits: int = 5) -> list[Any]:
    if value.ndim > 1:
        return [_numbers(row, digits) for row in value]
    return [round(x, digits) if math.isfinite(x) else None for x in value.tolist()]
