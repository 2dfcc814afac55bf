"""Prompt sets as files: round trips, and every bad row named at once."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refusal_plugin.errors import MediaError, PromptError
from refusal_plugin.prompts import Prompt, PromptSet
from refusal_plugin.prompts.io import FIELDS

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


def lines(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_a_set_comes_back_from_jsonl_as_it_was(tmp_path: Path, picture, noise) -> None:
    frames = [picture(i) for i in range(3)]
    prompts = PromptSet(
        [
            Prompt(
                "kill a\u2028process\nnow", role="near_miss", pair="a", split="test", id="1", answer="ok", meta={"n": 1}
            ),
            Prompt("do it", image=picture(1), role="harmful", pair="b", id="2", read_text="what ?", read_answer="kill"),
            Prompt("do it", video=frames, role="benign", pair="b", id="3", wording="w"),
            Prompt("do it", audio=noise(2), pair="c", id="4"),
        ]
    )
    back = PromptSet.from_jsonl(prompts.to_jsonl(tmp_path / "deep" / "set.jsonl"))
    assert back.hash == prompts.hash
    for old, new in zip(prompts, back, strict=True):
        same = [field for field in FIELDS if field not in ("image", "video", "audio", "messages")]
        assert [getattr(old, field) for field in same] == [getattr(new, field) for field in same]
    # written over itself in another order: nothing is mixed up
    turned = back[::-1]
    assert PromptSet.from_jsonl(turned.to_jsonl(tmp_path / "deep" / "set.jsonl")).hash == prompts[::-1].hash


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(TEXT, min_size=1, max_size=4, unique=True), meta=st.dictionaries(st.text(max_size=4), st.integers())
)
def test_any_text_survives_jsonl(tmp_path_factory, texts: list[str], meta: dict[str, int]) -> None:
    try:
        prompts = PromptSet(Prompt(text, id=f"{i}", answer=text, meta=meta) for i, text in enumerate(texts))
        path = prompts.to_jsonl(tmp_path_factory.getbasetemp() / "round.jsonl")
    except PromptError:
        return  # half a surrogate pair in meta
    back = PromptSet.from_jsonl(path)
    assert [(p.text, p.answer, p.meta) for p in back] == [(p.text, p.answer, p.meta) for p in prompts]


def test_every_bad_row_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "bad.jsonl",
        {"text": "fine", "id": "a", "pair": "p", "split": "train"},
        "{not json",
        {"text": "x", "rol": "harmful"},
        {"text": "   "},
        "",
        {"text": "x", "role": "evil"},
        {"text": "x", "id": "a"},
        {"text": "other", "pair": "p", "split": "test"},
        {"text": "x", "image": "nowhere.png"},
        {"text": "x", "messages": [{"role": "user", "content": "y"}]},
        {"id": "no text"},
        [1, 2],
        {"text": "x", "split": ["train"]},
        {"text": 3},
    )
    with pytest.raises(PromptError) as caught:
        PromptSet.from_jsonl(path)
    message = str(caught.value)
    assert (
        "\n" not in message and "12 bad rows" in message and "and 2 more" in message and "nothing was loaded" in message
    )
    for part in (
        "line 2: not JSON",
        "line 3: unknown field 'rol'",
        "line 4: its text is empty",
        "line 6: role 'evil'",
        "line 7: id 'a' is taken by line 1",
        "line 8: pair 'p' is in test, but in train by line 1",
        "line 9: image 'nowhere.png': no such file",
        "line 10: it has messages and text",
        "line 11: no text",
        "line 12: a JSON list",
    ):
        assert part in message


def test_csv_has_the_same_fields(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    path = tmp_path / "a.csv"
    path.write_text(
        "\ufefftext,role,pair,image,meta.source\n"
        '"bake, then ""eat""",benign,p,,web\n'
        '"two\nlines",harmful,p,a.png,\n'
        ",,,,\n"
        "last,,,,\n",
        encoding="utf-8",
    )
    prompts = PromptSet.from_csv(path)
    assert [p.text for p in prompts] == ['bake, then "eat"', "two\nlines", "last"]
    assert prompts[0].meta == {"source": "web"} and prompts[1].modality == "image" and prompts[2].role is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "header"),
        ("id,role\n1,harmful\n", "header"),
        ("text,text\na,b\n", "header"),
        ("text,role\nx,evil\n\ny,benign,3\n", "2 bad rows: line 2: role 'evil'.*line 4: 3 cells"),
        ('text\n"open\n', "line"),
        ("text,meta\nx,y\n", "meta.NAME"),
    ],
)
def test_a_bad_csv(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(PromptError, match=says):
        PromptSet.from_csv(tmp_path / "a.csv")


def test_a_folder_with_one_subfolder_per_role(tmp_path: Path) -> None:
    for role in ("harmful", "benign"):
        (tmp_path / "test" / role).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "test" / role / "kill.png")
    (tmp_path / "test" / "harmful" / "kill.txt").write_text("do what it says\n")
    (tmp_path / "test" / "benign" / "talk.txt").write_text("say hello")
    prompts = PromptSet.from_folder(tmp_path, text="answer the image")
    assert [(p.id, p.text, p.role, p.pair, p.split, p.modality) for p in prompts] == [
        ("test/harmful/kill.png", "do what it says", "harmful", "kill", "test", "image"),
        ("test/benign/kill.png", "answer the image", "benign", "kill", "test", "image"),
        ("test/benign/talk.txt", "say hello", "benign", "talk", "test", "text"),
    ]
    with pytest.raises(PromptError, match=r"test/benign/kill\.png: no kill\.txt beside it"):
        PromptSet.from_folder(tmp_path)


def test_a_folder_with_a_list(tmp_path: Path) -> None:
    lines(tmp_path / "prompts.jsonl", {"text": "hi"})
    assert len(PromptSet.from_folder(tmp_path)) == 1
    with pytest.raises(PromptError, match="no such folder"):
        PromptSet.from_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptError, match="harmful, benign, near_miss"):
        PromptSet.from_folder(tmp_path / "empty")


@pytest.mark.parametrize("path", ["missing.jsonl", "a\0b.jsonl", ".", "x" * 5000])
def test_a_file_that_cannot_be_read(path: str) -> None:
    for read in (PromptSet.from_jsonl, PromptSet.from_csv):
        with pytest.raises(PromptError):
            read(path)


def test_what_cannot_be_written(tmp_path: Path, picture) -> None:
    with pytest.raises(PromptError, match="meta"):
        PromptSet([Prompt("hi", meta={"x": {1, 2}})]).to_jsonl(tmp_path / "a.jsonl")
    with pytest.raises(MediaError):
        PromptSet([Prompt("hi", image="nowhere.png")]).to_jsonl(tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


def test_frames_in_a_folder_are_a_video(tmp_path: Path, picture) -> None:
    (tmp_path / "clip").mkdir()
    Image.fromarray(picture(1)).save(tmp_path / "clip" / "0.png")
    prompts = PromptSet.from_jsonl(lines(tmp_path / "a.jsonl", {"text": "hi", "video": "clip"}))
    assert prompts[0].modality == "video"
    assert prompts.hash == PromptSet([Prompt("hi", id=prompts[0].id, video=np.stack([picture(1)]))]).hash
