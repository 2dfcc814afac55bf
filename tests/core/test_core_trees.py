"""Prompts as prefix trees: what a model computes there is what it computes on rows, or it is not used."""

from typing import Any

import pytest
import torch
from counting import counted
from tiny import FAMILIES, tiny_model

from refusal_plugin.directions.direction import fit_direction
from refusal_plugin.directions.selection_figures import Figures, sites
from refusal_plugin.directions.selection_remote import Asked, measure
from refusal_plugin.inference.continuation import Stream, copied, grown, per_row, planted, sweep
from refusal_plugin.inference.edits import SITE_ORDER, SiteEdit
from refusal_plugin.inference.scores import Encoded, RefusalTokens, refusal_scores
from refusal_plugin.models import anatomy, load
from refusal_plugin.prompts import Prompt, PromptSet, encode
from refusal_plugin.prompts.tree import trees
from refusal_plugin.traced.resume import ablate_rows

IDS = torch.tensor([50, 51])
# One is the beginning of another, and two are the same.
TEXTS = ("w1 w2 w3", "w1 w2 w7 w8 w9 w10", "w1 w2 w3 w4 w5", "w11 w12", "w11 w12")
# A window of a few tokens (Mistral, Gemma, EXAONE), distances in the row (BLOOM), a recurrence (Qwen3-Next): their own
# masks or none, so the trial has to send them back to rows.
ROWS_ONLY = ("mistral", "gemma2", "gemma3", "gemma3_multimodal", "exaone4", "bloom", "qwen3_next")


def encoded_of(model: Any) -> Encoded:
    return Encoded.of(model, [Prompt(text, id=str(k)) for k, text in enumerate(TEXTS)])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma3n"])
def test_every_architecture_gives_the_same_or_stays_with_rows(family: str) -> None:
    module, tokenizer = tiny_model(family)
    model = load(module, tokenizer=tokenizer)
    encoded, facts = encoded_of(model), anatomy(model)
    plain = refusal_scores(model, encoded, IDS, keep_logits=True)
    assert plain.logits is not None
    found = grown(model, encoded, plain.logits)
    assert (found is None) == (family in ROWS_ONLY)
    if found is None:
        return
    units = torch.nn.functional.normalize(
        torch.randn(3, facts.d_model, generator=torch.Generator().manual_seed(0)), dim=-1
    )

    def parts(chunk: slice, size: int) -> list[SiteEdit]:
        unit = per_row(units[chunk], size)
        every = [(layer, site) for layer in range(facts.n_layers) for site in SITE_ORDER]
        return [SiteEdit(layer, site, ablate_rows, {"unit": unit}) for layer, site in every]

    options: dict[str, Any] = {"reference": plain.logits, "keep_residual": True, "token_budget": 70}
    rows, tree = (sweep(model, run, IDS, 3, parts=parts, **options) for run in (encoded, found))
    for name in ("score", "kl", "residual"):
        torch.testing.assert_close(getattr(tree, name), getattr(rows, name), atol=1e-4, rtol=1e-4)
    begun = [Stream(model, run).to(1) for run in (encoded, found)]
    rows, tree = (sweep(model, one.prompts, IDS, 3, begin=one, added=units, **options) for one in begun)
    for name in ("score", "kl", "residual"):
        torch.testing.assert_close(getattr(tree, name), getattr(rows, name), atol=1e-4, rtol=1e-4)


def test_trees_that_are_wrong_are_not_used() -> None:
    """The trial can fail, also where the model takes the mask: logits of other prompts are no proof."""
    module, tokenizer = tiny_model("qwen2")
    model = load(module, tokenizer=tokenizer)
    encoded = encoded_of(model)
    logits = refusal_scores(model, encoded, IDS, keep_logits=True).logits
    assert logits is not None
    assert grown(model, encoded, logits) is not None
    assert grown(model, encoded, logits.flip(0)) is None
    assert grown(model, encoded, torch.full_like(logits, float("nan"))) is None


def test_some_of_the_prompts_are_numbered_anew() -> None:
    module, tokenizer = tiny_model("qwen2")
    model = load(module, tokenizer=tokenizer)
    encoded = encoded_of(model)
    plain = refusal_scores(model, encoded, IDS, keep_logits=True).logits
    assert plain is not None
    found = grown(model, encoded, plain[[2, 0, 4]], rows=[2, 0, 4])
    assert found is not None and [p.id for p in found.prompts] == ["2", "0", "4"]
    kl = sweep(model, found, IDS, 1, reference=plain[[2, 0, 4]]).kl
    assert float(kl.abs().max()) < 1e-6
    assert planted(model, encoded, rows=[]) is None


def test_media_and_prompts_without_a_common_beginning_stay_rows(organism: Any, few: Any) -> None:
    assert planted(organism, Encoded.of(organism, few["image"])) is None
    module, tokenizer = tiny_model("qwen2")
    model = load(module, tokenizer=tokenizer)
    alone = Encoded.of(model, [Prompt(" ".join(f"w{k}" for k in range(40)))])
    assert planted(model, alone) is None, "one prompt shares nothing"
    batch = encode(organism, ["hello"])
    batch.inputs["token_type_ids"] = torch.ones_like(batch.inputs["input_ids"])
    limits = {"width": 128, "head": 32, "most": 64, "budget": 64}
    assert trees([([0], batch)], **limits, dtype=torch.float32, keep=[0]) is None, "a token has a type"


def test_ends_of_copies() -> None:
    ends = torch.tensor([[0, 5], [1, 4], [1, 5]])
    assert copied(ends, 2, 2).tolist() == [[0, 5], [1, 4], [1, 5], [2, 5], [3, 4], [3, 5]]


def test_selection_runs_on_trees(organism: Any, candidates: Any, val: PromptSet, tokens: Any) -> None:
    """Fewer tokens than in rows without any padding, one batch for all candidates of a layer, the same figures."""
    figures = Figures(organism, candidates, val, tokens)
    run = figures.harmful
    assert run.tree is not None and figures.benign.tree is not None and figures.safe.tree is not None
    real = sum(batch.n_tokens for _, batch in run.wide.batches)
    nodes = sum(batch.n_tokens for _, batch in run.tree.batches)
    assert nodes < real
    places = [(1, -1), (2, -1)]
    with counted(organism) as found:
        mine = figures.bypass(places, "project_out", keep_residual=True)
    assert (found.passes, found.tokens) == (1, len(places) * nodes)
    figures = Figures(organism, candidates, val, tokens)
    object.__setattr__(figures.harmful, "tree", None)
    plain = figures.bypass(places, "project_out", keep_residual=True)
    torch.testing.assert_close(mine.score, plain.score, atol=1e-3, rtol=1e-4)
    assert mine.residual is not None and plain.residual is not None
    torch.testing.assert_close(mine.residual, plain.residual, atol=1e-3, rtol=1e-4)


def test_a_direction_is_removed_once_between_two_blocks() -> None:
    assert sites(0) == SITE_ORDER and sites(1) == ("attn_out", "mlp_out", "resid_post")


def test_a_model_that_refuses_such_masks_keeps_its_rows_in_a_session_too() -> None:
    """What raises in the middle of a session must not take the session with it."""
    module, tokenizer = tiny_model("qwen2")
    refused = []

    def refuse(_module: Any, _args: Any, kwargs: Any) -> None:
        if kwargs["attention_mask"].ndim == 4:
            refused.append(1)
            raise ValueError("this kernel takes no masks")

    module.register_forward_pre_hook(refuse, with_kwargs=True)
    model = load(module, tokenizer=tokenizer)

    def some(split: str, first: int) -> PromptSet:
        made = []
        for k in range(first, first + 5):
            for role, last in (("harmful", "w30"), ("benign", "w31")):
                text = f"w1 w2 w3 w4 w5 w6 w{k} {last}"
                made.append(Prompt(text, role=role, pair=f"{k}", id=f"{role}-{k}", split=split))  # type: ignore[arg-type]
        return PromptSet(made)

    val = some("val", 12)
    candidates = fit_direction(model, some("train", 7), positions=(-1,), progress=False)
    tokens = RefusalTokens(torch.arange(32), (), 1.0, 0.0, frozenset())
    asked = Asked.of((-1,), candidates.n_layers, objective="causal", max_depth=2.0)
    beside = measure(model, candidates, val, tokens, asked, False)
    assert refused, "trees were tried"
    here = Figures(model, candidates, val, tokens)
    assert here.harmful.tree is None
    places = [(layer, -1) for layer in range(candidates.n_layers)]
    found = here.bypass(places, "project_out", keep_residual=False).score.mean(1)
    torch.testing.assert_close(beside.bypass(places, "project_out", keep_residual=False).score[:, 0], found)
