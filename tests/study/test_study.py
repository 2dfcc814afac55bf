"""The study survives interruptions, says what it measured, and calls a model what it is."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from refusal_plugin.defences.run import DefenceRun
from refusal_plugin.directions.calibration import ITEMS, TARGET_KL, TOKENS
from refusal_plugin.directions.direction import Direction
from refusal_plugin.errors import PromptError, StudyError
from refusal_plugin.evaluation import REFUSALS, PhraseJudge
from refusal_plugin.models import load
from refusal_plugin.models.own_prompts import own_prompts
from refusal_plugin.organism import checkpoint_path
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import PromptSet
from refusal_plugin.recipe_files import recipe
from refusal_plugin.report.numbers_in_words import change
from refusal_plugin.storage import Checkpoints
from refusal_plugin.study.regime import regime
from refusal_plugin.study.run import identity, the_direction
from training.architecture import N_LAYERS

# -- the whole of it --------------------------------------------------------------------------------------------------

LIMIT = 60  # of `short_study`


@pytest.fixture(scope="module")
def folder(short_study: tuple[Path, dict[str, Any]]) -> Path:
    return short_study[0]


@pytest.fixture(scope="module")
def results(short_study: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    return short_study[1]


def test_results_hold_the_documented_keys(results: dict[str, Any], folder: Path) -> None:
    assert json.loads((folder / "results.json").read_text()) == results
    assert results["schema_version"] == 1 and results["model"] == "organism" and results["seed"] == 0
    documented = {"regime", "direction", "modalities", "ablation", "examples", "timings", "warnings", "prompts"}
    assert documented | {"weight_hash", "template_hash", "limit", "created", "versions"} <= set(results)
    direction = {"layer", "position", "site", "method", "objective", "selection", "strength", "norm", "n_layers"}
    assert direction | {"d_model", "refusal_tokens", "table"} <= set(results["direction"])
    row = {"layer", "position", "bypass", "induce", "kl_ablate", "kl_add", "kept", "reason"}
    assert all(row <= set(line) for line in results["direction"]["table"])
    assert list(results["modalities"]) == ["text", "image", "video", "audio"]
    section = {"n_harmful", "n_benign", "n_near_miss", "read_back", "auroc_by_layer", "auroc_comprehended_by_layer"}
    section |= {"auroc_near_miss_by_layer", "auroc_random_by_layer", "projection", "projection_by_layer", "defences"}
    arm = {"harmful_refusal", "benign_refusal", "near_miss_refusal", "utility", "brr", "attack_success"}
    priced = {"strength", "kl", "at_bound", "edit_norm"}
    for record in results["modalities"].values():
        assert section <= set(record)
        assert {"none", "addition", "random"} <= set(record["defences"])
        for name, rates in record["defences"].items():
            more = set() if name == "none" else {"gain", "over_refusal"}
            assert set(rates) == arm | more | (priced if name in ("sarsteer", "mars") else set())
        assert [line["layer"] for line in record["auroc_by_layer"]] == list(range(N_LAYERS))


def test_every_test_item_is_kept_and_says_what_the_rates_say(results: dict[str, Any]) -> None:
    for name, record in results["modalities"].items():
        mine = [item for item in results["items"] if item["modality"] == name]
        assert len(mine) == sum(record[f"n_{role}"] for role in ("harmful", "benign", "near_miss"))
        for arm, which in (("none", "before"), ("addition", "after")):
            said = [item[which]["label"] in REFUSALS for item in mine if item["role"] == "harmful"]
            assert sum(said) / len(said) == pytest.approx(record["defences"][arm]["harmful_refusal"]["value"])
        layer = results["direction"]["layer"]
        for role in ("harmful", "benign", "near_miss"):
            along = [i["projection_by_layer"]["before"][layer] for i in mine if i["role"] == role]
            assert along == record["projection"][role]
        assert all((item["media"] or {}).get("kind", "text") == name for item in mine)
        shown = [item for item in mine if (item["media"] or {}).get("data")]
        assert bool(shown) == (name != "text") and sum(len(str(item["media"])) for item in shown) < 200_000


def test_the_dose_starts_at_the_untouched_model_and_holds_the_priced_strength(results: dict[str, Any]) -> None:
    for record in results["modalities"].values():
        strengths = [row["strength"] for row in record["by_strength"]]
        assert strengths == sorted(strengths) and strengths[0] == 0 and results["direction"]["strength"] in strengths
        assert all(row["harmful"]["n"] == min(40, record["n_harmful"]) for row in record["by_strength"])
        assert all(0 <= row[side]["value"] <= 1 for row in record["by_strength"] for side in ("harmful", "harmless"))


def test_the_study_pays_the_price_of_everything_else_in_every_modality(
    results: dict[str, Any], folder: Path, organism: Any
) -> None:
    price = results["direction"]["calibration"]
    assert price["target_kl"] == TARGET_KL and price["tokens"] == TOKENS
    assert set(price["kl"]) == set(results["modalities"]) and all(1 <= n <= ITEMS for n in price["n"].values())
    assert max(price["kl"].values()) <= TARGET_KL < price["kl"]["text"] + TARGET_KL
    assert all(len(tokens) > 1 for tokens in price["by_token"].values()), "what comes behind the first word is paid"
    assert results["direction"]["strength"] <= price["text_only"], "text alone allows no less than all modalities"
    kept = Direction.load(folder / "direction.safetensors", organism).price
    assert kept == {"target_kl": TARGET_KL, "tokens": TOKENS, "kl": price["kl"]}
    for record in results["modalities"].values():
        rows = [row for name, row in record["defences"].items() if name in ("sarsteer", "mars")]
        assert all(row["kl"] <= TARGET_KL or row["strength"] == 0 for row in rows)


def test_a_study_says_what_it_cost(results: dict[str, Any]) -> None:
    """In bare passes over its prompts; each stage has its share, and reading the test streams is one pass over them."""
    cost = results["cost"]
    assert cost["equivalents"] == pytest.approx(sum(cost["stages"].values()), abs=0.05)
    assert f"{cost['equivalents']:.1f} bare passes over its {cost['prompts']} prompts" in cost["words"]
    assert (
        0.5 < sum(v for name, v in cost["stages"].items() if name.startswith("streams-")) / share_of_test(results) < 1.4
    )


def share_of_test(results: dict[str, Any]) -> float:
    """Share of the study's prompts that are of the test split."""
    sizes = {name: sum(results["prompts"][name].values()) for name in ("train", "val", "test")}
    return float(sizes["test"] / results["cost"]["prompts"])


def every_rate(value: Any) -> list[dict[str, Any]]:
    """All records with the form of a rate."""
    if isinstance(value, list):
        return [rate for item in value for rate in every_rate(item)]
    if not isinstance(value, dict):
        return []
    own = [value] if "value" in value else []
    return own + [rate for item in value.values() for rate in every_rate(item)]


def test_every_rate_has_its_interval_and_number(results: dict[str, Any]) -> None:
    found = every_rate({"modalities": results["modalities"], "ablation": results["ablation"]})
    assert len(found) > 150
    for rate in found:
        assert {"value", "low", "high", "n"} <= set(rate)
        if rate["value"] is None:
            assert rate["low"] is None and rate["high"] is None
        else:
            assert rate["low"] <= rate["value"] <= rate["high"] and rate["n"] >= 1
    for record in results["modalities"].values():
        rates = record["defences"]["none"]
        assert rates["harmful_refusal"]["n"] == record["n_harmful"] > 0
        assert rates["near_miss_refusal"]["n"] == record["n_near_miss"] > 0


def test_the_limit_is_kept_and_said(results: dict[str, Any]) -> None:
    counted = sum(sum(part.values()) for name, part in results["prompts"].items() if name not in ("hash", "data"))
    assert counted <= LIMIT and results["limit"] == LIMIT
    assert any(f"Only {LIMIT} prompts" in warning for warning in results["warnings"])


def test_text_is_refused_before_and_less_without_the_direction(results: dict[str, Any]) -> None:
    assert results["modalities"]["text"]["defences"]["none"]["harmful_refusal"]["value"] > 0.5
    assert set(results["direction"]["refusal_tokens"]) <= {"i", "sorry", "no", "that"}


def test_examples_show_every_modality(results: dict[str, Any]) -> None:
    assert {example["modality"] for example in results["examples"]} == {"text", "image", "video", "audio"}
    for example in results["examples"]:
        assert example["before"]["label"] and "answer" in example["after"]
        media = example["media"]
        assert (media is None) == (example["modality"] == "text")
        assert media is None or all(uri.startswith("data:") for uri in media["data"])


def test_the_page_stands_alone(results: dict[str, Any], folder: Path) -> None:
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert len(page) > 5000 and "viewport" in page and "organism" in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page), "nothing is fetched"
    for line in (results["regime"]["words"][:30],):
        assert line in page


def test_the_direction_belongs_to_the_model(results: dict[str, Any], folder: Path, organism: Any) -> None:
    direction = Direction.load(folder / "direction.safetensors", organism)
    assert direction.layer == results["direction"]["layer"]
    assert direction.strength == results["direction"]["strength"]


def test_a_second_run_reuses_every_stage(results: dict[str, Any], folder: Path, organism: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()}
    assert len((folder / "stages" / "results.jsonl").read_text().splitlines()) > 15
    again = recipe("study").run(organism, out=folder, limit=LIMIT, progress=False)
    assert {path: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()} == before
    assert {**again, "created": ""} == {**results, "created": ""}


def test_a_spoiled_direction_file_is_made_again(results: dict[str, Any], folder: Path, organism: Any) -> None:
    path = folder / "direction.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    again = recipe("study").run(organism, out=folder, limit=LIMIT, progress=False)
    assert again["direction"] == results["direction"] and again["modalities"] == results["modalities"]


@pytest.mark.slow
def test_a_study_killed_behind_each_stage_finds_what_an_unbroken_one_finds(
    results: dict[str, Any], organism: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = Checkpoints.run, []

    def killed(self: Checkpoints, name: str, work: Any, **options: Any) -> Any:
        found = real(self, name, work, **options)
        if name not in seen:  # it has just been written for the first time, and the next line was being written
            seen.append(name)
            with self.path.open("a") as file:
                file.write('{"key": "half')
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Checkpoints, "run", killed)
    for _ in range(60):
        try:
            found = recipe("study").run(organism, out=tmp_path, limit=LIMIT, progress=False)
            break
        except KeyboardInterrupt:
            continue
    assert len(seen) > 15, seen
    differ = ("created", "timings", "cost")  # what was cut off was computed twice
    assert {k: v for k, v in found.items() if k not in differ} == {k: v for k, v in results.items() if k not in differ}


def test_what_a_study_cannot_do(organism: Any, tmp_path: Path) -> None:
    run, train = recipe("study").run, organism_prompts(split="train", modality="text", limit=8)
    with pytest.raises(StudyError, match="remote"):
        run(organism, out=tmp_path, remote=True)
    with pytest.raises(PromptError, match="no harmful text prompts in split 'train'"):
        run(organism, train.filter(role="benign"), out=tmp_path)
    with pytest.raises(PromptError, match="no harmful text prompts in split 'val'"):
        run(organism, train, out=tmp_path)
    with pytest.raises(PromptError, match="it brings none"):
        run(load(checkpoint_path("organism")), out=tmp_path)
    with pytest.raises(PromptError, match="fewer than 1"):
        run(organism, out=tmp_path, limit=0)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


# -- the regime, from figures made by hand ----------------------------------------------------------------------------


def section(
    refused: float | None, read: float | None = 0.99, auroc: float | None = 0.95, gain: float = 0.5
) -> dict[str, Any]:
    def arm(**values: float | None) -> dict[str, Any]:
        return {name: {"value": value} for name, value in values.items()}

    return {
        "read_back": {"value": read},
        "auroc_by_layer": [{"layer": 0, "value": 0.5}, {"layer": 1, "value": auroc}],
        "defences": {
            "none": arm(harmful_refusal=refused),
            "addition": arm(harmful_refusal=None, gain=gain),
            "random": arm(harmful_refusal=None, gain=0.05),
        },
    }


@pytest.mark.parametrize(
    ("name", "text", "media"),
    [
        ("attenuated", section(0.98), section(0.4)),
        ("no_refusal", section(0.3), section(0.1)),
        ("unread", section(0.98), section(0.4, read=0.5)),
        ("aligned", section(0.98), section(0.95)),
        ("weak", section(0.98), section(0.4, auroc=0.85)),
        ("weak", section(0.98), section(0.4, gain=0.2)),
        ("absent", section(0.98), section(0.1, auroc=0.6, gain=0.06)),
        ("undetermined", section(None), section(0.4)),
        ("undetermined", section(0.98), section(0.4, auroc=None)),
        ("undetermined", section(0.98), section(None)),
    ],
)
def test_the_regime_of_figures_made_by_hand(name: str, text: dict[str, Any], media: dict[str, Any]) -> None:
    found = regime({"text": text, "image": media, "audio": media}, 1)
    assert found["name"] == name
    assert found["words"].endswith(".") or found["words"].endswith(").")
    assert set(found["evidence"]) == {"image", "audio"}


def test_a_text_model_has_nothing_to_transfer_to() -> None:
    assert regime({"text": section(0.9)}, 1)["name"] == "undetermined"


def test_a_medium_unlike_the_others_is_named() -> None:
    found = regime({"text": section(0.98), "image": section(0.4, gain=0.8), "audio": section(0.4, gain=0.2)}, 1)
    assert (
        found["name"] == "attenuated"
        and f"audio ({change(0.15)})" in found["words"]
        and f"image ({change(0.75)})" in found["words"]
    )


def test_the_evidence_is_the_figures() -> None:
    (row,) = regime({"text": section(0.98), "image": section(0.4)}, 1)["evidence"].values()
    assert row == {
        "read_back": 0.99,
        "auroc": 0.95,
        "auroc_best": 0.95,
        "gap": pytest.approx(0.58),
        "restored": pytest.approx(0.45),
    }


def test_a_folder_that_another_run_used_gives_this_runs_direction(organism: Any, tmp_path: Path) -> None:
    """Two runs write the same file; a run that comes back finds its stage and does not take the other file for it."""
    text = own_prompts(organism).filter(modality="text")
    train, val = text.filter(split="train"), text.filter(split="val")
    arena = DefenceRun(organism, text, Checkpoints(tmp_path / "stages"))
    pairs = sorted({p.pair for p in train})

    def found(run: str, half: set[str]) -> str:
        stages = Checkpoints(tmp_path / "stages", {"run": run})
        some = PromptSet(p for p in train if p.pair in half)
        return identity(the_direction(arena, some, val, PhraseJudge(), stages, tmp_path)[1])

    first, second = set(pairs[::2]), set(pairs[1::2])
    one, two = found("one", first), found("two", second)
    assert one != two
    assert found("two", second) == two and found("one", first) == one
