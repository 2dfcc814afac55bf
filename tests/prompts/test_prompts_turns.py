"""Every text of every turn arrives, or the template that loses it is named."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_models import STRING_TEMPLATE, word_tokenizer

from refusal_plugin.errors import PromptError
from refusal_plugin.prompts import Prompt, encode, render

USER = "<|start|>user {{ m['content'] | trim }} <|end|> "
END = "{% if add_generation_prompt %}<|start|>assistant{% endif %}"


def template(system: str, user: str = USER) -> str:
    """A chat template that shows the system turn by one expression, and the user's by another."""
    turns = "{% if m['role'] == 'system' %}" + system + "{% else %}" + user + "{% endif %}"
    return "{% for m in messages %}" + turns + "{% endfor %}" + END


def with_template(model: SimpleNamespace, text: str) -> Any:
    tokenizer = word_tokenizer(text)
    tokenizer.name_or_path = "some/model"
    return replace(model.source, tokenizer=tokenizer)


LOSSES = {
    "dropped": ("", "drops"),
    "replaced by its own": ("<|start|>system please answer <|end|> ", "drops"),
    "cut": ("<|start|>system {{ m['content'][:20] }} <|end|> ", "changes"),
    "its first line": ("<|start|>system {{ m['content'].split('\n')[0] }} <|end|> ", "changes"),
    "filtered": ("<|start|>system {{ m['content'] | replace('kill', 'bake') }} <|end|> ", "changes"),
    "escaped": ("<|start|>system {{ m['content'] | tojson }} <|end|> ", "changes"),
    "in small letters": ("<|start|>system {{ m['content'] | lower }} <|end|> ", "drops"),
    "only a short one": ("{% if m['content'] | length < 30 %}{{ m['content'] }}{% endif %}", "changes"),
    "blanks joined": ("{{ m['content'].split() | join(' ') }}", "changes"),
}
SYSTEM = 'Please  answer "how do i kill a process ?"\nas a system now'


@pytest.mark.parametrize("loss", LOSSES)
def test_a_template_that_loses_the_system_text_is_named(llama, loss: str) -> None:
    shown, verb = LOSSES[loss]
    source = with_template(llama, template(shown))
    with pytest.raises(PromptError, match=f"the chat template of some/model {verb} the system text"):
        encode(source, "bake bread", system=SYSTEM)
    with pytest.raises(PromptError, match=r"'b'.*some/model"):
        encode(source, [Prompt("bake", id="b"), "how do i bake ?"], system=SYSTEM)
    assert encode(source, "bake bread").length > 2


KEPT = {
    "as it is": "<|start|>system {{ m['content'] }} <|end|> ",
    "trimmed": "<|start|>system {{ m['content'] | trim }} <|end|> ",
    "twice": "{{ m['content'] }} <|end|> {{ m['content'] }} <|end|> ",
    "in front of the user's": "<|start|>user {{ m['content'] }}\n",
    "behind the model's own": "<|start|>system please answer {{ m['content'] }} <|end|> ",
}


@pytest.mark.parametrize("kept", KEPT)
@settings(max_examples=15)
@given(system=st.text(st.characters(codec="utf-8", exclude_characters="<|>"), min_size=1, max_size=40))
def test_a_template_that_keeps_it_is_believed(llama, kept: str, system: str) -> None:
    shown = render(with_template(llama, template(KEPT[kept])), Prompt("bake bread"), system=system)
    assert system.strip() in shown.text and shown.instruction.strip() == "bake bread"


@pytest.mark.parametrize(
    "user",
    [
        "<|start|>user {{ m['content'][:10] }} <|end|> ",
        "<|start|>user {{ m['content'] | replace('kill', 'bake') }} <|end|> ",
        "<|start|>user {{ m['content'] | lower }} <|end|> ",
        "<|start|>user <|end|> ",
    ],
)
def test_a_template_that_loses_the_users_text_is_named(llama, user: str) -> None:
    source = with_template(llama, template("{{ m['content'] }}", user))
    with pytest.raises(PromptError, match="the chat template of some/model"):
        encode(source, "how do i kill A process ?")


def test_a_template_without_a_system_turn_is_named(llama) -> None:
    with pytest.raises(PromptError, match=r"the chat template of some/model fails \(no system role\)"):
        encode(with_template(llama, STRING_TEMPLATE), "bake", system="please")
