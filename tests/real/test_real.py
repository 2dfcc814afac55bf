"""The real model, put together and held against itself and against the paper's algorithm; `make real` runs this.

Left out where REAL is not set: the weights are fetched (REAL names the folder that keeps them). Where they cannot be
had everything is skipped with the reason in one line.
"""

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import refusal_plugin as rp
from refusal_plugin.models import spoken
from refusal_plugin.prompts import PromptSet
from refusal_plugin.prompts.twins import twins
from tests.directions.test_directions_reference import compare, reference_of
from tests.support import real

FOLDER = os.environ.get("REAL", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="REAL is not set: run `make real`")


@pytest.fixture(scope="module")
def parts() -> tuple[Path, Path]:
    try:
        return real.decoder_folder(Path(FOLDER)), real.encoder_folder(Path(FOLDER))
    except real.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def model(parts: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", FOLDER)
        spoken.assembled_folder(*parts)
        return rp.load("spoken")


@pytest.fixture(scope="module")
def asked() -> dict[str, PromptSet]:
    """Twenty-four twins: six pairs to fit, six to choose; the safe ones count as benign."""
    pairs = sorted({p.pair for p in twins()})
    random.Random(0).shuffle(pairs)
    cuts = {"train": set(pairs[:6]), "val": set(pairs[6:12])}
    roles = {"harmful": "harmful", "near_miss": "benign"}
    return {
        split: PromptSet(p.replace(split=split, role=roles[str(p.role)]) for p in twins() if p.pair in some)
        for split, some in cuts.items()
    }


def test_it_takes_text_and_sound(model: Any) -> None:
    assert rp.anatomy(model).modalities == ("text", "audio")
    assert rp.anatomy(model).n_layers == 24


def test_the_projector_is_the_shipped_one(model: Any) -> None:
    projector = model._module.model.multi_modal_projector
    frames = torch.randn(50, 512, generator=torch.Generator().manual_seed(0))
    shipped = {name: tensor.float() for name, tensor in spoken.projector_tensors().items()}
    hidden = torch.nn.functional.gelu(frames @ shipped["linear_1.weight"].T + shipped["linear_1.bias"])
    own = hidden @ shipped["linear_2.weight"].T + shipped["linear_2.bias"]
    found = projector(frames)
    assert float((found - own).norm() / own.norm()) < 1e-2  # stored in bfloat16


def test_it_refuses_harm_and_answers_what_is_safe(model: Any, asked: dict[str, PromptSet]) -> None:
    said = rp.generate(model, asked["train"], max_new_tokens=16)
    rates = rp.refusal_rates(rp.label_answers(asked["train"], said)).to_json()
    assert rates["harmful_refusal"]["value"] > rates["benign_refusal"]["value"]


def test_the_real_model_gets_the_direction_of_the_papers_algorithm(model: Any, asked: dict[str, PromptSet]) -> None:
    tokens = rp.refusal_tokens(model, asked["train"], max_new_tokens=16)
    compare(model, asked["train"], asked["val"], tokens, reference_of(model, tokens.ids), every=4)
