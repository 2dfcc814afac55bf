"""Encoding: a padded batch equals single rows, and the token roles stand where they should, in every modality."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_models import PARTS_TEMPLATE, byte_tokenizer, tiny, word_tokenizer

from refusal_plugin.errors import MediaError, PromptError
from refusal_plugin.prompts import MODALITIES, Batch, Prompt, PromptSet, batches, encode, encoding
from refusal_plugin.prompts.batch import TOKEN_ROLES

VOCABULARY = ["how", "do", "i", "bake", "bread", "kill", "a", "process", "?", ".", "please"]
SOME_WORDS = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=20)
MEDIA_SEEDS = st.integers(0, 1000)


def forward(module: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the last token (batch, vocabulary) and final hidden states (batch, pos, d_model)."""
    with torch.no_grad():
        out = module(**batch.inputs, output_hidden_states=True)
    return out.logits[:, -1], out.hidden_states[-1]


def assert_close(left: torch.Tensor, right: torch.Tensor) -> None:
    assert (left - right).abs().max() <= 1e-5 * max(1.0, float(right.abs().max()))


def assert_batch_equals_rows(model: SimpleNamespace, prompts: list[Prompt]) -> None:
    """Hidden states, logits, greedy answers and roles of each row are those of the prompt alone."""
    batch = encode(model.source, prompts)
    logits, hidden = forward(model.module, batch)
    greedy = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "pad_token_id": 0}
    answers = model.module.generate(**batch.inputs, **greedy)[:, batch.length :]
    for row, prompt in enumerate(prompts):
        single = encode(model.source, prompt)
        alone_logits, alone_hidden = forward(model.module, single)
        assert_close(logits[row], alone_logits[0])
        assert_close(hidden[row, -single.length :], alone_hidden[0])
        answer = model.module.generate(**single.inputs, **greedy)[0, single.length :]
        assert answers[row].tolist() == answer.tolist()
        for name in TOKEN_ROLES:
            assert batch.roles[name][row, -single.length :].tolist() == single.roles[name][0].tolist()
            assert not batch.roles[name][row, : -single.length].any()


def role_text(model: SimpleNamespace, batch: Batch, role: str, row: int = 0) -> str:
    return model.tokenizer.decode(batch.inputs["input_ids"][row][batch.roles[role][row]])


# -- the property that everything else rests on -----------------------------------------------------------------------
@pytest.mark.parametrize("name", ["llama", "gpt2"])
@settings(max_examples=8)
@given(texts=st.lists(SOME_WORDS, min_size=2, max_size=5))
def test_padded_text_equals_single_rows(request, name: str, texts: list[list[str]]) -> None:
    assert_batch_equals_rows(request.getfixturevalue(name), [Prompt(" ".join(words)) for words in texts])


def test_without_positions_from_the_mask_the_property_would_fail(gpt2) -> None:
    """The control: this is the trap that `position_ids` is there for."""
    prompts = [Prompt("bake"), Prompt("how do i kill a process ?")]
    batch = encode(gpt2.source, prompts)
    assert batch.inputs["position_ids"].tolist()[0] == [*[0] * 6, *range(6)]
    naive = replace(batch, inputs={k: v for k, v in batch.inputs.items() if k != "position_ids"})
    assert (forward(gpt2.module, naive)[0][0] - forward(gpt2.module, batch)[0][0]).abs().max() > 1e-3


@pytest.mark.parametrize("modality", MODALITIES)
@settings(max_examples=4)
@given(texts=st.lists(SOME_WORDS, min_size=2, max_size=3), seed=MEDIA_SEEDS)
def test_padded_media_equal_single_rows(omni, modality: str, texts: list[list[str]], seed: int) -> None:
    prompts = [media_prompt(modality, " ".join(words), seed + row) for row, words in enumerate(texts)]
    assert_batch_equals_rows(omni, prompts)


@settings(max_examples=4)
@given(kinds=st.permutations(MODALITIES), seed=MEDIA_SEEDS)
def test_modalities_may_be_mixed_in_one_batch(omni, kinds: list[str], seed: int) -> None:
    assert_batch_equals_rows(omni, [media_prompt(kind, "please bake", seed + row) for row, kind in enumerate(kinds)])


def media_prompt(modality: str, text: str, seed: int) -> Prompt:
    """A prompt with a medium whose size varies with the seed."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (2 * int(draw.integers(1, 3)), 16 * int(draw.integers(1, 4)), 64, 3), dtype=np.uint8)
    sound = (draw.normal(size=int(draw.integers(6_000, 30_000))) * 0.1).astype(np.float32)
    media: dict[str, dict[str, Any]] = {
        "text": {},
        "image": {"image": pixels[0]},
        "video": {"video": pixels},
        "audio": {"audio": sound},
    }
    return Prompt(text, id=f"{modality}-{seed}", **media[modality])


# -- roles ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("modality", MODALITIES)
def test_roles_in_every_modality(omni, modality: str) -> None:
    batch = encode(omni.source, [media_prompt(modality, "bake bread", 1), media_prompt(modality, "bake " * 9, 2)])
    assert all(mask.shape == batch.inputs["input_ids"].shape for mask in batch.roles.values())
    assert batch.roles["last"].sum(1).tolist() == [1, 1] and batch.roles["last"][:, -1].all()
    assert role_text(omni, batch, "instruction") == "bake bread"
    assert role_text(omni, batch, "instruction", 1).split() == ["bake"] * 9
    after = role_text(omni, batch, "post_instruction")
    assert after.endswith("assistant") and "bake" not in after and len(after.split()) <= 4
    media = batch.inputs["input_ids"][batch.roles["media"]]
    assert set(media.tolist()) == ({omni.source.media_ids[modality]} if modality != "text" else set())
    assert not (batch.roles["media"] & batch.roles["instruction"]).any()
    assert not (batch.roles["post_instruction"] & batch.roles["instruction"]).any()
    assert (batch.roles["post_instruction"] & batch.roles["last"]).sum() == 2


def test_a_suffix_joins_the_instruction_with_one_space(llama) -> None:
    batch = encode(llama.source, "bake bread", suffix="please .")
    assert role_text(llama, batch, "instruction") == "bake bread please ."
    assert encode(llama.source, "bake bread please .").inputs["input_ids"].equal(batch.inputs["input_ids"])


def test_a_system_text_stands_before_the_instruction(llama, gpt2) -> None:
    batch = encode(llama.source, "bake bread", system="please answer")
    assert "please answer" in llama.tokenizer.decode(batch.inputs["input_ids"][0])
    assert role_text(llama, batch, "instruction") == "bake bread"
    with pytest.raises(PromptError, match="no system role"):
        encode(gpt2.source, "bake", system="please")


def test_an_instruction_that_repeats_the_template_is_still_found(llama) -> None:
    batch = encode(llama.source, "user assistant user")
    assert role_text(llama, batch, "instruction") == "user assistant user"
    assert encode(llama.source, "  bake  ").roles["instruction"].sum() == 1


@pytest.mark.parametrize("text", ["p", "type", "'type'", "{'type': 'text', 'text': 'x'}", "text", "Zq7instructionZq7"])
def test_texts_that_look_like_the_machinery(bytes_gpt2, text: str) -> None:
    batch = encode(bytes_gpt2.source, text)
    assert role_text(bytes_gpt2, batch, "instruction").strip() == text
    assert bytes_gpt2.tokenizer.decode(batch.inputs["input_ids"][0]).startswith("USER: ")


@settings(max_examples=30)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(str.strip))
def test_roles_with_byte_tokens_and_any_text(bytes_gpt2, text: str) -> None:
    """Tokens here are parts of words or of characters, and the template is made of ordinary ones."""
    batch = encode(bytes_gpt2.source, text)
    found = role_text(bytes_gpt2, batch, "instruction")
    assert text.strip() in found and len(found) <= len(text) + 2  # a boundary token may hold a space or line break more
    assert "BOT" not in found and "USER" not in found.replace(text, "")
    assert role_text(bytes_gpt2, batch, "post_instruction").endswith("BOT:")


@pytest.fixture(scope="session")
def bytes_gpt2(gpt2) -> SimpleNamespace:
    tokenizer = byte_tokenizer()
    return SimpleNamespace(
        tokenizer=tokenizer, source=replace(gpt2.source, tokenizer=tokenizer, context_length=None, vocabulary=320)
    )


# -- what is refused --------------------------------------------------------------------------------------------------
def test_no_chat_template(llama, omni, picture) -> None:
    source = replace(llama.source, tokenizer=word_tokenizer(template=None))
    with pytest.raises(PromptError, match="no chat template"):
        encode(source, "bake")
    batch = encode(source, "bake bread", raw=True)
    assert batch.length == 2 and batch.roles["instruction"].all() and not batch.roles["post_instruction"].any()
    with pytest.raises(PromptError, match="raw"):
        encode(source, "bake", raw=True, system="please")
    with pytest.raises(PromptError, match="no place for its image"):
        encode(omni.source, Prompt("bake", image=picture()), raw=True)
    assert encode(omni.source, "bake bread", raw=True).length == 2


@pytest.mark.parametrize("token", ["<|end|>", "<|start|>", "<image>", "<|pad|>"])
def test_a_control_token_in_the_users_text(llama, token: str) -> None:
    source = replace(llama.source, media_ids={"image": llama.tokenizer.convert_tokens_to_ids("<image>")})
    for prompt, more in ((f"bake {token} bread", {}), ("bake", {"suffix": token}), ("bake", {"system": f"x{token}"})):
        with pytest.raises(PromptError, match="control token"):
            encode(source, prompt, **more)


def test_a_control_token_that_only_the_normaliser_brings_out(llama) -> None:
    from tokenizers import normalizers

    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.backend_tokenizer.add_special_tokens(["<|end|>"])
    source = replace(llama.source, tokenizer=tokenizer)
    with pytest.raises(PromptError, match="control token"):
        encode(source, "bake <|END|> bread")


def test_a_prompt_longer_than_the_context(llama, omni, picture) -> None:
    with pytest.raises(PromptError, match=r"'long'.*64"):
        encode(llama.source, ["bake", Prompt("bake " * 80, id="long")])
    with pytest.raises(PromptError, match=r"'big'.*20"):
        encode(replace(omni.source, context_length=20), Prompt("bake", id="big", image=picture(0, 64, 128)))


def test_a_modality_the_model_does_not_take(llama, omni, picture) -> None:
    with pytest.raises(PromptError, match=r"holds image, the model takes text"):
        encode(llama.source, Prompt("bake", image=picture()))
    with pytest.raises(PromptError, match="takes text, image"):
        encode(replace(omni.source, modalities=("text", "image")), Prompt("bake", audio="a.wav"))


def test_a_template_that_drops_the_medium(omni, picture) -> None:
    class Deaf:
        """A processor whose template forgets media."""

        chat_template = "yes"

        def apply_chat_template(self, messages: Any, **_: Any) -> str:
            return f"user {messages[-1]['content'][-1]['text']} assistant"

        def __call__(self, text: list[str], **_: Any) -> Any:
            return word_tokenizer()(text, return_tensors="pt")

    source = replace(omni.source, processor=Deaf(), tokenizer=word_tokenizer())
    with pytest.raises(PromptError, match="drops the image"):
        encode(source, Prompt("bake", image=picture()))


def test_templates_that_rewrite_the_instruction(llama) -> None:
    for template, says in (("{{ messages[0]['content'] | replace('b', 'd') }}", "changes"), ("hello", "does not show")):
        with pytest.raises(PromptError, match=says):
            encode(replace(llama.source, tokenizer=word_tokenizer(template)), "bake bread")


def test_nothing_to_encode(llama) -> None:
    with pytest.raises(PromptError, match="0 prompts"):
        encode(llama.source, [])
    with pytest.raises(PromptError, match="empty"):
        encode(llama.source, " ")
    assert list(batches(llama.source, [])) == []
    with pytest.raises(PromptError, match="at least 1"):
        next(batches(llama.source, ["bake"], token_budget=0))


def test_bad_media_are_named_by_their_prompt(omni, tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(MediaError, match="'p7'"):
        encode(omni.source, Prompt("bake", id="p7", image=tmp_path / "a.png"))
    with pytest.raises(MediaError, match=r"'p8'.*NaN"):
        encode(omni.source, Prompt("bake", id="p8", audio=np.full(8000, np.nan, np.float32)))


def test_words_unknown_to_a_small_vocabulary_are_reported(llama) -> None:
    assert encode(llama.source, ["bake bread", "bake qwertz bread xyz"]).unknown == ((), ("qwertz", "xyz"))


# -- batches ----------------------------------------------------------------------------------------------------------
@settings(max_examples=20)
@given(lengths=st.lists(st.integers(1, 30), max_size=30), budget=st.integers(1, 200), rows=st.integers(1, 9))
def test_batches_hold_every_prompt_once_within_the_budget(llama, lengths: list[int], budget: int, rows: int) -> None:
    prompts = PromptSet(Prompt("bake " * n, id=f"{i}") for i, n in enumerate(lengths))
    found = list(batches(llama.source, prompts, token_budget=budget, max_rows=rows))
    assert sorted(i for indices, _ in found for i in indices) == list(range(len(prompts)))
    for indices, batch in found:
        assert batch.prompts == tuple(prompts[i] for i in indices)
        assert batch.size <= rows and (batch.size == 1 or batch.size * batch.length <= budget)
    assert [indices for indices, _ in batches(llama.source, prompts, token_budget=budget, max_rows=rows)] == [
        indices for indices, _ in found
    ]


def test_copies_of_a_prompt_are_encoded_once_and_stay_together(llama, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [Prompt("bake " * n, id=f"{i}") for i, n in enumerate((3, 1, 3, 2))]
    plain, asked = encoding.encode_row, []
    monkeypatch.setattr(encoding, "encode_row", lambda *args: asked.append(args[1].prompt) or plain(*args))
    found = list(batches(llama.source, prompts * 5, max_rows=10))
    assert asked == prompts
    assert [[i % 4 for i in indices] for indices, _ in found] == [[1] * 5 + [3] * 5, [0] * 5 + [2] * 5]
    assert sorted(i for indices, _ in found for i in indices) == list(range(20))
    for indices, batch in found:
        again = encode(llama.source, [prompts[i % 4] for i in indices])
        assert batch.prompts == again.prompts and batch.inputs["input_ids"].equal(again.inputs["input_ids"])


def test_batches_have_one_modality_each(omni) -> None:
    prompts = [media_prompt(kind, "bake", seed) for seed in range(3) for kind in MODALITIES]
    found = list(batches(omni.source, prompts, token_budget=10_000))
    assert [{p.modality for p in batch.prompts} for _, batch in found] == [{kind} for kind in MODALITIES]
    assert sum(batch.n_tokens for _, batch in found) == sum(encode(omni.source, p).n_tokens for p in prompts)


def test_a_batch_moves_and_casts_media_only(omni) -> None:
    batch = encode(omni.source, media_prompt("image", "bake", 0)).to("cpu", torch.bfloat16)
    assert batch.inputs["pixel_values"].dtype == torch.bfloat16 and batch.inputs["input_ids"].dtype == torch.long
    assert batch.roles["last"].dtype == torch.bool
    assert "1 rows" in repr(batch)


@settings(max_examples=10)
@given(texts=st.lists(SOME_WORDS, min_size=2, max_size=9), suffix=st.sampled_from([None, "please ."]))
def test_many_texts_are_encoded_as_one_by_one(omni, llama, texts: list[list[str]], suffix: str | None) -> None:
    for model in (omni, llama):
        prompts = [" ".join(words) for words in texts]
        batch = encode(model.source, prompts, suffix=suffix)
        for row, prompt in enumerate(prompts):
            single = encode(model.source, prompt, suffix=suffix)
            assert set(batch.inputs) == set(single.inputs)
            for have, want in ((batch.inputs, single.inputs), (batch.roles, single.roles)):
                assert all(torch.equal(have[name][row, -single.length :], want[name][0]) for name in want)
            assert batch.unknown[row] == single.unknown[0]


def test_many_texts_are_one_call_of_the_tokenizer(llama, monkeypatch) -> None:
    calls = []
    kind = type(llama.tokenizer)
    plain = kind._encode_plus

    def noted(self: Any, text: Any, *args: Any, **options: Any) -> Any:
        calls.append(text)
        return plain(self, text, *args, **options)

    monkeypatch.setattr(kind, "_encode_plus", noted)
    encode(llama.source, ["bake bread", "how do i bake", "please", "kill a process ?"])
    assert [len(texts) for texts in calls] == [4]


def test_the_first_unfit_prompt_is_named_whatever_its_fault(llama, picture) -> None:
    """Though all texts are rendered before the first is tokenized."""
    long, control, image = (
        Prompt("bake " * 80, id="a"),
        Prompt("<|end|>", id="b"),
        Prompt("do", id="c", image=picture()),
    )
    for prompts, says in (((long, control, image), "'a'.*64"), ((control, image, long), "'b'"), ((image, long), "'c'")):
        with pytest.raises(PromptError, match=says):
            encode(llama.source, [Prompt("bake"), *prompts])


def test_a_control_token_added_later_is_refused(llama) -> None:
    source = replace(llama.source, tokenizer=word_tokenizer())
    encode(source, ["bake <new>", "bake"])
    source.tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]})
    with pytest.raises(PromptError, match="control token '<new>'"):
        encode(source, ["bake <new>", "bake"])


def test_a_template_that_takes_one_conversation_at_a_time(llama) -> None:
    class Single:
        """A tokenizer's owner whose template knows no batches, and one text that it refuses."""

        chat_template = "yes"

        def apply_chat_template(self, messages: Any, **_: Any) -> str:
            text = messages[-1]["content"][-1]["text"]
            if text == "kill":
                raise ValueError("not that")
            return f"user {text} assistant"

        def __call__(self, text: list[str], **_: Any) -> Any:
            return word_tokenizer()(text, return_tensors="pt")

    source = replace(llama.source, processor=Single(), tokenizer=word_tokenizer())
    assert encode(source, ["bake", "bread"]).length == 3
    with pytest.raises(PromptError, match="not that"):
        encode(source, ["bake", "kill"])


def test_encoding_is_the_processors_own(omni, picture: Callable[..., Any]) -> None:
    """Nothing is lost against calling the processor directly."""
    text = omni.source.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "bake"}]}]
    )
    direct = omni.source.processor(text=[text], images=[picture()])
    batch = encode(omni.source, Prompt("bake", image=picture()))
    assert set(direct) == set(batch.inputs)
    assert all(direct[name].equal(value) for name, value in batch.inputs.items())


# -- Hugging Face processors ------------------------------------------------------------------------------------------
def test_a_hugging_face_image_processor(picture) -> None:
    """LLaVA: one placeholder becomes many, positions are explicit, all tensors come through."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = word_tokenizer()
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=16
    )
    torch.manual_seed(0)
    module = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_id)
    )
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=PARTS_TEMPLATE,
    )
    llava = tiny(module, tokenizer, processor, modalities=("text", "image"), context_length=64)
    prompts = [
        Prompt("bake"),
        Prompt("how do i bake bread ?", image=picture(1, 40, 50)),
        Prompt("do", image=picture(2)),
    ]
    batch = encode(llava.source, prompts)
    assert batch.roles["media"].sum(1).tolist() == [0, 4, 4] and "position_ids" in batch.inputs
    assert role_text(llava, batch, "instruction", 1) == "how do i bake bread ?"
    assert_batch_equals_rows(llava, prompts)


def test_a_hugging_face_audio_processor(noise) -> None:
    """Qwen2-Audio's processor: sound at the extractor's rate, and the template's text after the sound."""
    from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

    from refusal_plugin.prompts.input_spec import InputSpec

    template = (
        "{% for m in messages %}user {% for c in m['content'] %}{% if c['type'] == 'audio' %}"
        "<|audio_bos|><|AUDIO|><|audio_eos|> {% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}assistant"
    )
    tokenizer = word_tokenizer(template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]})
    processor = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=16), tokenizer, chat_template=template)
    source = InputSpec(
        tokenizer,
        processor,
        modalities=("text", "audio"),
        media_ids={"audio": tokenizer.convert_tokens_to_ids("<|AUDIO|>")},
    )
    batch = encode(source, [Prompt("bake bread", audio=noise(0, 16_000)), Prompt("do", audio=noise(0, 32_000))])
    assert batch.roles["media"].sum(1).tolist() == [25, 50]
    assert batch.inputs["input_features"].shape[0] == 2
    assert role_text(SimpleNamespace(tokenizer=tokenizer), batch, "instruction") == "bake bread"


# -- the loaded model -------------------------------------------------------------------------------------------------
def test_a_loaded_model_traces_a_batch(organism) -> None:
    """Through nnsight the batch gives what the Hugging Face module gives."""
    from refusal_plugin.models import hf_module

    batch = encode(organism, [media_prompt("image", "please bake bread", 0), media_prompt("image", "bake", 1)])
    with torch.no_grad(), organism.trace(**batch.inputs):
        logits = organism.lm_head.output.save()
    with torch.no_grad():
        direct = hf_module(organism)(**batch.inputs).logits
    assert_close(logits[:, -1], direct[:, -1])
