"""Planted structure is recovered, intervals cover the truth, and the controls reject as often as they say."""

import math

import numpy as np
import pytest
import torch

from refusal_plugin.contrasts import Contrast, Fitted, GroupMean, cosine, empty, estimate
from refusal_plugin.errors import DataError, PromptError
from refusal_plugin.evaluation.rates import Outcomes
from refusal_plugin.inference.streams import SAFE, Streams, need_disjoint, some_pairs
from refusal_plugin.statistics import Estimate, resampled_groups, student_p_value
from refusal_plugin.transfer.effects import Interventions, scaled_vectors
from refusal_plugin.transfer.gap import SHIFT, fill_shift, gap_tables, refusal_gap
from refusal_plugin.transfer.similarity import auroc_null, aurocs, cosine_null, cosines

from .planted import D, axis, prompts, streams


def weights(groups: int, seed: int = 0, resamples: int = 400) -> torch.Tensor:
    return torch.from_numpy(resampled_groups(groups, rng=np.random.default_rng(seed), resamples=resamples))


def pair_of(angle: float, length: float = 4.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two directions at a known angle, turned away from the coordinate axes."""
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    return length * turn @ axis(0), length * turn @ (math.cos(angle) * axis(0) + math.sin(angle) * axis(1))


def fitted(s: Streams, w: torch.Tensor) -> Fitted:
    return Fitted.of(s.direction(sorted({p.pair for p in s.prompts})), w, 0)


# -- directions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, math.pi / 4, math.pi / 2])
def test_the_angle_between_two_directions_is_recovered(angle: float) -> None:
    r_a, r_b = pair_of(angle)
    a = streams("text", "train", 400, direction=r_a, seed=1)
    b = streams("image", "train", 400, direction=r_b, seed=2)
    w = weights(400)
    found = cosine(fitted(a, w), fitted(b, w), w, 1600)
    assert found.value == pytest.approx(math.cos(angle), abs=0.04)


def test_a_hidden_rotation_and_a_shift_leave_the_cosine_with_itself_alone() -> None:
    """The same set, turned by a known rotation: cosine falls to that rotation's, whatever the offset is."""
    r, _ = pair_of(0.0)
    turn = torch.eye(D, dtype=torch.float64)
    c, s = math.cos(0.6), math.sin(0.6)
    turn[:2, :2] = torch.tensor([[c, -s], [s, c]])
    r = 4.0 * axis(0)
    a = streams("text", "train", 300, direction=r, seed=1)
    b = streams("image", "train", 300, direction=turn @ r, shift=50 * axis(5), seed=2)
    w = weights(300)
    assert cosine(fitted(a, w), fitted(b, w), w, 1200).value == pytest.approx(c, abs=0.04)


def test_few_noisy_items_do_not_make_directions_look_different() -> None:
    """With 30 pairs and heavy noise the plain cosine of one shared direction is far below 1, the freed one is not."""
    r, _ = pair_of(0.0, 3.0)
    plain, free = [], []
    for seed in range(30):
        a = streams("text", "train", 30, direction=r, noise=2.0, seed=2 * seed, content_seed=seed)
        b = streams("image", "train", 30, direction=r, noise=2.0, seed=2 * seed + 1, content_seed=seed)
        groups = sorted({p.pair for p in a.prompts})
        directions = {"text": a.direction(groups), "image": b.direction(groups)}
        freed, as_fitted = cosines(directions, ["text"], ["image"], 1, 0)
        plain.append(float(as_fitted[0, 0, 0, 0]))
        free.append(float(freed[0, 0, 0, 0]))
    assert np.nanmean(plain) < 0.65
    assert np.nanmean(free) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("angle", [math.pi / 4, math.pi / 2])
def test_the_interval_of_the_cosine_covers_the_truth(angle: float) -> None:
    """200 simulated studies of 40 pairs that share content over modalities: 90 to 99 % of the 95 % intervals cover."""
    r_a, r_b = pair_of(angle, 3.0)
    hits = []
    for seed in range(200):
        a = streams("text", "train", 40, direction=r_a, seed=10_000 + seed, content_seed=seed)
        b = streams("image", "train", 40, direction=r_b, seed=20_000 + seed, content_seed=seed)
        w = weights(40, seed)
        found = cosine(fitted(a, w), fitted(b, w), w, 160)
        assert found.low is not None and found.high is not None
        hits.append(found.low <= math.cos(angle) <= found.high)
    assert 0.90 <= np.mean(hits) <= 0.99


def test_the_auroc_interval_covers_the_truth() -> None:
    """AUROC of the target along a FIXED direction; truth = Phi(length / (sd sqrt 2)) with sd from content and noise."""
    r = 1.5 * axis(0)
    truth = 0.5 * (1 + math.erf(1.5 / (math.sqrt(2.0) * math.sqrt(2)) / math.sqrt(2)))
    hits = []
    for seed in range(200):
        target = streams("image", "test", 40, direction=r, seed=seed, content_seed=1000 + seed)
        table = aurocs(axis(0)[None, None], target, SAFE, seed)
        found = estimate(table[0, 0])
        assert found.low is not None and found.high is not None
        hits.append(found.low <= truth <= found.high)
    # Items of a pair share content: comparisons within a pair are easier than the formula's, between pairs not.
    assert 0.90 <= np.mean(hits) <= 0.99


# -- controls ----------------------------------------------------------------------------------------------------------


def test_the_random_direction_null_of_auroc_rejects_as_often_as_it_says() -> None:
    """A source direction without meaning, drawn where activations vary, is called special in at most 7 of 100."""
    rng = np.random.default_rng(0)
    rejected = []
    spread = torch.diag(torch.linspace(3.0, 0.2, D, dtype=torch.float64))
    for seed in range(200):
        target = streams("image", "test", 30, direction=torch.zeros(D, dtype=torch.float64), seed=seed)
        target = Streams(target.prompts, (target.values.double() @ spread).float())
        null = auroc_null(target, 0, seed, 200)
        assert null is not None
        meaningless = spread @ torch.from_numpy(rng.standard_normal(D))
        value = float(aurocs(meaningless[None, None], target, SAFE, 0)[0, 0, 0])
        rejected.append(null.p_value(value, alternative="two-sided") <= 0.05)
    assert np.mean(rejected) <= 0.07


def test_the_null_of_the_cosine_rejects_as_often_as_it_says() -> None:
    rng, rejected = np.random.default_rng(1), []
    for seed in range(600):
        source = streams("text", "train", 30, direction=torch.zeros(D, dtype=torch.float64), seed=seed)
        r = source.of("harmful").double().mean(0)[0] - source.of("benign").double().mean(0)[0]
        other = torch.from_numpy(rng.standard_normal(D))
        drawn = cosine_null(source, 0, other, seed, 400)
        seen = abs(float(r @ other / r.norm() / other.norm()))
        rejected.append((1 + (drawn >= seen).sum()) / (1 + len(drawn)) <= 0.05)
    assert np.mean(rejected) <= 0.07


def test_the_t_test_against_random_directions_rejects_as_often_as_it_says() -> None:
    """Mean effects of twelve random directions and of one more, on the same items, of a curved response."""
    rng, rejected = np.random.default_rng(2), []
    for _ in range(2000):
        slope, drawn = rng.standard_normal(64), rng.standard_normal((13, 64))
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        effect = drawn @ slope + 0.3 * (drawn @ slope) ** 2
        rejected.append(student_p_value(float(effect[0]), effect[1:]) <= 0.05)
    assert 0.03 <= np.mean(rejected) <= 0.07


def test_a_planted_effect_is_found_and_bad_input_refused() -> None:
    draws = np.random.default_rng(0).standard_normal(12)
    assert student_p_value(9.0, draws) < 1e-4
    assert student_p_value(float(draws.mean()), draws) == 1.0
    assert student_p_value(1.0, [2.0, 2.0, 2.0]) == 0.0
    with pytest.raises(DataError, match="2 draws"):
        student_p_value(1.0, [0.0, 1.0])
    with pytest.raises(DataError, match="observed value of nan"):
        student_p_value(float("nan"), draws)


# -- the gap -----------------------------------------------------------------------------------------------------------


def planted_gap(groups: int, noise: float = 0.3, seed: int = 0) -> dict[str, torch.Tensor]:
    """An image set that lies 3 along r/|r| and 4 across from text, with a known share of the refusal direction."""
    r = 2.0 * axis(0)
    shift = 3.0 * axis(0) + 4.0 * axis(1)
    seeds = {"text": 7 * seed + 1, "image": 7 * seed + 2}
    made = {
        (name, split): streams(
            name, split, groups, direction=r if name == "text" else 0.5 * r,
            shift=None if name == "text" else shift, noise=noise, seed=seeds[name] + 100_000 * (split == "train"),
            content_seed=seed,
        )
        for name in ("text", "image")
        for split in ("train", "test")
    }  # fmt: skip
    test, fit = ({n: s for (n, split), s in made.items() if split == which} for which in ("test", "train"))
    means = (r[None], torch.zeros(1, D, dtype=torch.float64))
    return gap_tables(test, fit, "text", means, 0)


def test_the_parts_of_a_planted_gap_are_recovered() -> None:
    found = planted_gap(200)
    image = {key: float(table[1, 0, 0]) for key, table in found.items()}
    # Harmful image items lie half a direction less along r: the mean shift along r is 3 - 1/3.
    along = 3.0 - 1 / 3
    assert image["along"] == pytest.approx(along / 2, abs=0.03)
    assert image["shift"] == pytest.approx(math.hypot(along, 4) / 2, abs=0.03)
    assert image["share_along"] == pytest.approx(along**2 / (along**2 + 16), abs=0.02)
    assert image["share_orthogonal"] == pytest.approx(1 - image["share_along"], abs=1e-9)
    spread = 2 * D * 0.3**2 + 2 / 9  # own noise of two items, and the halved direction of a third of them
    assert image["translation"] == pytest.approx((along**2 + 16) / (along**2 + 16 + spread), abs=0.03)
    # Harmful image items: 3/2 + 1/2 of a direction minus the midpoint; re-centred by the benign shift: none of it.
    assert image["harmful_before"] == pytest.approx(1.5, abs=0.05)
    assert image["harmful_after"] == pytest.approx(0.0, abs=0.06)
    assert image["safe_before"] == pytest.approx(1.0, abs=0.05)
    assert image["safe_after"] == pytest.approx(-0.5, abs=0.05)
    assert math.isnan(float(found["shift"][0, 0, 0])), "the reference has no gap to itself"


def test_a_pure_translation_and_no_translation_at_all() -> None:
    a = streams("text", "test", 100, direction=2 * axis(0), seed=1)
    moved = Streams(prompts("image", "test", 100), a.values + 5)
    means = (2 * axis(0)[None], torch.zeros(1, D, dtype=torch.float64))
    found = gap_tables({"text": a, "image": moved}, {}, "text", means, 0)
    assert float(found["translation"][1, 0, 0]) == pytest.approx(1.0, abs=1e-6)
    other = streams("image", "test", 100, direction=2 * axis(0), seed=2)
    found = gap_tables({"text": a, "image": other}, {}, "text", means, 0)
    assert float(found["translation"][1, 0, 0]) < 0.02
    assert math.isnan(float(found["harmful_after"][1, 0, 0])), "no fit items, no re-centring"


@pytest.mark.slow
def test_the_interval_of_the_share_covers_the_truth() -> None:
    along = 3.0 - 1 / 3
    truth = along**2 / (along**2 + 16)
    hits = []
    for seed in range(200):
        r = 2.0 * axis(0)
        text = streams("text", "test", 24, direction=r, seed=7 * seed + 1, content_seed=seed)
        image = streams(
            "image", "test", 24, direction=0.5 * r, shift=3.0 * axis(0) + 4.0 * axis(1), seed=7 * seed + 2,
            content_seed=seed,
        )  # fmt: skip
        found = {name: empty(1) for name in SHIFT}
        fill_shift(found, image, text, r[None], seed)
        low, high = found["share_along"][0, 1:3].tolist()
        hits.append(low <= truth <= high)
    assert 0.90 <= np.mean(hits) <= 0.99


def test_cka_of_related_and_of_unrelated_pairs() -> None:
    related = streams("text", "test", 60, direction=axis(0), noise=0.3, content=2.0, seed=1)
    unrelated = streams("text", "test", 60, direction=axis(0), noise=2.0, content=0.0, seed=1)
    means = (axis(0)[None], torch.zeros(1, D, dtype=torch.float64))
    for s, low, high in ((related, 0.85, 1.0), (unrelated, -0.1, 0.1)):
        found = gap_tables({"text": s}, {}, "text", means, 0)
        assert low <= float(found["cka"][0, 0, 0]) <= high
    # The plain form calls even unrelated sets of this size alike; shuffled pairs show it.
    assert float(found["cka_plain"][0, 0, 0]) > 0.15
    assert float(found["cka_plain"][0, 0, 0]) == pytest.approx(float(found["cka_shuffled"][0, 0, 0]), abs=0.06)


def outcomes_of(modality: str, refused: list[bool]) -> Outcomes:
    asked = prompts(modality, "test", len(refused))
    labels = ["refusal" if p.role == "harmful" and refused[i // 3] else "compliance" for i, p in enumerate(asked)]
    return Outcomes(asked, tuple(labels), tuple(None for _ in asked))  # type: ignore[arg-type]


def test_the_gate_counts_only_what_was_read() -> None:
    text = outcomes_of("text", [True] * 10)
    image = outcomes_of("image", [True] * 4 + [False] * 6)
    harmful = [p.id for p in image.prompts if p.role == "harmful"]
    found = refusal_gap(text, image, frozenset(harmful[:8]), 0)
    assert found["ungated"].value == pytest.approx(0.6)  # type: ignore[union-attr]
    assert found["gated"].value == pytest.approx(0.5)  # type: ignore[union-attr]
    assert (found["dropped"], found["n"]) == (2, 10)
    unasked = refusal_gap(text, image, None, 0)
    assert unasked["dropped"] is None and unasked["gated"] == Estimate.missing(10)


# -- rows, folds, bad input --------------------------------------------------------------------------------------------


def test_one_modality_never_reads_another_s_rows() -> None:
    """Spoiling every row of the image leaves everything about text alone."""
    text = streams("text", "train", 30, direction=2 * axis(0), seed=1)
    images = [streams("image", "train", 30, direction=s * axis(1), seed=s) for s in (2, 9)]
    groups = sorted({p.pair for p in text.prompts})
    first, second = (
        cosines({"text": text.direction(groups), "image": image.direction(groups)}, ["text"], ["text"], 1, 0)[0]
        for image in images
    )
    assert torch.equal(first, second)
    with pytest.raises(DataError, match="rows of image and text"):
        Streams(text.prompts + images[0].prompts, torch.cat([text.values, images[0].values]))


def test_pairs_are_kept_whole() -> None:
    asked = prompts("text", "test", 11)
    for n in (1, 4, 11, 50):
        chosen = some_pairs(asked, n)
        groups = chosen.groups()
        assert len(groups) == min(n, 11)
        assert all({p.role for p in members} == {"harmful", "benign"} for members in groups.values())
    assert [p.pair for p in some_pairs(prompts("image", "test", 11), 4)] == [p.pair for p in some_pairs(asked, 4)]


def test_group_errors_are_the_variance_of_the_mean() -> None:
    """Squared errors add up to what a mean over groups really varies by, shared content included."""
    seen, said = [], []
    for seed in range(300):
        s = streams("text", "train", 20, direction=axis(0), seed=seed, content_seed=5000 + seed)
        groups = sorted({p.pair for p in s.prompts})
        mean = GroupMean.of(s.of("benign", "near_miss"), s.pairs("benign", "near_miss"), groups)
        seen.append(mean.mean[0])
        said.append(float(mean.errors.square().sum()))
    truth = float(torch.stack(seen).var(0).sum())
    assert np.mean(said) == pytest.approx(truth, rel=0.05)


def test_matched_length_gives_every_source_the_first_one_s() -> None:
    fitted = torch.stack([axis(0) * 3, axis(1) * 0.1])[:, None]
    vectors = scaled_vectors(fitted, 0.5, "matched")
    assert torch.allclose(vectors.norm(dim=-1), torch.tensor(1.5))
    given = Interventions(vectors, torch.zeros(2, 1, D), "benign_mean", (0,), (2,), seed=0)
    assert torch.allclose(given.random(3, 0).norm(), torch.tensor(1.5))
    assert not torch.equal(given.random(3, 0), given.random(4, 0))
    assert len(given.added(0, 2)) == len(given.removed(0, 2, 1)) == 4, "two sources and two random directions"
    own = scaled_vectors(fitted, 1.0, "own")
    assert torch.allclose(own.norm(dim=-1)[:, 0], torch.tensor([3.0, 0.1]))


def test_bad_inputs_are_refused() -> None:
    s = streams("text", "train", 4, direction=axis(0), seed=1)
    with pytest.raises(DataError, match="NaN"):
        Streams(s.prompts, s.values * float("nan"))
    with pytest.raises(DataError, match="12 prompts and 3 rows"):
        Streams(s.prompts, s.values[:3])
    with pytest.raises(DataError, match="0 rows"):
        GroupMean.of(s.values[:0], [], ["a"])
    with pytest.raises(PromptError, match="in the fit and in the test part"):
        need_disjoint(s.prompts, s.prompts, "transfer")
    need_disjoint(s.prompts, prompts("image", "test", 3), "transfer")


def test_a_direction_lost_in_noise_is_not_measurable() -> None:
    zero = torch.zeros(D, dtype=torch.float64)
    missing = 0
    for seed in range(20):
        a = streams("text", "train", 20, direction=zero, seed=seed, content_seed=seed)
        b = streams("image", "train", 20, direction=zero, seed=500 + seed, content_seed=seed)
        w = weights(20)
        missing += cosine(fitted(a, w), fitted(b, w), w, 80).value is None
    assert missing >= 15


def test_a_contrast_of_one_mean_is_that_mean() -> None:
    s = streams("text", "train", 6, direction=axis(0), seed=1)
    groups = sorted({p.pair for p in s.prompts})
    mean = GroupMean.of(s.of("benign"), s.pairs("benign"), groups)
    assert torch.equal(Contrast(mean).vector, mean.mean) and torch.equal(Contrast(mean).errors, mean.errors)
    w = torch.ones(1, 6, dtype=torch.float64)
    assert torch.allclose(Contrast(mean).resampled(w, 0)[0], mean.mean[0])
