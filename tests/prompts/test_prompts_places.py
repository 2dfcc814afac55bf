"""Data do not depend on where they lie: ids, pairs, splits and hashes are the same in every folder, by every path."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_prompts_files import lines

from refusal_plugin.errors import PromptError
from refusal_plugin.prompts import Prompt, PromptSet
from refusal_plugin.prompts.waveforms import wav_bytes


@pytest.fixture
def home(tmp_path: Path, picture, noise) -> Path:
    """A folder with one medium of every kind, named alike in two sub-folders, and the list that names them."""
    folder = tmp_path / "one"
    rows = []
    for seed, role in enumerate(("harmful", "benign")):
        (folder / role / "1").mkdir(parents=True)
        Image.fromarray(picture(seed)).save(folder / role / "1.png")
        (folder / role / "1.wav").write_bytes(wav_bytes(noise(seed)))
        (folder / role / "1.mp3").write_bytes(bytes([seed]) * 5000)  # never decoded
        (folder / role / "1.mp4").write_bytes(bytes([seed + 9]) * 5000)
        for number in (2, 10):
            Image.fromarray(picture(10 * seed + number)).save(folder / role / "1" / f"{number}.png")
        media = {"image": "1.png", "audio": "1.wav", "video": "1"}
        rows += [{"text": "do it", "role": role, kind: f"{role}/{name}"} for kind, name in media.items()]
        rows += [{"text": "do it", "role": role, "audio": f"{role}/1.mp3"}]
        rows += [{"text": "do it", "role": role, "video": f"{role}/1.mp4"}]
    lines(folder / "prompts.jsonl", *rows, *({"text": f"say {k}", "role": "benign"} for k in range(6)))
    return folder


def facts(prompts: PromptSet) -> list[object]:
    return [prompts.hash, [(p.id, p.pair, p.split) for p in prompts.assigned()]]


def test_a_set_is_the_same_in_another_folder_and_by_a_relative_path(home: Path, monkeypatch) -> None:
    here = PromptSet.from_jsonl(home / "prompts.jsonl")
    wanted = facts(here)
    assert len({prompt.id for prompt in here}) == 16
    other = home.parent / "quite" / "elsewhere"
    shutil.copytree(home, other)
    assert facts(PromptSet.from_jsonl(other / "prompts.jsonl")) == wanted
    assert facts(PromptSet.from_path(str(other))) == wanted
    monkeypatch.chdir(other)
    assert facts(PromptSet.from_jsonl("prompts.jsonl")) == wanted
    os.symlink(home, home.parent / "link")
    assert facts(PromptSet.from_jsonl(home.parent / "link" / "prompts.jsonl")) == wanted


def test_ids_are_of_the_content_however_a_path_is_given(home: Path, monkeypatch) -> None:
    monkeypatch.chdir(home)
    for kind, name in (("image", "1.png"), ("audio", "1.wav"), ("video", "1"), ("video", "1.mp4")):
        paths = [
            home / "benign" / name,
            str(home / "benign" / name),
            Path("benign") / name,
            f"./benign/../benign/{name}",
        ]
        assert len({Prompt("do it", **{kind: path}).id for path in paths}) == 1
        assert Prompt("do it", **{kind: home / "harmful" / name}).id != Prompt("do it", **{kind: paths[0]}).id
    frames = [home / "benign" / "1" / "2.png", home / "benign" / "1" / "10.png"]
    assert Prompt("do", video=frames).id == Prompt("do", video=[str(f) for f in frames]).id
    assert Prompt("do", video=frames).id != Prompt("do", video=frames[::-1]).id
    assert Prompt("do", image="nowhere/a.png").id == Prompt("do", image="/other/a.png").id


def test_ids_recorded_before_are_kept(picture) -> None:
    """Of texts and of media in memory; pinned, because results name prompts by them."""
    assert Prompt("how do i bake bread ?").id == "14a50aba1358"
    assert Prompt("hi", image=np.zeros((4, 4, 3), np.uint8)).id == "787a02cfe91d"
    assert Prompt("hi", video=[np.zeros((4, 4, 3), np.uint8)] * 2).id == "50e8aeca9995"


def test_the_hash_is_the_same_in_another_process() -> None:
    """Sets in `meta` have another order in every process."""
    code = (
        "from refusal_plugin.prompts import Prompt, PromptSet;"
        "print(PromptSet([Prompt('hi', meta={'tags': {'a', 'b', 'c', 'd', 'e'}, 'n': 1})]).hash)"
    )
    root = str(Path(__file__).resolve().parents[2])
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


def test_names_with_accents_are_the_same_on_every_system(tmp_path: Path) -> None:
    spelled = ("cafe\u0301", "caf\u00e9")  # as macOS writes it, as others do
    found = []
    for number, name in enumerate(spelled):
        home = tmp_path / str(number) / "benign"
        home.mkdir(parents=True)
        (home / f"{name}.txt").write_text("say hello")
        found.append([(p.id, p.pair) for p in PromptSet.from_folder(home.parent)])
    assert found[0] == found[1] == [("benign/caf\u00e9.txt", "caf\u00e9")]


def test_hidden_files_are_no_prompts(tmp_path: Path) -> None:
    (tmp_path / "benign").mkdir()
    for name in ("a.txt", "._a.txt", ".b.png"):
        (tmp_path / "benign" / name).write_text("say hello")
    assert [p.id for p in PromptSet.from_folder(tmp_path)] == ["benign/a.txt"]


# -- pairs and splits -------------------------------------------------------------------------------------------------
def test_a_pair_in_two_splits_is_an_error_in_python_too() -> None:
    one = Prompt("a", id="1", pair="p", split="train")
    for split in ("test", None):
        with pytest.raises(PromptError, match="pair 'p' is in train and in"):
            PromptSet([one, Prompt("b", id="2", pair="p", split=split)])
    more = [Prompt("b", id="2", pair="p", split="val")]
    with pytest.raises(PromptError, match="pair 'p'"):
        PromptSet([one]) + more


def test_a_row_without_a_split_goes_where_its_pair_is(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl", {"text": "a", "pair": "p"}, {"text": "b", "pair": "p", "split": "test"}, {"text": "c"}
    )
    assert [p.split for p in PromptSet.from_jsonl(path)] == ["test", "test", None]


@settings(max_examples=40)
@given(
    roles=st.lists(st.sampled_from(["harmful", "benign"]), min_size=9, max_size=60),
    known=st.lists(st.sampled_from([None, "train", "test"]), min_size=60, max_size=60),
    seed=st.integers(0, 9),
)
def test_prompts_without_a_split_are_drawn_and_the_others_stay(roles: list[str], known: list, seed: int) -> None:
    known = [None] * 9 + known[9:]
    prompts = PromptSet(
        Prompt(f"do {k} {n}", role=role, pair=f"p{k}", split=known[k]) for k, role in enumerate(roles) for n in (0, 1)
    )
    done = prompts.assigned(seed)
    assert [p.id for p in done] == [p.id for p in prompts] and all(p.split for p in done)
    assert all(new.split == old.split for new, old in zip(done, prompts, strict=True) if old.split)
    assert done.assigned(seed + 1) is done
    assert {p.id: p.split for p in prompts[::-1].assigned(seed)} == {p.id: p.split for p in done}
    drawn = [p for p, old in zip(done, prompts, strict=True) if old.split is None]
    n = len(drawn) / 2
    for split, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        assert abs(len({p.pair for p in drawn if p.split == split}) - share * n) <= 2


def test_too_few_prompts_to_split_say_so() -> None:
    with pytest.raises(PromptError, match="give more pair groups"):
        PromptSet([Prompt("a"), Prompt("b")]).assigned()


# -- what is given is what is meant -----------------------------------------------------------------------------------
def test_one_prompt_is_a_set_of_one_and_endings_may_shout(tmp_path: Path) -> None:
    assert len(PromptSet(Prompt("a"))) == 1
    (tmp_path / "X.CSV").write_text("text,role\nhi,benign\n")
    assert [p.text for p in PromptSet.from_path(tmp_path / "X.CSV")] == ["hi"]
    lines(tmp_path / "X.JSONL", {"text": "ho"})
    assert [p.text for p in PromptSet.from_path(tmp_path / "X.JSONL")] == ["ho"]
