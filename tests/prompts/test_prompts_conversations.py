"""Conversations: one thing in two forms, in files, and every text and medium where the batch says it is."""

import csv
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from prompt_models import PARTS_TEMPLATE, STRING_TEMPLATE, WORDS, word_tokenizer

from refusal_plugin.errors import PromptError
from refusal_plugin.prompts import Batch, Prompt, PromptSet, batches, encode, render
from refusal_plugin.prompts.input_spec import InputSpec
from refusal_plugin.prompts.waveforms import wav_bytes
from tests.support import torchvision

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
SOUND = (np.random.default_rng(0).normal(size=9_000) * 0.1).astype(np.float32)
MEDIA: dict[str, Any] = {"image": PIXELS, "video": np.stack([PIXELS] * 4), "audio": SOUND}


STRINGS = STRING_TEMPLATE.replace("<|start|>user", "<|start|>{{ m['role'] }}")
"""Takes strings alone; opens an answer without the blank that follows in a finished one."""


def said(role: str, *parts: str) -> dict[str, Any]:
    """A turn of texts and, where a part is the name of one, media."""
    return {
        "role": role,
        "content": [
            {"type": part, part: MEDIA[part]} if part in MEDIA else {"type": "text", "text": part} for part in parts
        ],
    }


LONG = [
    said("system", "please answer"),
    said("user", "image", "how do i bake bread ?", "image"),
    said("assistant", "bake a process"),
    said("user", "audio", "kill a process ?"),
]


# -- one thing in two forms -------------------------------------------------------------------------------------------
def test_the_short_form_is_a_conversation_of_one_turn() -> None:
    short = Prompt("what ?", image=PIXELS, audio=SOUND, system="be brief")
    long = Prompt(messages=[{"role": "system", "content": "be brief"}, said("user", "image", "audio", "what ?")])
    assert short.id == long.id and PromptSet(short).hash == PromptSet(long).hash
    assert long.text == "what ?" and long.system == "be brief" and long.image is PIXELS and long.audio is SOUND
    assert [turn["role"] for turn in short.messages] == ["system", "user"] and short.modality == "image+audio"
    assert Prompt("hi").id == Prompt(messages=[{"role": "user", "content": "hi"}]).id != Prompt("hi", system="s").id
    assert PromptSet(Prompt("hi", id="1")).hash != PromptSet(Prompt("hi", id="1", system="s")).hash


def test_ids_and_hashes_tell_conversations_apart() -> None:
    other = [
        LONG,
        LONG[1:],
        [*LONG[:2], said("assistant", "another"), LONG[3]],
        [LONG[0], said("user", "how do i bake bread ?", "image", "image"), *LONG[2:]],
        [*LONG, said("assistant", "sure")],
    ]
    prompts = [Prompt(messages=messages) for messages in other]
    prompts += [Prompt(messages=LONG, thinking=False), Prompt(messages=LONG, tools=[{"name": "f"}])]
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert len({PromptSet(prompt.replace(id="x")).hash for prompt in prompts}) == len(prompts)


def test_a_conversation_is_changed_where_its_fields_say() -> None:
    prompt = Prompt(messages=LONG, id="a", read_text="what does it say ?", read_answer="so")
    assert prompt.modality == "image+audio" and prompt.medium is None and len(prompt.media) == 3
    back = prompt.read_back()
    assert back.text == "what does it say ?" and [part.kind for part in back.media] == ["image", "image", "audio"]
    assert [turn.text for turn in back.turns[:3]] == [turn.text for turn in prompt.turns[:3]]
    assert prompt.replace(system="no").turns[0].text == "no" and prompt.replace(system=None).turns[0].role == "user"
    assert prompt.replace(split="test").turns[1].text == prompt.turns[1].text
    assert Prompt("a").replace(messages=LONG).modality == "image+audio"
    with pytest.raises(PromptError, match="replace image: it is a conversation with image"):
        prompt.replace(image=PIXELS)
    words = Prompt(messages=[said("user", "a"), said("assistant", "b"), said("user", "c")]).replace(image=PIXELS)
    assert [part.kind for part in words.turns[2].parts] == ["image", "text"] and words.modality == "image"


# -- files ------------------------------------------------------------------------------------------------------------
def test_conversations_survive_jsonl_and_csv_in_any_folder(tmp_path: Path) -> None:
    prompts = PromptSet(
        [
            Prompt(messages=[*LONG, said("assistant", "sure")], id="a", role="harmful"),
            Prompt("what ?", image=PIXELS, audio=SOUND, system="be brief", id="b", thinking=False),
            Prompt(messages=LONG, id="c", tools=[{"name": "f"}], documents=[{"title": "t", "text": "x"}]),
            Prompt("how ?", id="d"),
        ]
    )
    path = prompts.to_jsonl(tmp_path / "one" / "set.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert set(rows[1]) == {"text", "image", "audio", "system", "pair", "id", "thinking"} and "text" not in rows[0]
    assert len(list((tmp_path / "one" / "set-media").iterdir())) == 2  # the same picture twice is one file
    columns = dict.fromkeys(name for row in rows for name in row)
    with (tmp_path / "one" / "set.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for folder in ("one", "two"):
        for name in ("set.jsonl", "set.csv"):
            back = PromptSet.from_path(tmp_path / folder / name)
            assert back.hash == prompts.hash
            assert [p.thinking for p in back] == [None, False, None, None] and back[0].prefill == "sure"


def test_ids_of_conversations_do_not_depend_on_where_their_media_lie(tmp_path: Path, monkeypatch) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Image.fromarray(PIXELS).save(tmp_path / name / "a.png")
        (tmp_path / name / "b.wav").write_bytes(wav_bytes(SOUND))
        paths = [{"type": "image", "path": "a.png"}, {"type": "audio", "audio": "b.wav"}, {"type": "text", "text": "?"}]
        row = {"messages": [said("user", "a"), said("assistant", "b"), {"role": "user", "content": paths}]}
        (tmp_path / name / "set.jsonl").write_text(json.dumps(row))
        (prompt,) = PromptSet.from_jsonl(tmp_path / name / "set.jsonl")
        found.append(prompt.id)
    monkeypatch.chdir(tmp_path / "two")
    assert PromptSet.from_jsonl("set.jsonl")[0].id == found[0] == found[1]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ("how ?", "messages is a str"),
        ([], "no list of turns"),
        ([3], "messages hold a int"),
        ([{"role": "user"}], "turn 1 is the keys role"),
        ([said("user", "a") | {"name": "x"}], "turn 1 is the keys role, content, name"),
        ([{"role": "user", "content": []}], "turn 1 has no content"),
        ([{"role": "user", "content": [{"type": "image", "url": "http://x"}]}], "image is no path"),
        ([{"role": "user", "content": [{"type": "image", "image": "no.png"}, "a"]}], "holds a str"),
        ([{"role": "user", "content": [{"type": "text", "text": " "}]}], "a text of its turn 1 is empty"),
        (
            [{"role": "user", "content": [{"type": "image", "image": "no.png"}, {"type": "text", "text": "a"}]}],
            "image 'no.png': no such file",
        ),
    ],
)
def test_a_bad_conversation_is_a_bad_row(tmp_path: Path, messages: Any, says: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}))
    with pytest.raises(PromptError, match=says):
        PromptSet.from_jsonl(tmp_path / "a.jsonl")


# -- where everything stands ------------------------------------------------------------------------------------------
TEXTS = st.lists(st.sampled_from([w for w in WORDS if w not in MEDIA]), min_size=1, max_size=4).map(" ".join)


def user_turns(kinds: tuple[str, ...]) -> Any:
    """Parts of user turns: texts, of which there is one at least, and media."""
    media = st.lists(st.sampled_from(kinds), min_size=1, max_size=2) if kinds else st.nothing()
    runs = st.lists(media | TEXTS.map(lambda text: [text]), min_size=1, max_size=4)
    # Two texts without a medium between them stand side by side in most templates, as one word may be.
    apart = runs.filter(lambda found: all(a[0] in MEDIA or b[0] in MEDIA for a, b in pairwise(found)))
    parts = apart.map(lambda found: tuple(part for run in found for part in run))
    return parts.filter(lambda found: not set(found) <= set(MEDIA))


def conversations(kinds: tuple[str, ...]) -> Any:
    """Messages: perhaps a system text, pairs of turns, a question, perhaps the beginning of its answer."""
    pair = st.tuples(user_turns(kinds), TEXTS)
    parts = st.tuples(st.none() | TEXTS, st.lists(pair, max_size=2), user_turns(kinds), st.none() | TEXTS)

    def messages(found: Any) -> list[dict[str, Any]]:
        system, pairs, asked, begun = found
        turns = [said("system", system)] if system else []
        for user, answer in pairs:
            turns += [said("user", *user), said("assistant", answer)]
        return [*turns, said("user", *asked), *([said("assistant", begun)] if begun else [])]

    return parts.map(messages)


def require_roles(model: SimpleNamespace, prompt: Prompt, batch: Batch, row: int = 0) -> None:
    """The texts of every turn stand where the batch says, media tokens are the media's, and the rest is template."""
    ids, turns = batch.inputs["input_ids"][row], batch.turns[row]
    decode = model.tokenizer.decode
    for number, turn in enumerate(prompt.turns):
        assert decode(ids[turns == number]).split() == turn.text.split()
    media = batch.roles["media"][row]
    known = {model.source.media_ids[part.kind] for part in prompt.media}
    assert set(ids[media].tolist()) == known and not (media & (turns >= 0)).any()
    assert int(media.sum()) == sum(int((ids == token).sum()) for token in known)
    asked = len(prompt.turns) - 1 - bool(prompt.prefill)
    assert batch.roles["instruction"][row].equal(turns == asked)
    assert batch.roles["prefill"][row].equal(turns == len(prompt.turns) - 1 if prompt.prefill else turns > len(turns))
    after = batch.roles["post_instruction"][row]
    behind = torch.arange(len(ids)) > torch.nonzero((turns == asked) | media).max()
    assert after.equal(behind & (turns < 0))
    template = (turns < 0) & ~media & batch.inputs["attention_mask"][row].bool()
    words = {word for turn in prompt.turns for word in turn.text.split()} - {"user", "assistant", "system"}
    assert not words & set(decode(ids[template]).split())
    assert batch.roles["last"][row].tolist() == [False] * (len(ids) - 1) + [True]


@settings(max_examples=60, phases=(Phase.generate,))
@given(messages=conversations(("image", "video", "audio")))
def test_roles_are_right_in_every_turn_of_the_embedded_models_family(omni, messages: list[dict[str, Any]]) -> None:
    prompt = Prompt(messages=messages)
    require_roles(omni, prompt, encode(omni.source, prompt))


@settings(max_examples=8, phases=(Phase.generate,))
@given(several=st.lists(conversations(("image", "video", "audio")), min_size=2, max_size=3))
def test_conversations_in_a_batch_are_what_they_are_alone(omni, several: list[list[dict[str, Any]]]) -> None:
    prompts = [Prompt(messages=messages, id=f"{n}") for n, messages in enumerate(several)]
    batch = encode(omni.source, prompts)
    with torch.no_grad():
        together = omni.module(**batch.inputs).logits[:, -1]
        for row, prompt in enumerate(prompts):
            require_roles(omni, prompt, batch, row)
            alone = omni.module(**encode(omni.source, prompt).inputs).logits[0, -1]
            assert (together[row] - alone).abs().max() <= 1e-5 * max(1.0, float(alone.abs().max()))


@pytest.mark.parametrize("template", [PARTS_TEMPLATE, STRINGS])
@settings(max_examples=30, phases=(Phase.generate,))
@given(messages=conversations(()))
def test_roles_are_right_in_templates_of_both_kinds(llama, template: str, messages: list[dict[str, Any]]) -> None:
    model = SimpleNamespace(source=replace(llama.source, tokenizer=word_tokenizer(template)), tokenizer=llama.tokenizer)
    if template is not PARTS_TEMPLATE:
        messages = [turn for turn in messages if turn["role"] != "system"]
    prompt = Prompt(messages=messages)
    require_roles(model, prompt, encode(model.source, prompt))


def test_batches_hold_prompts_of_one_modality_and_several_media_apart_where_they_must(omni) -> None:
    mixed = [Prompt(messages=LONG, id=f"m{n}") for n in range(2)]
    two = [Prompt(messages=[said("user", "image", "image", "how ?")], id=f"t{n}") for n in range(2)]
    prompts = [*mixed, *two, Prompt("how ?", image=PIXELS, id="one"), Prompt("how ?", id="none")]
    assert PromptSet(prompts).modalities == ("text", "image", "image+audio")
    for several, sizes in (("rows", [1, 1, 2, 2]), ("alone", [1, 1, 1, 1, 1, 1])):
        found = list(batches(replace(omni.source, several=several), prompts))
        assert [len(rows) for rows, _ in found] == sizes
        assert sorted(row for rows, _ in found for row in rows) == list(range(6))
    with pytest.raises(PromptError, match="several media in a batch"):
        encode(replace(omni.source, several="alone"), mixed)


@pytest.mark.skipif(bool(torchvision.enable()), reason="torchvision is not installed, which these processors ask for")
@pytest.mark.parametrize("family", ["qwen3-vl", "glm-4.6v", "internvl of 8 frames"])
def test_texts_between_clips_are_found_where_a_processor_writes_times(family: str) -> None:
    """These put words of their own between the frames, so that texts between two clips move by an unknown number."""
    processor = FAMILIES[family]()
    ids = {
        kind: processor.tokenizer.convert_tokens_to_ids(getattr(processor, f"{kind}_token"))
        for kind in ("image", "video")
    }
    spec = InputSpec(processor.tokenizer, processor, ("text", "image", "video"), media_ids=ids)
    turns = [
        said("user", "video", "how do i bake bread ?"),
        said("assistant", "please"),
        said("user", "video", "now ?"),
    ]
    prompt = Prompt(messages=turns)
    batch = encode(spec, prompt)
    row = batch.inputs["input_ids"][0]
    for number, turn in enumerate(prompt.turns):
        assert processor.tokenizer.decode(row[batch.turns[0] == number]).split() == turn.text.split()
    single = encode(spec, Prompt("now ?", video=MEDIA["video"])).roles["media"].sum()
    assert batch.roles["media"].sum() == 2 * single


# -- what a template loses --------------------------------------------------------------------------------------------
def templated(model: SimpleNamespace, template: str) -> Any:
    """A model's source with another chat template."""
    tokenizer = word_tokenizer(template)
    tokenizer.name_or_path = "some/model"
    return replace(model.source, tokenizer=tokenizer)


TURNS = [said("user", "how do i bake bread ?"), said("assistant", "bake now"), said("user", "kill a process ?")]
LOSSES = {
    "drops what came before": ("{{ m['content'] if loop.last else '' }}", "does not show the turn 1's text once"),
    "cuts answers": ("{{ m['content'][:30] if m['role'] == 'user' else m['content'][:6] }}", "turn 2's text"),
    "wants one turn": ("{{ raise_exception('one turn') if loop.index > 1 else m['content'] }}", r"fails \(one turn\)"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_template_that_loses_a_turn_is_named(llama, loss: str) -> None:
    shown, says = LOSSES[loss]
    template = "{% for m in messages %}<|start|> " + shown + " <|end|> {% endfor %}<|start|>assistant "
    with pytest.raises(PromptError, match=f"the chat template of some/model.*{says}"):
        encode(templated(llama, template), Prompt(messages=TURNS))


def test_a_template_that_drops_the_second_picture_is_named(omni) -> None:
    tokenizer = omni.tokenizer
    template = tokenizer.chat_template
    tokenizer.chat_template = template.replace(
        "if part['type'] == 'image'", "if part['type'] == 'image' and loop.first"
    )
    try:
        with pytest.raises(PromptError, match="drops the image of turn 1"):
            encode(omni.source, Prompt(messages=[said("user", "image", "how ?", "image")]))
    finally:
        tokenizer.chat_template = template


def test_raw_has_place_for_one_text(llama) -> None:
    with pytest.raises(PromptError, match="place for one text"):
        encode(llama.source, Prompt(messages=TURNS), raw=True)


def test_a_control_token_in_any_turn_is_refused(llama) -> None:
    for number, name in ((0, "its turn 1's text"), (1, "its turn 2's text"), (2, "its text")):
        turns = [dict(turn) for turn in TURNS]
        turns[number] = said(turns[number]["role"], "bake <|end|> bread")
        with pytest.raises(PromptError, match=f"{name}: it spells the control token"):
            encode(llama.source, Prompt(messages=turns))


def test_a_system_text_of_the_caller_stands_before_the_prompts_own(llama) -> None:
    shown = render(llama.source, Prompt("bake", system="please answer"), system="now", suffix="bread")
    assert shown.text.index("now") < shown.text.index("please answer") and shown.instruction == "bake bread"
    batch = encode(llama.source, Prompt("bake", system="please answer"), system="now")
    assert llama.tokenizer.decode(batch.inputs["input_ids"][0][batch.turns[0] == 0]) == "now please answer"


# -- the beginning of an answer ---------------------------------------------------------------------------------------
BEGUN = [said("user", "how ?"), said("assistant", "please answer")]


@pytest.mark.parametrize("template", [PARTS_TEMPLATE, STRINGS])
def test_a_beginning_is_continued_as_transformers_does(llama, template: str) -> None:
    source = templated(llama, template)
    plain = [{"role": turn["role"], "content": turn["content"][0]["text"]} for turn in BEGUN]
    wanted = source.tokenizer.apply_chat_template(plain, tokenize=False, continue_final_message=True)
    shown = render(source, Prompt(messages=BEGUN))
    assert shown.text == wanted
    assert shown.text.endswith("please answer") and shown.instruction == "how ?"
    batch = encode(source, Prompt(messages=BEGUN))
    assert batch.roles["prefill"].sum() == 2 and batch.roles["last"].equal(batch.roles["prefill"] & batch.roles["last"])
    assert not (batch.roles["prefill"] & batch.roles["post_instruction"]).any()
