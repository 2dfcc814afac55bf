"""Planted safe spaces are found, split, compared and doubted where they should be."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from refusal_plugin.errors import DataError, DirectionError
from refusal_plugin.geometry import Moments
from refusal_plugin.inference.streams import Streams
from refusal_plugin.safe_space import SafeSpace, overlap, overlaps, random_angles
from refusal_plugin.safe_space.analysis import share_inside

from .planted import D, axis, prompts


def rows(n: int, strong: int, seed: int, first: int = 0) -> Tensor:
    """Safe activations that vary by 3 along `strong` axes from `first` on, and by 0.2 elsewhere; (n, 1, d)."""
    scale = torch.full((D,), 0.2, dtype=torch.float64)
    scale[first : first + strong] = 3.0
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale + 7
    return x.float()[:, None]


def test_a_planted_space_is_found_and_splits_a_direction() -> None:
    space = SafeSpace.fit(rows(400, 3, 0), 3)
    truth = torch.eye(D)[:, :3]
    assert float(overlap(space.basis[0], truth)) == pytest.approx(1.0, abs=1e-3)
    assert float(space.explained[0, -1]) == pytest.approx(27 / (27 + 21 * 0.04), abs=0.01)
    v = (3 * axis(0) + 4 * axis(10)).float()[None]
    inside, rest = space.decompose(v)
    assert torch.allclose(inside + rest, v, atol=1e-5)
    assert float(inside.norm()) == pytest.approx(3.0, abs=0.05) and float(rest.norm()) == pytest.approx(4.0, abs=0.05)
    assert float(space.share(v)[0, -1]) == pytest.approx(9 / 25, abs=0.01)
    assert float(space.remainder(v)[0]) == pytest.approx(0.8, abs=0.01)
    half = space.decompose(v, strength=0.5)[1]
    assert torch.allclose(half, v - 0.5 * inside, atol=1e-5)


def test_streaming_and_rows_give_one_space() -> None:
    x = rows(60, 4, 1)
    moments = Moments.empty((1, D), second="full")
    for part in x.split(7):
        moments = moments.update(part)
    streamed, direct = SafeSpace.fit(moments, 4), SafeSpace.fit(x, 4)
    assert streamed.n == direct.n == 60
    assert torch.allclose(streamed.basis, direct.basis, atol=1e-4)
    assert torch.allclose(streamed.variance, direct.variance, rtol=1e-4)


def test_few_items_disagreeing_halves_and_tiny_remainders_are_warned_of() -> None:
    few = SafeSpace.fit(rows(6, 3, 2), 10)
    assert few.k == 5 and "6 safe items for k = 10" in few.warnings[0]
    assert "fewer than 5 per direction" in SafeSpace.fit(rows(30, 3, 2), 10).warnings[0]
    # Halves that vary along different axes.
    halves = (Moments.of(rows(40, 2, 3), second="full"), Moments.of(rows(40, 2, 4, first=5), second="full"))
    torn = SafeSpace.fit(torch.cat([rows(40, 2, 3), rows(40, 2, 4, first=5)]), 2, halves=halves)
    assert torn.agreement is not None and float(torn.agreement[0]) < 0.1
    assert any("two halves" in warning for warning in torn.warnings)
    whole = (Moments.of(rows(200, 2, 3), second="full"), Moments.of(rows(200, 2, 4), second="full"))
    sound = SafeSpace.fit(torch.cat([rows(200, 2, 3), rows(200, 2, 4)]), 2, halves=whole)
    assert sound.warnings == ()
    assert any("almost nothing" in warning for warning in sound.check(axis(0).float()[None]))
    assert sound.check(axis(9).float()[None]) == ()
    with pytest.raises(DataError, match="first 3 directions"):
        sound.first(3)
    with pytest.raises(DataError, match="1 items"):
        SafeSpace.fit(rows(1, 3, 0), 1)
    with pytest.raises(DataError, match="NaN"):
        SafeSpace.fit(rows(20, 3, 0) * float("nan"), 2)


def test_the_share_inside_is_freed_from_fitting_noise() -> None:
    """A direction across the space, fitted on few items that vary inside it, seems to lie inside; it does not."""
    plain, free = [], []
    for seed in range(20):
        x = torch.cat([rows(24, 4, 100 + seed), rows(24, 4, 200 + seed)])
        asked = prompts("text", "train", 24)
        values = torch.empty(72, 1, D)
        values[::3] = x[:24] + 3 * axis(20).float()
        values[1::3] = x[24:]
        values[2::3] = rows(24, 4, 300 + seed)
        s = Streams(asked, values)
        space = SafeSpace.of_streams(s, 4, compared=4)
        direction = s.direction(sorted({p.pair for p in asked}))
        plain.append(float(space.share(direction.vector.float())[0, -1]))
        free.append(float(share_inside(direction, space, 48, 0)[0, -1, 0]))
    assert sum(plain) / 20 > 0.15
    assert sum(free) / 20 < 0.08


def test_shared_and_unshared_spaces_beside_their_yardsticks() -> None:
    x = {"text": rows(120, 3, 1), "image": rows(120, 3, 2), "audio": rows(120, 3, 3, first=8)}
    pairs = {name: [str(k) for k in range(120)] for name in x}
    found = overlaps(x, pairs, 0, k=3)
    own, shared = found.estimate("text", "text", 0).value, found.estimate("text", "image", 0).value
    other = found.estimate("text", "audio", 0).value
    assert own == pytest.approx(1.0, abs=0.02) and shared == pytest.approx(own, abs=0.02)
    assert other is not None and other < 0.05
    assert float(found.angles[0, 1].max()) < 0.15 and float(found.angles[0, 2].min()) > 1.3
    assert found.chance == 3 / D
    assert torch.equal(found.overlap, found.overlap.transpose(0, 1))
    with pytest.raises(DataError, match="3 safe items"):
        overlaps({"text": x["text"][:3]}, {"text": ["a", "b", "c"]}, 0, k=2)


def test_random_spaces_overlap_by_chance() -> None:
    null = random_angles(D, 4)
    assert bool((null[1] <= null[0]).all()) and bool((null[0] <= null[2]).all())
    assert float(null[0].cos().square().mean()) == pytest.approx(4 / D, abs=0.05)
    assert math.isclose(float(random_angles(3, 3)[0].max()), 0.0, abs_tol=1e-5), "whole spaces are one space"


def test_a_space_is_saved_and_read_again(tmp_path: Path) -> None:
    space = SafeSpace.fit(rows(50, 3, 0), 4, modality="image", layers=(5,))
    again = SafeSpace.load(space.save(tmp_path / "space.safetensors"))
    assert torch.equal(again.basis, space.basis) and again.layers == (5,) and again.modality == "image"
    assert again.n == 50 and again.warnings == space.warnings and again.agreement is None
    assert "safe space of image" in space._repr_html_()
    with pytest.raises(DataError, match="no such file"):
        SafeSpace.load(tmp_path / "none")


# -- on the embedded model ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked() -> Any:
    from refusal_plugin.organism.data import organism_prompts

    return organism_prompts(split="train", modality=("text", "image"), renderings=1, limit=12) + organism_prompts(
        split="test", modality=("text", "image"), renderings=1, limit=6
    )


def test_a_model_s_safe_space_streams(organism: Any, asked: Any) -> None:
    safe = asked.filter(split="train", modality="image", role=("benign", "near_miss"))
    space = SafeSpace.of(organism, safe, 4, layers=(1, 3), progress=False)
    assert space.n == len(safe) and space.layers == (1, 3) and space.agreement is not None
    with pytest.raises(DirectionError, match="was made on"):
        load = space.provenance | {"d_model": 7}
        from refusal_plugin.models.provenance import check_provenance

        check_provenance(load, organism, "use")
    with pytest.raises(DataError, match="one modality"):
        SafeSpace.of(organism, asked.filter(role="benign"), progress=False)
    with pytest.raises(DataError, match="benign and near-miss"):
        SafeSpace.of(organism, asked.filter(modality="text"), progress=False)


def test_the_report_of_a_model(organism: Any, asked: Any, tmp_path: Path) -> None:
    from refusal_plugin.report.transfer import transfer_chapter
    from refusal_plugin.safe_space import SafeSpaceReport, analyse_safe_space
    from refusal_plugin.study.transfer_words import safe_space_words

    found = analyse_safe_space(
        organism, asked, layer=2, strength=0.5, k=4, ks=(1, 4, 8), strengths=(0.5,), pairs=3,
        refusal_ids=torch.tensor([5]), progress=False,
    )  # fmt: skip
    record = found.to_json()
    assert set(record["modalities"]) == {"text", "image"} and record["layer"] == 2
    sweep = record["modalities"]["image"]["sweep"]
    assert [(r["k"], r["strength"], r["kind"]) for r in sweep] == [
        (0, 0.0, "safe_space"), (1, 1.0, "safe_space"), (4, 1.0, "safe_space"), (8, 1.0, "safe_space"),
        (4, 0.5, "safe_space"), (4, 1.0, "random"),
    ]  # fmt: skip
    lengths = [r["left"] for r in sweep[:4]]
    assert lengths[0] == 1.0 and lengths == sorted(lengths, reverse=True)
    again = SafeSpaceReport.load(found.save(tmp_path / "report.safetensors"))
    assert again.to_json() == record
    chapter = str(transfer_chapter({"safe_space": record, "findings": {"safe_space": safe_space_words(record)}}))
    assert chapter.count("<svg") >= 5 and "nan" not in chapter.lower().replace("finance", "")
    assert "SafeSpaceReport" in found._repr_html_()
