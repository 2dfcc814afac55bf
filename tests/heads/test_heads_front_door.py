"""One call from a model to its circuit: per modality, as a difference, over the media, and in files others read."""

import json
import xml.etree.ElementTree as xml
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from refusal_plugin.errors import DataError, OptionalDependencyError
from refusal_plugin.heads import Circuit, attribute_heads, circuit
from refusal_plugin.prompts import PromptSet

KINDS = ("text", "image", "video", "audio")


@pytest.fixture(scope="module")
def made(organism: Any, direction: Any, prompts: PromptSet) -> Circuit:
    return circuit(organism, direction, prompts, top=2, progress=False)


def test_one_call_finds_the_heads_and_where_they_read(made: Circuit, organism: Any, direction: Any) -> None:
    assert made.modalities == KINDS
    for edge in made.edges:
        assert sum(edge.sources.values()) == pytest.approx(edge.contrast, abs=2e-4)
    for modality in KINDS:
        best = made.found.top(1, modality)[0] if made.found else None
        assert best and (best.layer, best.head) in {(e.layer, e.head) for e in made.edges if e.modality == modality}
    assert made.examples and made.examples.labels.modalities == KINDS and set(made.pictures) == set(KINDS[1:])
    assert f"{made.modalities[0]}, image" in repr(made) and "%" in repr(made)


def test_places_of_a_medium_are_said_as_people_say_them(made: Circuit) -> None:
    image, video, audio = (made.pictures[m].places for m in KINDS[1:])
    assert all("row" in place or "column" in place for place in image)
    assert all(place.startswith(("frame", "column")) for place in video)
    ends = [float(place.split(" ")[2]) for place in audio]
    assert ends == sorted(ends) and ends[-1] == pytest.approx(made.pictures["audio"].seconds or 0, abs=0.02)
    assert all(len(places) == len(set(places)) for places in (image, video, audio))


def test_a_planted_difference_between_modalities_is_found(made: Circuit) -> None:
    found, sources = made.found, made.sources
    assert found is not None and sources is not None
    layer, head = sources.heads[0]
    heads = found.heads.clone()
    bad = found.labels.rows("harmful", "image")
    heads[bad, layer, head] -= 100.0
    planted = Circuit.of(replace(found, heads=heads), sources)
    edge = planted.difference("text", "image").edges[0]
    by_hand = {m: next(e for e in planted.edges if e.modality == m) for m in ("text", "image")}
    assert edge.contrast == pytest.approx(by_hand["image"].contrast - by_hand["text"].contrast, abs=1e-3)
    assert edge.high < 0 and edge.low <= edge.contrast <= edge.high
    same = planted.difference("text", "text").edges
    assert all(e.contrast == pytest.approx(0, abs=1e-5) for e in same)
    with pytest.raises(DataError, match="there are text"):
        planted.difference("text", "smell")
    with pytest.raises(DataError, match="is a difference"):
        made.difference().mlps("text")


def test_mlps_are_measured_like_heads(made: Circuit, organism: Any, direction: Any, prompts: PromptSet) -> None:
    found = attribute_heads(organism, direction, prompts.filter(modality="text"), progress=False)
    bad, good = found.labels.rows("harmful"), found.labels.rows("benign")
    by_hand = found.mlp[bad, :, 0].mean(0) - found.mlp[good, :, 0].mean(0)
    torch.testing.assert_close(made.mlps("text").value[:, 0], by_hand, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("modality", KINDS)
def test_graph_viewers_get_links_that_add_up(made: Circuit, modality: str, tmp_path: Path) -> None:
    graph = json.loads(made.save(tmp_path / "graph.json", modality).read_text(encoding="utf-8"))
    nodes = {node["node_id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"]) and all(isinstance(node["layer"], str) for node in graph["nodes"])
    assert all({link["source"], link["target"]} <= set(nodes) for link in graph["links"])
    (target,) = (key for key, node in nodes.items() if node["is_target_logit"])
    heads = [key for key, node in nodes.items() if node["clerp"].startswith("attention head")]
    for key in heads:
        into = sum(link["weight"] for link in graph["links"] if link["target"] == key)
        (out,) = (link["weight"] for link in graph["links"] if link["source"] == key)
        assert into == pytest.approx(out, abs=1e-4)
    assert heads and graph["qParams"]["clickedId"] == target
    words = graph["metadata"]["prompt_tokens"]
    assert all(0 <= node["ctx_idx"] < len(words) for node in nodes.values())
    if modality != "text":
        assert set(made.pictures[modality].places) <= set(words)


def test_a_picture_for_a_paper_stands_by_itself(made: Circuit, tmp_path: Path) -> None:
    drawn = made.save(tmp_path / "circuit.svg").read_text(encoding="utf-8")
    tree = xml.fromstring(drawn)
    assert "var(" not in drawn and tree.tag.endswith("svg")
    assert sum(one.get("class") == "plot" for one in tree.iter()) == len(KINDS)
    alone = made.save(tmp_path / "audio.svg", "audio").read_text(encoding="utf-8")
    assert "Circuit of refusal in audio" in alone and "Circuit of refusal in text" not in alone
    assert made.difference("text", "audio").save(tmp_path / "difference.svg").stat().st_size > 2000
    if find_spec("resvg_py"):
        assert made.save(tmp_path / "circuit.png").read_bytes().startswith(b"\x89PNG")
    else:
        with pytest.raises(OptionalDependencyError, match="resvg_py"):
            made.save(tmp_path / "circuit.png")
    with pytest.raises(DataError, match="ending"):
        made.save(tmp_path / "circuit.docx")


def test_a_page_of_a_circuit_holds_graph_media_and_attention(made: Circuit, tmp_path: Path) -> None:
    page = made.save(tmp_path / "circuit.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page and 'id="heads-circuit"' in page and page.count('class="sheets"') >= 3
    assert page.count('details class="attention"') == (len(KINDS) if find_spec("circuitsvis") else 0)
