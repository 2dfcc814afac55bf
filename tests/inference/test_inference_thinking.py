"""Thinking on and off, and what is read before and behind it, on a model whose next word is planted."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from refusal_plugin.directions.direction import template_positions
from refusal_plugin.errors import PromptError
from refusal_plugin.inference.activations import collect_activations
from refusal_plugin.inference.answers import generate
from refusal_plugin.inference.edits import Edit, SiteEdit
from refusal_plugin.inference.thinking import thought
from refusal_plugin.models import load
from refusal_plugin.prompts import Prompt, encode, render
from refusal_plugin.prompts.input_spec import input_spec_of
from refusal_plugin.traced import write

TEMPLATE = (
    "{% for m in messages %}<|start|> {{ m['role'] }} {{ m['content'] }} <|end|> {% endfor %}"
    "{% if tools %}tools {{ tools | map(attribute='name') | join(' ') }} {% endif %}"
    "{% if add_generation_prompt %}<|start|> assistant "
    "{% if enable_thinking is defined and not enable_thinking %}<think> </think> {% endif %}{% endif %}"
)
WORDS = ["<|pad|>", "<|unk|>", "<|start|>", "<|end|>", "<think>", "</think>", "user", "assistant", "tools", "find"]
WORDS += ["how", "bake", "kill", "hmm", "well", "bread", "sorry", "no"]
NEXT = {"assistant": "<think>", "<think>": "hmm", "hmm": "well", "well": "</think>", "</think>": "bread"}
NEXT |= {"bread": "<|end|>", "sorry": "<|end|>"}


@dataclass
class Thinker:
    """A model that says what `NEXT` says, and the embedding of every word."""

    model: Any
    embedding: torch.Tensor

    def towards(self, said: str, instead: str, strength: float = 4.0) -> Edit:
        """An edit of the newest token of the prompt that makes one word another."""
        move = self.embedding[WORDS.index(instead)] - self.embedding[WORDS.index(said)]
        part = SiteEdit(1, "resid_post", write.add, {"vector": move, "strength": strength}, "last")
        return Edit("turn", (part,), "prefill")


@pytest.fixture(scope="module")
def thinker() -> Thinker:
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<|unk|>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<|pad|>", "unk_token": "<|unk|>", "eos_token": "<|end|>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, additional_special_tokens=["<|start|>"], chat_template=TEMPLATE, **names
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    module = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=64, **sizes)).eval()
    embedding = torch.linalg.qr(torch.randn(32, 32)).Q[: len(WORDS)]
    with torch.no_grad():
        for layer in module.model.layers:  # a word's stream stays its embedding
            layer.self_attn.o_proj.weight.mul_(1e-3)
            layer.mlp.down_proj.weight.mul_(1e-3)
        module.model.embed_tokens.weight.copy_(embedding)
        module.lm_head.weight.zero_()
        for word, following in NEXT.items():
            module.lm_head.weight[WORDS.index(following)] += embedding[WORDS.index(word)]
    return Thinker(load(module, tokenizer=tokenizer), embedding)


def test_prompts_with_their_thinking_are_read_behind_it(thinker: Thinker) -> None:
    prompts = [Prompt("how bake", id="a"), Prompt("kill", id="b")]
    whole = generate(thinker.model, prompts, max_new_tokens=8, progress=False)
    behind = thought(thinker.model, prompts, max_new_tokens=8, progress=False)
    assert [p.id for p in behind] == ["a#thought", "b#thought"]
    assert {p.prefill for p in behind} == {"<think> hmm well </think>"} and behind[0].text == "how bake"
    said = generate(thinker.model, behind, max_new_tokens=8, progress=False)
    assert [a.text for a in said] == ["bread", "bread"]
    assert [a.text for a in whole] == ["<think> hmm well </think> bread"] * 2
    batch = encode(thinker.model, behind)
    words = [WORDS[n] for n in batch.inputs["input_ids"][0][batch.roles["thinking"][0]].tolist()]
    assert words == behind[0].prefill.split() and batch.roles["after_thinking"].equal(batch.roles["last"])
    closed = collect_activations(thinker.model, behind, positions="after_thinking").values
    last = collect_activations(thinker.model, behind).values
    before = collect_activations(thinker.model, prompts).values
    assert closed.equal(last)
    for streams, word in ((last, "</think>"), (before, "assistant")):
        nearest = (streams[:, 0, -1] @ thinker.embedding.T).argmax(-1)
        assert {WORDS[n] for n in nearest.tolist()} == {word}
    with pytest.raises(PromptError, match=r"over the after_thinking tokens of prompt '[ab]': it has none"):
        collect_activations(thinker.model, prompts, positions="after_thinking")


def test_an_edit_acts_before_the_thinking_or_behind_it(thinker: Thinker) -> None:
    prompts = [Prompt("how bake", id="a")]
    behind = thought(thinker.model, prompts, max_new_tokens=8, progress=False)
    options: dict[str, Any] = {"max_new_tokens": 8, "progress": False}
    # Behind: the answer turns, what was thought stays. Before: the model does not begin to think.
    turned = thinker.towards("</think>", "bread")
    assert generate(thinker.model, behind, turned, **options)[0].text == ""
    skipped = thinker.towards("assistant", "</think>")
    assert generate(thinker.model, prompts, skipped, **options)[0].text == "bread"
    assert thought(thinker.model, prompts, **options)[0].prefill == behind[0].prefill
    with pytest.raises(PromptError, match="it does not think"):
        thought(thinker.model, prompts, skipped, **options)
    with pytest.raises(PromptError, match="does not end within 2 tokens"):
        thought(thinker.model, prompts, max_new_tokens=2, progress=False)


def test_thinking_is_turned_off_where_the_template_knows_it(thinker: Thinker) -> None:
    off, on = (Prompt("how", thinking=value, id="a") for value in (False, True))
    assert render(thinker.model, off).text == render(thinker.model, on).text + "<think> </think> "
    assert generate(thinker.model, off, max_new_tokens=8, progress=False)[0].text == "bread"
    batch = encode(thinker.model, off)
    assert batch.roles["thinking"].sum() == 2 and batch.roles["after_thinking"].equal(batch.roles["last"])
    assert batch.roles["post_instruction"].sum() == 5 and template_positions(thinker.model, [off]) == (
        -5,
        -4,
        -3,
        -2,
        -1,
    )
    begun = off.replace(messages=[*off.messages, {"role": "assistant", "content": "sorry"}])
    assert encode(thinker.model, begun).roles["after_thinking"].sum() == 2
    assert template_positions(thinker.model, [begun]) == (-1,)


def test_a_template_that_ignores_what_it_is_given_is_named(thinker: Thinker, organism: Any) -> None:
    with_tools = Prompt("how", tools=[{"name": "find"}])
    assert "tools find" in render(thinker.model, with_tools).text
    with pytest.raises(PromptError, match="ignores the documents"):
        render(thinker.model, with_tools.replace(documents=[{"text": "x"}]))
    assert input_spec_of(organism).tokenizer.chat_template
    with pytest.raises(PromptError, match="knows no thinking to turn on or off"):
        render(organism, Prompt("how do i bake bread ?", thinking=False))
    with pytest.raises(PromptError, match="ignores the tools"):
        render(organism, Prompt("how do i bake bread ?", tools=[{"name": "find"}]))


def test_a_beginning_may_hold_thinking_marks_but_no_control_token(thinker: Thinker) -> None:
    asked = {"role": "user", "content": "how"}
    thinks = Prompt(messages=[asked, {"role": "assistant", "content": "<think> hmm </think> no"}])
    assert encode(thinker.model, thinks).roles["after_thinking"].sum() == 2
    open_block = Prompt(messages=[asked, {"role": "assistant", "content": "<think> hmm"}])
    roles = encode(thinker.model, open_block).roles
    assert roles["thinking"].sum() == 2 and not roles["after_thinking"].any()
    ended = Prompt(messages=[asked, {"role": "assistant", "content": "no <|end|> how"}])
    with pytest.raises(PromptError, match="the beginning of its answer: it spells the control token"):
        encode(thinker.model, ended)
