"""Graph, values over media, answers and depth: what is drawn is what was measured, in notebooks too."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from refusal_plugin.errors import DataError
from refusal_plugin.heads import (
    Circuit,
    HeadAttribution,
    SourceAttribution,
    attribute_heads,
    attribute_sources,
    head_agreement,
    overlay,
    project_answer,
    project_layers,
    project_tokens,
)
from refusal_plugin.inference.activations import collect_activations
from refusal_plugin.prompts import Prompt, PromptSet
from refusal_plugin.statistics import Estimate

HEADS = [(1, 0), (0, 3)]
HOSTILE = "</script><img src=x onerror=alert(1)> <s> bomb"


@pytest.fixture(scope="module")
def found(organism: Any, direction: Any, prompts: PromptSet) -> HeadAttribution:
    return attribute_heads(organism, direction, prompts, progress=False)


@pytest.fixture(scope="module")
def sources(organism: Any, direction: Any, prompts: PromptSet) -> SourceAttribution:
    return attribute_sources(organism, direction, prompts, HEADS, progress=False)


def shown(result: Any) -> str:
    """A result's picture in a notebook, which asks the network for nothing and runs nothing."""
    page = str(result._repr_html_())
    assert not re.findall(r"https?://", page.replace("http://www.w3.org/2000/svg", "")), "an address of another machine"
    assert "<script" not in page and "onerror=alert" not in page.replace("onerror=alert(1)&gt;", "")
    return page


def test_left_edges_add_up_to_the_right_one(found: HeadAttribution, sources: SourceAttribution) -> None:
    made = Circuit.of(found, sources, {"text": Estimate(0.67, 0.4, 0.8, 9)})
    assert {edge.modality for edge in made.edges} == {"text", "image", "video", "audio"}
    assert [(edge.layer, edge.head) for edge in made.edges[:2]] == HEADS
    for edge in made.edges:
        assert sum(edge.sources.values()) == pytest.approx(edge.contrast, abs=2e-4)
        assert edge.low <= edge.contrast <= edge.high
        assert (edge.sources["media"] == 0) == (edge.modality == "text")
    page = shown(made)
    assert page.count("Circuit of refusal in ") >= 4 and "6 of 9" in page and "<table" in page


def test_a_graph_of_different_prompts_is_refused(found: HeadAttribution, sources: SourceAttribution) -> None:
    with pytest.raises(DataError, match="draw a circuit"):
        Circuit.of(found, replace(sources, layer=sources.layer + 1))
    harmless = replace(found.labels, roles=("benign",) * len(found.labels))
    with pytest.raises(DataError, match="harmful and benign"):
        Circuit.of(replace(found, labels=harmless), replace(sources, labels=harmless))


def test_values_lie_over_their_medium(
    organism: Any, direction: Any, prompts: PromptSet, sources: SourceAttribution
) -> None:
    along = project_tokens(organism, direction, prompts)
    for modality in ("image", "video", "audio"):
        prompt = prompts.filter(modality=modality)[0]
        row = along.labels.ids.index(prompt.id)
        inside = [place for place, span in enumerate(along.spans[row]) if span == "media"]
        for measured, values in ((along, along.values[row]), (sources, sources.values[row].sum(0))):
            laid = overlay(organism, measured, prompt)
            torch.testing.assert_close(laid.values, values[inside])
            frames, rows, columns = laid.grid
            assert frames * rows * columns == len(inside) and laid.pictures
            page = shown(laid)
            assert page.count("<image") >= (frames if modality == "video" else 1) and "aria-label" in page
            assert page.count("<tr") >= len(inside), "a table behind the picture"
    with pytest.raises(DataError, match="with one medium"):
        overlay(organism, along, prompts.filter(modality="text")[0])
    with pytest.raises(DataError, match="lay values over prompt 'new'"):
        overlay(organism, along, prompts.filter(modality="image")[0].replace(id="new"))


def test_depth_is_zero_and_one_at_the_means(organism: Any, direction: Any, prompts: PromptSet) -> None:
    text = prompts.filter(modality="text")
    found = project_layers(organism, direction, text)
    stream = collect_activations(organism, text, positions=(direction.position,), progress=False).values[:, 0]
    layer = direction.layer
    by_hand = (stream[:, layer] - direction.benign[layer]) @ direction.vector / direction.vector.square().sum()
    torch.testing.assert_close(found.values[:, layer], by_hand, rtol=1e-4, atol=1e-5)
    other = 0
    v = direction.harmful[other] - direction.benign[other]
    torch.testing.assert_close(
        found.values[:, other], (stream[:, other] - direction.benign[other]) @ v / (v @ v), rtol=1e-4, atol=1e-5
    )
    page = shown(project_layers(organism, direction, prompts))
    assert page.count("Mean projection by layer, ") >= 4 and "<table" in page
    assert found.roles("text") == tuple(r for r in ("harmful", "near_miss", "benign") if text.filter(role=r))


def test_every_result_shows_itself_and_hostile_words_stay_words(organism: Any, direction: Any) -> None:
    prompts = PromptSet(
        Prompt(text, role=role, id=f"{role}{k}<s>", pair=str(k))  # type: ignore[arg-type]
        for k, text in enumerate([HOSTILE, "how do i bake the bread ?"])
        for role in ("harmful", "benign")
    )
    found = attribute_heads(organism, direction, prompts, progress=False)
    sources = attribute_sources(organism, direction, prompts, HEADS, progress=False)
    spoken = project_answer(organism, direction, prompts[0])
    words, values = spoken
    assert len(words) == len(values)
    for result in (
        found,
        sources,
        Circuit.of(found, sources),
        project_tokens(organism, direction, prompts),
        spoken,
        replace(spoken, words=("<img src=x onerror=alert(1)>",) * len(words)),
        project_layers(organism, direction, prompts),
    ):
        page = shown(result)
        assert "<s>" not in page and "<img" not in page
    both = PromptSet([*prompts, *(p.replace(id=f"{p.id}-other") for p in prompts)])
    comparable = attribute_heads(organism, direction, both, progress=False)
    kinds = ("text",) * len(prompts) + ("image",) * len(prompts)
    shown(head_agreement(replace(comparable, labels=replace(comparable.labels, modalities=kinds))))
