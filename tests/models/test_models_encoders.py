"""A medium goes through its tower once, and what is kept of it changes nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor

import refusal_plugin as rp
from refusal_plugin.inference.arms import generate_arms, score_arms
from refusal_plugin.inference.edits import addition
from refusal_plugin.inference.prefix import collect_variants
from refusal_plugin.models import anatomy, hf_module, load
from refusal_plugin.models.encoders import METHODS, kept_of
from refusal_plugin.models.running import running
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import Prompt, encode
from tests.support.media_models import prompt, save

FAMILIES = ["llava", "llava_next", "gemma3_multimodal", "internvl", "mistral3", "qwen3_vl", "qwen2_audio"]
BATCHES = ((0, 1), (1, 2), (0, 2, 1), (2, 2, 0), (0,))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    known: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in known:
            known[family] = load(save(family, tmp_path_factory.mktemp(family)))
        return known[family]

    return get


@pytest.fixture(autouse=True)
def nothing_kept(organism: Any) -> Iterator[None]:
    forget(organism)
    yield
    forget(organism)


def forget(model: Any) -> None:
    kept_of(model).__init__()  # type: ignore[misc]


def logits(model: Any, prompts: list[Prompt]) -> Tensor:
    with torch.no_grad():
        found: Tensor = hf_module(model)(**encode(model, prompts).inputs).logits[:, -1]
    return found


@contextmanager
def encoded(model: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many items each call of the towers was given."""
    found: list[int] = []

    def counting(plain: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(plain)  # `generate` looks at its arguments
        def features(part: Any, *args: Any, **kwargs: Any) -> Any:
            given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            grids = [value for value in given if value.ndim == 2 and value.shape[1] == 3]
            found.append(len((grids or given)[0]))
            return plain(part, *args, **kwargs)

        return features

    with monkeypatch.context() as patch:
        for kind in {type(part) for part in hf_module(model).modules()}:
            for name in METHODS:
                if name in vars(kind):
                    patch.setattr(kind, name, counting(getattr(kind, name)))
        yield found


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_kept_gives_the_same_logits_in_any_batch(loaded: Callable[[str], Any], family: str) -> None:
    model = loaded(family)
    kind = next((kind for kind in anatomy(model).modalities if kind != "text"), None)
    if kind is None:
        pytest.skip(f"{family} takes no media here")
    prompts = [prompt(kind, f"w1 w{k}", seed=k) for k in range(3)]
    for rows in BATCHES:
        some = [prompts[row] for row in rows]
        expected = logits(model, some)
        with running(model, "read media"):
            torch.testing.assert_close(logits(model, some), expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(logits(model, some), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("modality", ["image", "video", "audio"])
def test_arms_strengths_and_answers_encode_each_medium_once(
    organism: Any, few: Any, tokens: Any, monkeypatch: pytest.MonkeyPatch, modality: str
) -> None:
    """Once, and once more where it first comes again beside others; sound goes by whole batches."""
    prompts, vector = list(few[modality]), torch.ones(anatomy(organism).d_model)
    edits = [addition({1: vector}, strength=s) for s in (0.0, 0.1, 0.2)]
    with encoded(organism, monkeypatch) as found:
        rp.collect_activations(organism, prompts, progress=False)
        collect_variants(organism, prompts, (None, "I cannot assist with that."), progress=False)
        first = score_arms(organism, prompts, tokens.ids, edits)
        again = score_arms(organism, prompts, tokens.ids, edits)
        generate_arms(organism, prompts, edits, max_new_tokens=2, progress=False)
        generate_arms(organism, prompts, edits[::-1], max_new_tokens=2, progress=False)
    assert torch.equal(first.score, again.score)
    n, rows = len(prompts), len(prompts) * len(edits)
    assert sum(found) <= (n + rows if modality != "audio" else n + 4 * rows), found
    kept_of(organism).limit = 0
    with encoded(organism, monkeypatch) as plain:
        expected = score_arms(organism, prompts, tokens.ids, edits)
    torch.testing.assert_close(first.score, expected.score, atol=1e-3, rtol=1e-4)
    assert sum(plain) >= rows


def test_sarsteer_encodes_its_items_once_for_both_arms_and_all_variants(
    organism: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = list(organism_prompts(split="train", modality="image", role="harmful", renderings=1, limit=12))
    with encoded(organism, monkeypatch) as found:
        for suffix in ("I cannot assist with that.", "I will not do that.", "no"):
            collect_variants(organism, prompts, (None, suffix), progress=False)
    assert sum(found) <= len(prompts) + 4, "the trial of the cache has two rows"


def test_what_is_kept_is_bounded_and_the_oldest_leaves_first(loaded: Callable[[str], Any]) -> None:
    model = loaded("llava")
    forget(model)
    kept = kept_of(model)
    prompts = [prompt("image", "w1", seed=10 + k) for k in range(6)]
    with running(model, "read media"):
        logits(model, prompts[:1])
        size = kept.used
        kept.limit = 3 * size
        for one in prompts:
            logits(model, [one])
            assert kept.used <= kept.limit and kept.used == size * len(kept.held)
        newest = list(kept.held)
        logits(model, [prompts[3]])
    assert [*newest[1:], newest[0]] == list(kept.held), "asked for again, it is the newest"


def test_other_weights_and_hooks_in_a_tower_are_seen(loaded: Callable[[str], Any]) -> None:
    model, one = loaded("llava"), [prompt("image", "w1", seed=3)]
    tower = next(part for name, part in hf_module(model).named_modules() if name.endswith("vision_tower"))
    inner = next(part for part in tower.modules() if isinstance(part, torch.nn.LayerNorm))
    with running(model, "read media"):
        before = logits(model, one)
    with torch.no_grad():
        inner.weight.mul_(3.0)
    changed = logits(model, one)
    with running(model, "read media"):
        torch.testing.assert_close(logits(model, one), changed)
    handle = inner.register_forward_hook(lambda _m, _a, out: 0 * out)
    hooked = logits(model, one)
    with running(model, "read media"):
        torch.testing.assert_close(logits(model, one), hooked)
    handle.remove()
    assert not torch.allclose(before, changed) and not torch.allclose(changed, hooked)
    with torch.no_grad():
        inner.weight.div_(3.0)


def test_a_tower_that_looks_at_the_whole_batch_is_taken_as_a_whole(
    loaded: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = loaded("llava")
    forget(model)
    owner = type(next(part for part in list(hf_module(model).modules())[::-1] if hasattr(part, METHODS[0])))
    plain = owner.get_image_features

    def mixing(part: Any, *args: Any, **kwargs: Any) -> Any:
        output = plain(part, *args, **kwargs)
        features = output.pooler_output
        many = features if isinstance(features, Tensor) else torch.stack(list(features))
        output.pooler_output = tuple(many + 3 * many.mean(0, keepdim=True))
        return output

    monkeypatch.setattr(owner, "get_image_features", mixing)
    prompts = [prompt("image", "w1", seed=20 + k) for k in range(3)]
    for rows in BATCHES * 2:
        some = [prompts[row] for row in rows]
        expected = logits(model, some)
        with running(model, "read media"):
            torch.testing.assert_close(logits(model, some), expected)
    assert kept_of(model).separable == {"get_image_features": False}
    forget(model)
