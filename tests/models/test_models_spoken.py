"""The spoken model: its parts go together as they were published, once, and what cannot be had is one clear line."""

import json

import pytest
import torch
from safetensors.torch import save_file

import refusal_plugin as rp
from refusal_plugin.models import spoken
from tests.support.real import Joined, Unavailable, fetch, records, whisper_names

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", spoken.AUDIO_TOKEN]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A decoder of the right width with one layer that reads bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("decoder")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=SPECIAL[2], pad_token=SPECIAL[0])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 1, "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 8}
    config = Qwen2Config(hidden_size=896, vocab_size=len(letters) + len(SPECIAL), tie_word_embeddings=True, **shape)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An encoder of the right width with one layer, in a file of CTranslate2's form and then in the hub's names."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(1)
    config = WhisperConfig(d_model=512, encoder_layers=1, encoder_attention_heads=8, encoder_ffn_dim=16)
    own = WhisperEncoder(config).state_dict()
    save_file({f"model.encoder.{name}": tensor for name, tensor in own.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


PROJECTOR = {
    "linear_1.weight": torch.full((896, 512), 0.01),
    "linear_1.bias": torch.zeros(896),
    "linear_2.weight": torch.full((896, 896), 0.01),
    "linear_2.bias": torch.zeros(896),
}


def test_the_assembled_model_writes_as_its_decoder_does(decoder, encoder) -> None:
    from transformers import Qwen2ForCausalLM

    whole, _ = spoken.assemble(decoder, encoder, PROJECTOR, torch.float32)
    ids = torch.tensor([[1, 5, 7, 8, 2]])
    own = Qwen2ForCausalLM.from_pretrained(decoder, dtype=torch.float32)
    assert torch.equal(whole(input_ids=ids).logits, own(input_ids=ids).logits)


def test_the_assembled_model_hears_as_its_encoder_does(decoder, encoder) -> None:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    whole, processor = spoken.assemble(decoder, encoder, PROJECTOR, torch.float32)
    sound = torch.randn(16000 * 2, generator=torch.Generator().manual_seed(0)).numpy()
    given = processor(text=[spoken.AUDIO_TOKEN], audio=[sound])
    assert int((given["input_ids"] == whole.config.audio_token_id).sum()) == 50  # 25 a second
    tower = whole.model.audio_tower
    heard = tower(given["input_features"], input_features_mask=given["input_features_mask"]).last_hidden_state[0, :50]
    own = WhisperEncoder(WhisperConfig(**json.loads((encoder / "config.json").read_text()))).eval()
    own.load_state_dict(whisper_names_inverse(encoder))
    padded = torch.nn.functional.pad(given["input_features"], (0, 3000 - given["input_features"].shape[-1]))
    kept: list[torch.Tensor] = []
    own.layers[0].self_attn.register_forward_pre_hook(
        lambda module, args, options: (args, options | {"attention_mask": only_first(100)}), with_kwargs=True
    )
    own.layer_norm.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    own(padded)
    pooled = kept[0][:, :100].unflatten(1, (50, 2)).mean(2)
    assert torch.allclose(own.layer_norm(pooled)[0], heard, atol=1e-4)


def whisper_names_inverse(folder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {n.removeprefix("model.encoder."): t for n, t in load_file(folder / "model.safetensors").items()}


def only_first(count: int) -> torch.Tensor:
    return torch.zeros(1, 1, 1500, 1500).masked_fill(torch.arange(1500) >= count, -torch.inf)


def test_a_part_of_another_shape_is_refused(encoder) -> None:
    with pytest.raises(rp.RefusalPluginError, match=r"the decoder is whisper of width 512\. give qwen2 of 896"):
        spoken.assemble(encoder, encoder, PROJECTOR)


def test_parts_are_put_together_once_and_then_loaded_by_name(decoder, encoder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = spoken.assembled_folder(decoder, encoder)
    assert folder == spoken.assembled_folder()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    model = rp.load("spoken")
    assert rp.anatomy(model).modalities == ("text", "audio")


def test_parts_that_cannot_be_fetched_are_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(rp.RefusalPluginError, match=r"Qwen/Qwen2\.5-Coder.* cannot be had here") as caught:
        rp.load("spoken")
    assert "refusal-plugin assemble" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_shipped_projector_is_small_and_whole() -> None:
    tensors = spoken.projector_tensors()
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {n: tuple(t.shape) for n, t in PROJECTOR.items()}
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    assert all(t.isfinite().all() for t in tensors.values())
    assert (spoken.FILES / "projector.safetensors").stat().st_size <= 3_000_000
    assert (spoken.FILES / "MODEL_CARD.md").is_file()


def record(name: str, tensor: torch.Tensor) -> bytes:
    """A tensor as CTranslate2 writes it, in float16."""
    raw = tensor.half().numpy().tobytes()
    shape = b"".join(n.to_bytes(4, "little") for n in tensor.shape)
    head = (len(name) + 1).to_bytes(2, "little") + name.encode() + b"\0"
    return head + bytes([tensor.dim()]) + shape + bytes([4]) + len(raw).to_bytes(4, "little") + raw


def test_stacked_queries_keys_and_values_of_a_package_find_their_names() -> None:
    stacked = torch.arange(12.0).reshape(6, 2)
    file = b"\6\0\0\0" + b"\4\0Wsp\0" + b"\3\0\0\0" + b"\2\0\0\0"
    file += record("encoder/layer_0/self_attention/linear_0/weight", stacked) + record("encoder/conv1/bias", stacked[0])
    found = whisper_names(dict(records(file)))
    where = "model.encoder.layers.0.self_attn"
    assert torch.equal(torch.cat([found[f"{where}.{k}_proj.weight"] for k in "qkv"]), stacked)
    assert torch.equal(found["model.encoder.conv1.bias"], stacked[0])


def test_a_file_that_is_not_the_pinned_one_is_refused(tmp_path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"something else")
    with pytest.raises(Unavailable, match="not the file that was pinned"):
        fetch(Joined("weights.bin", (), "0" * 64), tmp_path)
