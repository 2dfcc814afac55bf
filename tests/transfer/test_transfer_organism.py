"""On the embedded model: rows are arms, reports keep what they hold, every figure is drawn."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from refusal_plugin.errors import DataError, DirectionError, OptionalDependencyError, PromptError
from refusal_plugin.prompts import PromptSet
from refusal_plugin.report import render
from refusal_plugin.report.transfer import transfer_chapter
from refusal_plugin.study.transfer_words import gap_words, transfer_words
from refusal_plugin.transfer import TransferReport, analyse_transfer

IDS = torch.tensor([5, 6])


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    from refusal_plugin.organism.data import organism_prompts

    fit = organism_prompts(split="train", modality=("text", "image"), renderings=1, limit=10)
    return fit + organism_prompts(split="test", modality=("text", "image", "audio"), renderings=1, limit=10)


@pytest.fixture(scope="module")
def report(organism: Any, prompts: PromptSet) -> TransferReport:
    return analyse_transfer(
        organism, prompts, refusal_ids=IDS, layers=(1, 3), layer=3, score_pairs=3, rate_pairs=3, draws=3,
        draws_by_layer=1, max_new_tokens=6, progress=False,
    )  # fmt: skip


def test_the_report_is_complete(report: TransferReport) -> None:
    assert report.sources == ("text", "image") and report.targets == ("text", "image", "audio")
    assert report.layers == (1, 3) and report.layer == 3
    for measure in ("auroc", "auroc_near_miss", "induced_score", "ablated_score"):
        for source in report.sources:
            for target in report.targets:
                for layer in report.layers:
                    found = report.estimate(measure, source, target, layer)
                    assert found.value is not None and found.low <= found.value <= found.high and found.n > 0  # type: ignore[operator]
    for measure in ("induced", "restored", "ablated"):
        assert report.estimate(measure, "text", "audio").n == 3
        assert report.estimate(measure, "text", "audio", 1).value is None, "generated at one layer only"
        assert report.estimate(measure, "random", "audio").value is not None
    assert report.estimate("cosine", "text", "text").value == 1.0
    assert report.estimate("cosine", "text", "audio").value is None, "audio had no items to fit on"
    assert any("audio: no training items" in warning for warning in report.warnings)
    assert report.gap is not None and report.gap.reference == "text"
    assert report.gap.estimate("shift", "image").value is not None


def test_holm_never_lowers_a_p_value(report: TransferReport) -> None:
    tested = 0
    for measure, table in report.p.items():
        known = table.isfinite()
        tested += int(known.sum())
        assert bool((report.p_holm[measure][known] >= table[known] - 1e-12).all())
        assert bool(report.p_holm[measure][~known].isnan().all())
    assert tested == 1 + 3 * 6, "one cosine pair, and three measures of two sources in three targets"


def test_it_is_saved_and_read_again(report: TransferReport, tmp_path: Path) -> None:
    again = TransferReport.load(report.save(tmp_path / "transfer.safetensors"))
    assert again.to_json() == report.to_json() and again.settings == report.settings
    assert torch.equal(again.directions, report.directions) and again.provenance == report.provenance
    assert again.gap is not None and report.gap is not None and again.gap.to_json() == report.gap.to_json()
    with pytest.raises(DataError, match="no such file"):
        TransferReport.load(tmp_path / "none")


def test_the_json_is_json_and_every_rate_has_its_interval(report: TransferReport) -> None:
    assert report.gap is not None
    text = json.dumps({"transfer": report.to_json(), "modality_gap": report.gap.to_json()}, allow_nan=False)
    cell = json.loads(text)["transfer"]["text"]["image"]
    assert {"layer", "cosine", "auroc", "induced", "ablated", "random", "by_layer"} <= set(cell)
    for found in re.findall(r'\{"value": [^}]*\}', text):
        rate = json.loads(found)
        assert set(rate) == {"value", "low", "high", "n"}
        assert rate["value"] is None or (rate["low"] <= rate["value"] + 1e-9 and rate["value"] <= rate["high"] + 1e-9)


def test_the_frame_needs_pandas_and_says_so(report: TransferReport) -> None:
    try:
        frame = report.to_frame()
    except OptionalDependencyError as error:
        assert "pandas" in str(error)
    else:
        assert {"measure", "source", "target", "layer", "value", "low", "high", "n"} == set(frame.columns)
        assert set(frame["source"]) == {"text", "image", "random"}


def test_the_figures_are_drawn_with_their_numbers(report: TransferReport) -> None:
    assert report.gap is not None
    for shown in (report._repr_html_(), report.gap._repr_html_()):
        assert shown.count("<svg") >= 2 and "<table" in shown and "NaN" not in shown and "nan" not in shown
    results = {
        "transfer": report.to_json(),
        "modality_gap": report.gap.to_json(),
        "findings": {"transfer": "<b>so</b>"},
    }
    chapter = str(transfer_chapter(results))
    assert "&lt;b&gt;so" in chapter
    value = report.estimate("auroc", "text", "image").value
    assert value is not None and f"{value:.2f}" in chapter
    assert transfer_chapter({}) is None
    assert transfer_chapter({"transfer": None, "modality_gap": {}, "safe_space": None}) is None


def test_a_page_with_nothing_measured_is_still_a_page(report: TransferReport) -> None:
    def hollow(found: Any) -> Any:
        if isinstance(found, dict):
            return {k: None if k in ("value", "low", "high") else hollow(v) for k, v in found.items()}
        return [hollow(v) for v in found] if isinstance(found, list) else found

    assert report.gap is not None
    results = {"schema_version": 1, "transfer": report.to_json(), "modality_gap": report.gap.to_json()}
    page = render(hollow(results))
    assert "Transfer was not measured" in page or "not measured" in page


def test_the_words_are_of_the_figures(report: TransferReport) -> None:
    words = transfer_words(report)
    value = report.estimate("auroc", "text", "audio").value
    assert words.startswith("At layer 3 the text direction") and f"audio {value:.2f}" in words
    assert report.gap is not None
    said = gap_words(report.gap)
    assert said.startswith("At layer 3 matched content lies image")
    kept = report.gap.estimate("kept", "image").value
    assert kept is not None and f"image keeps {100 * kept:.0f}%" in said
    earlier = {key: table for key, table in report.gap.values.items() if key in ("shift", "share_along", "translation")}
    earlier |= {"harmful_after": report.gap.values["harmful_after"]}
    assert "keeps" not in gap_words(replace(report.gap, values=earlier)), "a report of an earlier version"


def test_what_cannot_be_asked(organism: Any, prompts: PromptSet, report: TransferReport) -> None:
    with pytest.raises(PromptError, match="source audio"):
        analyse_transfer(organism, prompts, sources=("audio",), progress=False)
    with pytest.raises(PromptError, match="no such modality"):
        analyse_transfer(organism, prompts, targets=("smell",), progress=False)
    with pytest.raises(DirectionError, match=r"layers .99. of"):
        analyse_transfer(organism, prompts, layers=(99,), progress=False)
    test = prompts.filter(split="test", modality="text")
    with pytest.raises(PromptError, match="in test and in train"):
        prompts + PromptSet(p.replace(split="train", id=f"again-{p.id}") for p in test)
    with pytest.raises(DataError, match="measure 'luck'"):
        report.estimate("luck", "text", "image")
    with pytest.raises(DataError, match="layer 2"):
        report.estimate("auroc", "text", "image", 2)
