"""Configurations of papers' tables: ours are right, and what is wrong in one is a line that names the place."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from refusal_plugin.errors import DataError
from refusal_plugin.inference.plan import GB, Device
from refusal_plugin.reproduction import configuration, configurations

EVERY = sorted(configurations())


def changed(tmp_path: Path, where: str, value: Any, name: str = "sarsteer") -> Path:
    """A configuration with one value put in at "data.val"; None takes the key away."""
    raw = yaml.safe_load(configurations()[name].read_text("utf-8"))
    *path, last = where.split("/")
    place = raw
    for step in path:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return file


def test_four_papers_come_with_the_package() -> None:
    assert EVERY == ["arditi", "mars", "omnisteer", "sarsteer"]


@pytest.mark.parametrize("name", EVERY)
def test_what_a_configuration_names_exists(name: str) -> None:
    made = configuration(name)
    assert made.name == name and made.models and made.notes
    for model in made.models:
        plan = made.plan(model)
        assert plan["hours"] > 0 and plan["memory_gb"] > 2 * made.models[model].shape.billions


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("paper", None, "no key 'paper'"),
        ("judges", {}, "unknown key 'judges'"),
        ("data/vall", 0.2, "unknown key 'vall'"),
        ("data/val", "much", "'much' is no float"),
        ("data/val", 1.5, "shares [1.5]"),
        ("data/train", "jbb+no-such-set", "no such name in the registry"),
        ("data/train", "jbb:no-such-part", "no part 'no-such-part'"),
        ("data/test", "visu-text", "visu-text cannot be loaded by name"),
        ("data/modalities", ["smell"], "there is no 'smell'"),
        ("data/expected/test", None, "no key 'test'"),
        ("decoding/strategy", "beam", "there is no 'beam'"),
        ("decoding/max_new_tokens", "long", "'long' is no int"),
        ("judge/format", "coin", "there is no 'coin'"),
        ("judge/model", 7, "7 is no"),
        ("judge/format", "phrases", "use phrases without one"),
        ("defences/no_such_method", {}, "there is no 'no_such_method'"),
        ("defences/sarsteer/kk", 3, "there is no 'kk'"),
        ("defences/sarsteer/strength", "high", "'high'"),
        ("models/qwen2-audio/tiny", "qwen9", "there is no 'qwen9'"),
        ("models/qwen2-audio/shape/layers", None, "no key 'layers'"),
        ("models/qwen2-audio/figures/0/paper", 51.6, "not per cent"),
        ("models/qwen2-audio/figures/0/defence", "mars", "there is no 'mars'"),
        ("models/qwen2-audio/figures/0/rate", "asr", "there is no 'asr'"),
        ("models/qwen2-audio/figures/0/modality", "image", "there is no 'image'"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, where: str, value: Any, said: str) -> None:
    with pytest.raises(DataError) as error:
        configuration(changed(tmp_path, where, value))
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["- a list", "a: [", "just words"])
def test_a_file_that_is_no_configuration_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        configuration(file)
    assert "\n" not in str(error.value)


def test_a_plan_needs_more_of_smaller_devices() -> None:
    made = configuration("mars")
    large, small = made.plan("gemma3"), made.plan("gemma3", Device(memory=16 * GB))
    assert large["devices"] == 1 and small["devices"] == 2
    assert small["hours"] == pytest.approx(large["hours"] / 2)
