"""What loading tries: whether batches are exact; and what cannot crash a load or be silently wrong."""

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

from refusal_plugin.errors import ModelError, PromptError
from refusal_plugin.inference.edits import ablation
from refusal_plugin.models import anatomy, hf_layers, hf_module, load
from refusal_plugin.prompts import Prompt, batches, encode
from tests.support.tiny import LAYERS, VOCABULARY, randomise, tiny_model, tiny_tokenizer

TEXTS = ["w1 w2", "w3 w4 w5 w6 w7", "w8 w9 w1"]


def _hybrid(kind: str, **options: object) -> nn.Module:
    """A model with layers without attention."""
    size = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**{**size, **options})
        module: nn.Module = getattr(transformers, f"{kind}ForCausalLM")(config)
        randomise(module)
    return module.eval()


def _recurrent_gemma() -> nn.Module:
    return _hybrid("RecurrentGemma", num_hidden_layers=3, lru_width=32, attention_window_size=8)


def _lfm2() -> nn.Module:
    return _hybrid("Lfm2", num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"])


def _jamba() -> nn.Module:
    mamba = {"mamba_d_state": 8, "mamba_dt_rank": 8, "use_mamba_kernels": False}
    moe = {"num_experts": 2, "num_experts_per_tok": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
    return _hybrid("Jamba", num_hidden_layers=3, attn_layer_period=3, attn_layer_offset=1, **mamba, **moe)


def _nemotron_h() -> nn.Module:
    mamba = {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 8}
    return _hybrid("NemotronH", layers_block_type=["mamba", "mlp", "attention"], head_dim=8, **mamba)


class Leaky(nn.Module):
    """A planted fault: an MLP that adds the batch's mean to every row."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x.mean(0, keepdim=True)


def _leaky() -> nn.Module:
    module, _ = tiny_model("qwen2")
    layer = module.get_submodule("model.layers.1")
    layer.mlp = Leaky(layer.mlp).eval()
    return module


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "gemma2", "mixtral", "falcon", "deepseek_v3", "llava"])
def test_families_that_are_exact_are_batched(family: str) -> None:
    module, tokenizer = tiny_model(family)
    model = load(module, tokenizer=tokenizer)
    assert anatomy(model).one_at_a_time == {}
    assert [batch.size for _, batch in batches(model, TEXTS)] == [3]


@pytest.mark.parametrize("build", [_recurrent_gemma, _leaky])
def test_a_family_that_is_inexact_in_batches_runs_one_prompt_at_a_time(build) -> None:
    """RecurrentGemma's padding leaks into its state in transformers itself."""
    model = load(build(), tokenizer=tiny_tokenizer())
    assert anatomy(model).one_at_a_time["text"] > 1e-3
    found = list(batches(model, TEXTS))
    assert sorted(indices[0] for indices, _ in found) == [0, 1, 2] and {batch.size for _, batch in found} == {1}
    with pytest.raises(PromptError, match=r"3 prompts at once.*other values for text in a batch.*use batches\(\)"):
        encode(model, TEXTS)
    trusting = load(build(), tokenizer=tiny_tokenizer(), probe=False)
    assert anatomy(trusting).one_at_a_time == {} and encode(trusting, TEXTS).size == 3


def test_the_embedded_model_is_not_tried_again() -> None:
    """It is tested here; a trial would cost its load more than everything else."""
    model = load("organism")
    assert anatomy(model).one_at_a_time == {}


# -- layers without attention -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("build", "mixers"),
    [
        (_lfm2, ("conv", "self_attn", "conv")),
        (_jamba, ("mamba", "self_attn", "mamba")),
        (_recurrent_gemma, ("temporal_block", "temporal_block", "temporal_block")),
        (_nemotron_h, ("mixer", None, "mixer")),
    ],
)
def test_a_direction_is_removed_from_layers_without_attention_too(build, mixers: tuple[str | None, ...]) -> None:
    model = load(build(), tokenizer=tiny_tokenizer())
    found = anatomy(model)
    assert found.n_layers == LAYERS
    assert tuple(parts.writers.mixer for parts in found.parts) == mixers
    unit = torch.randn(found.d_model)
    unit /= unit.norm()
    seen: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _m, _i, y: seen.append((y[0] if isinstance(y, tuple) else y) @ unit))
        for block in hf_layers(model)
    ]
    inputs = encode(model, Prompt("w1 w2 w3")).inputs
    with torch.no_grad():
        hf_module(model)(**inputs, use_cache=False)
    plain = max(float(along.abs().max()) for along in seen)
    for handle in handles:
        handle.remove()
    with torch.no_grad(), ablation(unit, range(found.n_layers)).attached(model) as module:
        hidden = module(**inputs, use_cache=False, output_hidden_states=True).hidden_states
    assert plain > 0.01
    assert max(float((stream @ unit).abs().max()) for stream in hidden[1:-1]) < 1e-5 * max(1.0, plain)


# -- tokenizers without offsets ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["ByT5Tokenizer", "CanineTokenizer"])
def test_a_tokenizer_that_gives_no_offsets_is_asked_by_decoding(kind: str) -> None:
    tokenizer = getattr(transformers, kind)()
    tokenizer.chat_template = "{% for m in messages %}USER: {{ m['content'] }}\n{% endfor %}BOT:"
    assert not tokenizer.is_fast
    config = transformers.LlamaConfig(
        vocab_size=400 if kind == "ByT5Tokenizer" else 1_200_000,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = load(transformers.LlamaForCausalLM(config).eval(), tokenizer=tokenizer)
    for text in ("bake bread", "crêpe 漢字 ok"):
        batch = encode(model, [text, "a"])
        ids = batch.inputs["input_ids"][0][batch.roles["instruction"][0]]
        assert tokenizer.decode(ids).strip() == text
        assert batch.roles["post_instruction"][0].sum() == len("\nBOT:")


# -- conservation cannot crash a load ---------------------------------------------------------------------------------
class Opaque(nn.Module):
    """A projection that shows neither its widths nor its matrix, as some quantised layers do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.base_layer = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x)


@pytest.mark.parametrize(("family", "path"), [("qwen2", "self_attn.o_proj"), ("gpt2", "attn.c_proj")])
def test_a_projection_that_cannot_be_read_costs_head_work_only(family: str, path: str) -> None:
    module, tokenizer = tiny_model(family)
    for layer in module.get_submodule("model.layers" if family == "qwen2" else "transformer.h"):
        parent, _, name = path.rpartition(".")
        setattr(layer.get_submodule(parent), name, Opaque(layer.get_submodule(path)).eval())
    model = load(module, tokenizer=tokenizer)
    found = anatomy(model)
    assert not found.conservation.ok and found.conservation.leftover
    with pytest.raises(ModelError, match="attribute the heads"):
        found.require_heads()
    assert encode(model, TEXTS).size == 3


@pytest.mark.parametrize("kind", ["DeepseekV4", "Gemma3nText"])
def test_several_copies_of_the_stream_are_one_clear_line(kind: str) -> None:
    if kind == "Gemma3nText":
        module, tokenizer = tiny_model("gemma3n")
    else:
        moe = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1}
        more = {"q_lora_rank": 16, "o_lora_rank": 16, "o_groups": 2, "qk_rope_head_dim": 4, "hc_mult": 4}
        module = _hybrid(kind, num_hidden_layers=3, head_dim=8, **moe, **more)
        tokenizer = tiny_tokenizer()
    model = load(module, tokenizer=tokenizer)
    assert anatomy(model).copies == 4
    with pytest.raises(ModelError, match="hand on 4 copies of every token"):
        anatomy(model).require_stream("fit a direction")


# -- where weights lie ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "qwen2"
    module, tokenizer = tiny_model("qwen2")
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("where", ["auto", {"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}])
def test_a_device_map_gives_the_same_model(checkpoint: Path, where: object) -> None:
    words = tiny_tokenizer()
    plain, spread = load(checkpoint, tokenizer=words), load(checkpoint, tokenizer=words, device_map=where)
    inputs = encode(plain, TEXTS).inputs
    with torch.no_grad():
        torch.testing.assert_close(hf_module(spread)(**inputs).logits, hf_module(plain)(**inputs).logits)
    assert anatomy(spread).weight_hash() == anatomy(plain).weight_hash()
    assert anatomy(spread).conservation.ok


def test_a_module_spread_over_two_shards_is_traced_like_the_whole() -> None:
    """Hooks of accelerate carry the tensors from shard to shard; both are the CPU here."""
    accelerate = pytest.importorskip("accelerate")
    whole, tokenizer = tiny_model("qwen2")
    plain = load(whole, tokenizer=tokenizer)
    module, _ = tiny_model("qwen2")
    places = [
        "model.embed_tokens",
        "model.rotary_emb",
        *(f"model.layers.{n}" for n in range(LAYERS)),
        "model.norm",
        "lm_head",
    ]
    shards = accelerate.dispatch_model(module, dict.fromkeys(places, "cpu"), force_hooks=True)
    spread = load(shards, tokenizer=tokenizer)
    assert hf_module(spread).hf_device_map
    inputs = encode(plain, TEXTS).inputs
    unit = torch.randn(32)
    edit = ablation(unit / unit.norm(), range(LAYERS))
    results = []
    for model in (plain, spread):
        with torch.no_grad(), edit.attached(model) as module:
            results.append(module(**inputs).logits)
        with torch.no_grad(), model.trace(**inputs):
            logits = model.output.logits.save()
        results.append(logits)
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])


def test_offloaded_weights_are_refused_in_one_line(checkpoint: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    module, tokenizer = tiny_model("qwen2")
    with pytest.raises(ModelError, match=r"weights are offloaded.*max_memory") as caught:
        load(accelerate.cpu_offload(module), tokenizer=tokenizer)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="weights are offloaded"):
        load(checkpoint, device_map={"": "disk"})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device_map": "auto", "device": "cpu"}, "device and device_map both say"),
        ({"max_memory": {0: "1GB"}}, "max_memory is about a device_map"),
        ({"device_map": "auto", "remote": True}, "device_map cannot apply where the weights are on a server"),
        ({"gguf_file": "x.gguf"}, "has no x.gguf"),
    ],
)
def test_options_that_do_not_go_together(checkpoint: Path, options: dict, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        load(checkpoint, **options)


def test_a_quantisation_whose_package_is_missing_is_one_clear_line(checkpoint: Path) -> None:
    config = transformers.BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(ModelError, match=r"need a package that is not installed.*bitsandbytes") as caught:
        load(checkpoint, quantization_config=config)
    assert "\n" not in str(caught.value)


def test_the_module_inside_a_compiled_one_is_taken() -> None:
    module, tokenizer = tiny_model("qwen2")
    model = load(torch.compile(module), tokenizer=tokenizer)
    assert hf_module(model) is module
    module.compile()
    with pytest.raises(ModelError, match="compiled in place"):
        load(module, tokenizer=tokenizer)


def test_a_gguf_file_gives_the_weights_it_was_made_of(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    module, _ = tiny_model("qwen2")
    config = module.config
    writer = gguf.GGUFWriter(str(tmp_path / "tiny.gguf"), "qwen2")
    words = ["<pad>", "<bos>", "<eos>", *(chr(97 + n) for n in range(26)), "ab", *(f"w{n}" for n in range(34))]
    writer.add_context_length(128)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "self_attn.o_proj": "attn_output",
        "self_attn.": "attn_",
        "mlp.": "ffn_",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
        "model.layers": "blk",
        "_proj": "",
    }
    for path, value in module.state_dict().items():
        for long, short in names.items():
            path = path.replace(long, short)
        writer.add_tensor(path, value.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = load(tmp_path, gguf_file="tiny.gguf")
    weights = dict(hf_module(found).named_parameters())
    assert all(torch.equal(weights[path], value) for path, value in module.named_parameters())
    assert anatomy(found).conservation.ok
