"""A stream that is not one vector per token (Gemma 3n's four AltUp copies) is never taken for one that is."""

from contextlib import nullcontext

import pytest
import torch

from refusal_plugin.directions.direction import Direction
from refusal_plugin.errors import ModelError
from refusal_plugin.heads.projection import project_tokens
from refusal_plugin.inference.activations import collect_activations
from refusal_plugin.inference.answers import generate
from refusal_plugin.inference.edits import Edit, SiteEdit, ablation, addition
from refusal_plugin.inference.prefix import collect_variants
from refusal_plugin.models import anatomy, hf_module, load
from refusal_plugin.prompts import Prompt, encode
from refusal_plugin.traced import write
from tests.support.tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stream_is_one_vector_per_token_or_the_model_says_so(family: str) -> None:
    module, tokenizer = tiny_model(family)
    assert anatomy(load(module, tokenizer=tokenizer)).copies == (4 if family == "gemma3n" else 1)


def test_a_stream_of_copies_is_neither_read_nor_edited_as_if_it_were_one() -> None:
    """Gemma 3n stacks four copies in front of the batch: "the last token" of that would be the last prompt."""
    module, tokenizer = tiny_model("gemma3n")
    model = load(module, tokenizer=tokenizer)
    vector, prompts = torch.ones(32), [Prompt("w1 w2 w3"), Prompt("w4 w5 w6 w7")]
    pushed = addition({1: vector}, where="last")
    direction = Direction(1, -1, harmful=torch.ones(3, 32), benign=torch.zeros(3, 32))
    for refused in (
        lambda: collect_activations(model, prompts, progress=False),
        lambda: generate(model, prompts, pushed, max_new_tokens=1, progress=False),
        lambda: pushed.attached(model).__enter__(),
        lambda: generate(model, prompts, ablation(vector / 6, [0]), max_new_tokens=1, progress=False),
        lambda: collect_variants(model, prompts, (None, "w9"), progress=False),
        lambda: project_tokens(model, direction, prompts),
    ):
        with pytest.raises(ModelError, match=r"4 copies of every token.* attn_out or mlp_out"):
            refused()


def test_what_attention_writes_is_edited_at_the_last_token_of_a_stream_of_copies() -> None:
    """The way out that the error names: each row of a batch gets what it gets alone, and it is not nothing."""
    module, tokenizer = tiny_model("gemma3n")
    model = load(module, tokenizer=tokenizer)
    prompts = [Prompt("w1 w2 w3"), Prompt("w4 w5 w6 w7 w8")]
    pushed = Edit("push", (SiteEdit(1, "attn_out", write.add, {"vector": 3 * torch.ones(32)}, "last"),))

    def logits(chosen: list[Prompt], edit: Edit | None) -> torch.Tensor:
        with torch.no_grad(), edit.attached(model) if edit else nullcontext():
            return hf_module(model)(**encode(model, chosen).inputs).logits[:, -1]

    together, alone = logits(prompts, pushed), torch.cat([logits([p], pushed) for p in prompts])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert float((together - logits(prompts, None)).abs().max()) > 0.1
