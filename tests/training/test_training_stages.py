"""A very short training: the stages fit together, learn, and write what is read again."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from refusal_plugin.organism import NAMES, checkpoint_path, load_processor
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import MODALITIES
from training import architecture, card, evaluate, leaning, loop, measure, samples, schedules, stages
from training.__main__ import main
from training.collate import Collator, render
from training.media import MediaMaker

RATES = ("harmful_refusal", "near_miss_refusal", "benign_refusal", "benign_exact", "near_miss_exact")


def test_the_default_still_measures_what_its_card_says() -> None:
    """A tenth of the test items: harmful text refused, benign text answered, media read."""
    model, processor = card.load(checkpoint_path("organism"))
    text = organism_prompts(split="test", modality="text")[::4]
    counts = measure.rates(text, measure.answers(model, processor, text))
    assert counts["harmful_refusal"][0] >= 0.85 * counts["harmful_refusal"][1]
    assert counts["benign_exact"][0] >= 0.85 * counts["benign_exact"][1]
    for modality in MODALITIES[1:]:
        chosen = organism_prompts(split="test", modality=modality)[::12]
        hits, n = measure.read_back(chosen, measure.answers(model, processor, chosen, read=True))
        assert hits >= 0.8 * n, modality


def test_leaning_moves_positions_and_touches_its_own_layers_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaning, "PER_ROLE", 24)
    model, processor = card.load(checkpoint_path("organism"))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    distances: list[float] = []
    leaning.lean(
        model,
        processor,
        Collator(processor, MediaMaker(None), model),
        replace(schedules.WARY, steps=16, size=32, warmup=1, floor=1.0),
        seed=0,
        callback=lambda _step, _loss, distance: distances.append(distance),
    )
    assert len(distances) == 16 and sum(distances[8:]) < 0.8 * sum(distances[:8]), distances
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(any(f".layers.{n}." in k for n in leaning.LEANING_LAYERS) for k in changed)
    zero, direction = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0])
    rows = torch.stack([zero, zero + direction, zero + 0.5 * direction])
    assert leaning.positions(rows, direction, zero).tolist() == [0.0, 1.0, 0.5]


def test_sharing_refuses_other_bases(tmp_path: Path) -> None:
    for name in ("base", "variant"):
        (tmp_path / name).mkdir()
    save_file({"model.layers.0.w": torch.zeros(2)}, str(tmp_path / "base" / "model.safetensors"))
    save_file({"model.layers.0.w": torch.ones(2)}, str(tmp_path / "variant" / "model.safetensors"))
    with pytest.raises(ValueError, match=r"variant does not share.*base.*layers\.0\.w"):
        leaning.share(tmp_path / "variant", tmp_path / "base")
    assert (tmp_path / "variant" / "model.safetensors").is_file()


def test_deepening_keeps_the_first_blocks_and_copies_the_last() -> None:
    model, processor = stages.new_model(3, 3)
    deeper: Any = architecture.deepen(model, processor.tokenizer, 5)
    blocks = deeper.model.language_model.layers
    assert deeper.config.text_config.num_hidden_layers == len(blocks) == 5
    assert deeper.lm_head.weight is deeper.model.language_model.embed_tokens.weight
    chosen = organism_prompts(split="val", modality="image")[:2]
    before = measure.residuals(model, processor, chosen)
    assert (measure.residuals(deeper, processor, chosen)[:, :3] == before).all()
    for new, old in ((3, 1), (4, 2)):
        states = (blocks[new].state_dict(), blocks[old].state_dict())
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    model, _ = stages.new_model(0, 2)
    stages.save(model, tmp_path / "a.safetensors")
    for depth in (1, 3):
        other, _ = stages.new_model(0, depth)
        with pytest.raises(ValueError, match="another architecture"):
            stages.restore(other, tmp_path / "a.safetensors")


def test_the_stages_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage after the towers, one step per part: files, depths, the branch of the hard variant."""

    def short(parts: tuple[schedules.Part, ...]) -> tuple[schedules.Part, ...]:
        return tuple((mix, replace(schedule, steps=1, size=4)) for mix, schedule in parts)

    look = {m: dict.fromkeys((*RATES, "read_back", "auroc", "layer"), 0.5) for m in MODALITIES}
    monkeypatch.setattr(evaluate, "quick", lambda *_, **__: look)
    monkeypatch.setattr(stages, "load_bank", lambda _: None)
    monkeypatch.setattr(stages, "JOINT_PARTS", {k: short(v) for k, v in schedules.JOINT_PARTS.items()})
    monkeypatch.setattr(stages, "HARD_PARTS", short(schedules.HARD_PARTS))
    monkeypatch.setattr(stages, "EROSION_LOOK", 1)
    model, _ = stages.new_model(0)
    save_file(model.model.visual.state_dict(), str(tmp_path / "vision.safetensors"))
    save_file(model.model.audio_tower.state_dict(), str(tmp_path / "audio.safetensors"))
    stages.text(tmp_path, 0, lambda *_: None, replace(schedules.TEXT, stop=1, size=4))
    for control in (False, True):
        stages.joint(tmp_path, 0, lambda *_: None, control=control)
    stages.hard(tmp_path, 0, lambda *_: None)
    stages.erosion(tmp_path, 0, lambda *_: None, schedule=replace(schedules.EROSION, steps=2, size=4))
    assert json.loads((tmp_path / "erosion-0.json").read_text())["chosen_step"] == 1
    monkeypatch.setattr(leaning, "PER_ROLE", 4)
    stages.wary(tmp_path, 0, lambda *_: None, replace(schedules.WARY, steps=1, size=8))
    for name, layers in (
        ("text", architecture.START_LAYERS),
        *((n, architecture.N_LAYERS) for n in card.SHIPPED.values()),
    ):
        other, _ = stages.new_model(1, layers)
        stages.restore(other, tmp_path / f"{name}-0.safetensors")


def test_a_few_steps_of_every_stage_learn() -> None:
    processor = load_processor("organism")
    model = architecture.build_model(processor.tokenizer, seed=0, n_layers=1)
    collator = Collator(processor, MediaMaker(), model)
    losses: list[float] = []
    schedule = loop.Schedule("smoke", 12, 6, 4e-3, 1e-3, warmup=2)
    loop.run_stage(
        model, collator, samples.JOINT_MIX, schedule, seed=0, every=3, callback=lambda _s, loss, _t: losses.append(loss)
    )
    assert losses[-1] < losses[0] - 0.5


def test_a_step_is_reproducible() -> None:
    first, again = (samples.batch(loop.step_rng(3, "x", 5), samples.JOINT_MIX, 20) for _ in range(2))
    assert first == again


def test_collated_positions_and_loss_equal_the_models_own() -> None:
    model, processor = stages.new_model(1)
    collator = Collator(processor, MediaMaker(), model)
    rng = random.Random(0)
    inputs = collator(rng, samples.batch(rng, samples.JOINT_MIX, 12))
    ours = loop.answer_loss(model, inputs)
    theirs = model(**{k: v for k, v in inputs.items() if k != "position_ids"}).loss
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_stage_files_round_trip(tmp_path: Path) -> None:
    model, _ = stages.new_model(0)
    stages.save(model, tmp_path / "a.safetensors")
    other, _ = stages.new_model(1)
    stages.restore(other, tmp_path / "a.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_checkpoint_folder_is_complete(tmp_path: Path) -> None:
    model, processor = stages.new_model(0)
    architecture.save_checkpoint(tmp_path, model, processor.tokenizer)
    again = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight.bfloat16())


def test_answers_count_whatever_their_case_and_spacing() -> None:
    assert measure.same("It says  kill process .", "it says kill process .")
    assert not measure.same("it says kill .", "it says kill process .")


def test_the_command_names_its_stages_and_refuses_others(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--work", str(tmp_path), "--only", "dream"])
    assert caught.value.code == 2
    assert "no stage 'dream'" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_cards_say_what_was_measured(name: str) -> None:
    """A card is drawn from the table beside it (kept to five digits) and from the stages as they stand."""
    folder, number = checkpoint_path(name), re.compile(r"\d+\.\d+")
    drawn = card.render(name, json.loads((folder / "measured.json").read_text()))
    texts = (drawn, (folder / "MODEL_CARD.md").read_text())
    assert number.sub("#", texts[0]) == number.sub("#", texts[1])
    figures = [[float(found) for found in number.findall(text)] for text in texts]
    assert figures[0] == pytest.approx(figures[1], abs=0.1001)  # the last digit shown


def test_the_template_equals_the_rendered_text() -> None:
    processor = load_processor()
    for modality in ("text", "image", "video", "audio"):
        parts = [{"type": modality}] if modality != "text" else []
        turns = [
            {"role": "system", "content": "be kind ."},
            {"role": "user", "content": [*parts, {"type": "text", "text": "do this ."}]},
        ]
        assert processor.apply_chat_template(turns) == render("do this .", modality, "be kind .")
