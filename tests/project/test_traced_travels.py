"""Every recipe's request, run by a second Python without this package, gives what it gives here.

nnsight's own rehearsal (`remote="local"`) is not enough: installed packages stay importable in it. Here the package
does not exist and only what older public servers allow can be imported. A real server is in tests/ndif.
"""

import io
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from refusal_plugin.defences.omnisteer import OmniSteer
from refusal_plugin.directions.direction import fit_direction
from refusal_plugin.heads import project_tokens
from refusal_plugin.inference.answers import generate
from refusal_plugin.models import anatomy
from refusal_plugin.models.wrapper import TransformersModel, register
from refusal_plugin.recipe_files import recipe, recipes
from refusal_plugin.remote import settings
from refusal_plugin.safe_space import analyse_safe_space
from refusal_plugin.transfer import analyse_transfer
from tests.support.requests import REQUESTS, WITHIN

HERE = Path(__file__).resolve().parent
LOCAL_ONLY = {"study"}
LIMITS = {"direction_extraction": 48}
"""Enough prompts for several batches; the other recipes have several parts with 4."""
CLOSE = 1e-6
IDS = torch.tensor([5, 6])


class Second:
    """The second interpreter and the way to it."""

    def __init__(self, folder: Path, task: str) -> None:
        command = [sys.executable, str(HERE / "second_interpreter.py"), str(folder), task]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
        self.sent: list[int] = []

    def __call__(self, blob: bytes) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.sent.append(len(blob))
        self.process.stdin.write(struct.pack("<Q", len(blob)) + blob)
        self.process.stdin.flush()
        (length,) = struct.unpack("<Q", self.process.stdout.read(8))
        answer = torch.load(io.BytesIO(self.process.stdout.read(length)), weights_only=True)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return dict(answer["saved"])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@pytest.fixture(scope="module")
def second() -> Iterator[Second]:
    from refusal_plugin.organism import checkpoint_path

    found = Second(Path(checkpoint_path("organism")), "image-text-to-text")
    yield found
    found.close()


@pytest.fixture
def shipped(second: Second, monkeypatch: pytest.MonkeyPatch) -> Second:
    """`remote=True` goes to the second interpreter."""
    from nnsight.intervention.backends.remote import RemoteBackend
    from nnsight.schema.request import RequestModel

    from refusal_plugin.remote.portable import without_stops

    class Ship(RemoteBackend):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        def __call__(self, tracer: Any = None) -> Any:
            tracer.node = without_stops(tracer.node)
            result = second(RequestModel.serialize(tracer))
            self._push(result, tracer)

    register("refusal_plugin")
    monkeypatch.setattr(TransformersModel, "_remote_backend", lambda self, *args: Ship())
    second.sent.clear()
    return second


def parts(value: Any) -> Iterator[torch.Tensor]:
    """Every number inside a result."""
    if isinstance(value, torch.Tensor):
        yield value.double()
    elif isinstance(value, bool | int | float):
        yield torch.tensor(float(value), dtype=torch.float64)
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            if one.name not in ("provenance", "seconds"):
                yield from parts(getattr(value, one.name))
    elif isinstance(value, dict):
        for one in value.values():
            yield from parts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from parts(one)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(recipes()) - LOCAL_ONLY))
def test_a_recipe_travels(name: str, organism: Any, shipped: Second) -> None:
    """In one piece, and cut into as many requests as it has parts: the numbers of the run on this machine."""
    from refusal_plugin.organism.data import organism_prompts

    prompts = organism_prompts(limit=LIMITS.get(name, 4), renderings=1)
    here = list(parts(recipe(name).run(organism, prompts)))
    there = list(parts(recipe(name).run(organism, prompts, remote=True)))
    assert len(shipped.sent) == REQUESTS[name], "a step is one request"
    shipped.sent.clear()
    with settings(max_tokens=1):
        cut = list(parts(recipe(name).run(organism, prompts, remote=True)))
    assert len(shipped.sent) > REQUESTS[name]
    assert len(here) == len(there) == len(cut) > 0
    for a, *others in zip(here, there, cut, strict=True):
        assert all(torch.allclose(a, b, rtol=0, atol=WITHIN.get(name, CLOSE), equal_nan=True) for b in others)


def project(model: Any, prompts: Any, remote: bool) -> Any:
    direction = fit_direction(model, prompts.filter(split="train", modality="text"), progress=False).at(4)
    return project_tokens(model, direction, prompts.filter(split="test"), remote=remote)


def gated(model: Any, prompts: Any, remote: bool) -> Any:
    """Answers under a learned gate: what the network decides about the prompt reaches the steps behind it."""
    draw, d = torch.Generator().manual_seed(0), anatomy(model).d_model
    network = {"centre": torch.zeros(d), "scale": torch.ones(d), "bias": torch.zeros(4), "offset": torch.zeros(1)}
    network |= {"inward": torch.randn(d, 4, generator=draw), "outward": torch.randn(4, generator=draw)}
    vectors = 9.0 * torch.randn(1, d, generator=draw)
    defence = OmniSteer(name="omnisteer", layers=(3,), vectors=vectors, gate_layer=2, network=network, figures={})
    asked = prompts.filter(split="test", modality="text")
    return generate(model, asked, defence.edit(1.0), max_new_tokens=4, remote=remote, progress=False)


ANALYSES = {
    # Streams, the layer, plain answers, read-back, scores, answers under directions.
    "transfer": (
        6,
        lambda model, prompts, remote: analyse_transfer(
            model, prompts, refusal_ids=IDS, score_pairs=2, rate_pairs=2, draws=3, draws_by_layer=1,
            max_new_tokens=4, remote=remote, progress=False,
        ),
    ),
    # Streams, scores.
    "safe space": (
        2,
        lambda model, prompts, remote: analyse_safe_space(
            model, prompts, layer=3, k=3, ks=(1,), pairs=2, refusal_ids=IDS, remote=remote, progress=False
        ),
    ),
    "tokens": (1, project),
    "a learned gate": (1, gated),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_travels(name: str, organism: Any, shipped: Second) -> None:
    """As the recipes do: the numbers of the run on this machine, and one request for each step."""
    from refusal_plugin.organism.data import organism_prompts

    prompts = organism_prompts(limit=4, renderings=1, modality=("text", "image"))
    requests, run = ANALYSES[name]
    here = list(parts(run(organism, prompts, False)))
    there = list(parts(run(organism, prompts, True)))
    assert len(shipped.sent) == requests
    assert len(here) == len(there) > 0
    for a, b in zip(here, there, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=CLOSE, equal_nan=True)


@pytest.mark.slow
def test_what_does_not_travel_fails(organism: Any, shipped: Second) -> None:
    import json

    register(__name__)  # as a researcher does for a module of their own
    ids = {"input_ids": torch.arange(5, 13)[None], "attention_mask": torch.ones(1, 8, dtype=torch.long)}

    def ship(helper: Callable[..., Any]) -> None:
        with organism.trace(**ids, remote=True):
            found = helper(organism.output.logits).save()
        assert found is not None

    with pytest.raises(RuntimeError, match="whitelist"):
        ship(lambda x: (json.dumps({}), x)[1])
    with pytest.raises(RuntimeError, match=r"whitelist|No module named"):
        ship(imports_inside)
    ship(plain)


def imports_inside(x: Any) -> Any:
    from refusal_plugin.traced.read import residual

    return residual(x)


def plain(x: Any) -> Any:
    return torch.relu(x)
