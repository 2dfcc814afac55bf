"""A sample of the zoo: the families that most papers load, and one of each odd kind. `make zoo` tries them all."""

from pathlib import Path

import pytest

from tests.support import torchvision
from tests.support.zoo.build import build
from tests.support.zoo.checks import check, troubles
from tests.support.zoo.families import families

NO_TORCHVISION = torchvision.enable()
SAMPLE = (
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen2_audio",
    "llava",
    "llava_next",
    "gemma3",
    "idefics3",
    "mistral3",
    "llama",
    "gemma2",
    "granitemoehybrid",
    "deepseek_v3",
)


@pytest.mark.parametrize("family", SAMPLE)
def test_a_family_passes_every_check_or_refuses_heads_in_one_line(family: str, tmp_path: Path) -> None:
    chosen = families()[family]
    if NO_TORCHVISION and "video" in chosen.placeholders:
        pytest.skip(f"the processor of {family} takes video, and {NO_TORCHVISION}")
    built = build(chosen)
    if NO_TORCHVISION and built.why:
        pytest.skip(f"the processor of {family} cannot be built: {built.why}")
    built.save(tmp_path)
    assert not troubles(built)
    found = check(built, tmp_path, tuple(chosen.placeholders))
    bad = {name: said for name, said in found.items() if said != "ok"}
    assert set(bad) <= {"heads"} and not any(said.startswith("fails") for said in bad.values()), bad
