"""Direct logit attribution: parts add up to the model's own logits through norms, scales and soft caps."""

from pathlib import Path
from typing import Any

import pytest
import torch

from refusal_plugin.errors import DataError
from refusal_plugin.evaluation.refusal_tokens import RefusalTokens
from refusal_plugin.heads import HeadAttribution
from refusal_plugin.heads.logits import answer_tokens, attribute_logits
from refusal_plugin.models import hf_module
from refusal_plugin.prompts import Prompt, PromptSet, encode
from tests.support.tiny import FAMILIES

REFUSE, COMPLY = torch.tensor([7, 9]), torch.tensor([11, 12, 13])
WORDS = PromptSet(Prompt(t, id=t) for t in ("w1 w2 w3", "w4 w5 w6 w7 w8", "w9 w1"))
CANNOT = ("gemma3n", "qwen3_next", "opt_post_norm")


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in CANNOT])
def test_parts_add_up_to_the_models_logits(family: str, tiny: Any) -> None:
    model = tiny(family)
    found = attribute_logits(model, REFUSE, COMPLY, WORDS)
    assert found.conservation_error < 5e-5
    batch = encode(model, list(WORDS))
    with torch.no_grad():
        logits = hf_module(model)(**batch.inputs).logits[:, -1].float()
    expected = logits[:, REFUSE].mean(1) - logits[:, COMPLY].mean(1)
    torch.testing.assert_close(found.total[:, 0], expected, rtol=1e-3, atol=1e-3)


def test_a_tight_soft_cap_is_accounted_for() -> None:
    """Gemma 2 with a cap so tight that ignoring it is off by far."""
    from refusal_plugin.models import load
    from tests.support.tiny import tiny_model

    module, tokenizer = tiny_model("gemma2")
    module.config.final_logit_softcapping = 0.5
    found = attribute_logits(load(module, tokenizer=tokenizer), REFUSE, COMPLY, WORDS)
    assert found.conservation_error < 5e-5
    assert found.total.abs().max() <= 1.0, "two capped logits differ by at most twice the cap"


def test_tokens_of_the_embedded_model(organism: Any) -> None:
    from refusal_plugin.organism.data import organism_prompts

    refuse = torch.tensor(organism.tokenizer.convert_tokens_to_ids(["i"]))
    tokens = RefusalTokens(refuse, ("i",), 1.0, 0.0, frozenset())
    comply = answer_tokens(organism, organism_prompts(split="train", modality="text", limit=12), tokens)
    assert len(comply) and not set(comply.tolist()) & set(refuse.tolist())
    with pytest.raises(DataError, match="both sides"):
        attribute_logits(organism, refuse, refuse, ["x"])
    with pytest.raises(DataError, match="no token"):
        attribute_logits(organism, refuse, comply[:0], ["x"])


def test_its_picture_is_in_its_own_unit(organism: Any, prompts: PromptSet, tmp_path: Path) -> None:
    """A logit difference is no length of the stream: 100 % is how far harmful and benign logits lie apart."""
    refuse, comply = (torch.tensor(organism.tokenizer.convert_tokens_to_ids([word])) for word in ("i", "to"))
    found = attribute_logits(organism, refuse, comply, prompts.filter(modality="text", role=("harmful", "benign")))
    bad, good = (found.total[found.labels.rows(role)].mean() for role in ("harmful", "benign"))
    assert found.whole("text") == pytest.approx(abs(float(bad - good)), rel=1e-4)
    page = found._repr_html_()
    assert "adds to refuse - comply at the last prompt token" in page and "nats of logit" in page
    assert "units of the stream" not in page
    again = HeadAttribution.load(found.save(tmp_path / "logits.safetensors"))
    assert again.unit == "logit" and again.whole("text") == found.whole("text")
