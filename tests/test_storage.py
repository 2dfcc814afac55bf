"""What is kept on disk: nothing half written, nothing spoiled believed, nothing done twice."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from refusal_plugin.errors import DataError, RefusalPluginError, StudyError
from refusal_plugin.storage import Checkpoints, Saved, key_of, read_tensors, write_json, write_tensors

# -- artefacts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Something within."""

    names: tuple[str, ...]
    rows: Float[Tensor, "name 4"]


@dataclass(frozen=True)
class Result(Saved):
    """One field of every kind."""

    FORMAT: ClassVar[str] = "tests.result.v1"

    a: Float[Tensor, "layer d"]
    b: Float[Tensor, "layer d k"]
    layer: int
    share: float
    kind: Literal["one", "other"]
    part: Part
    parts: Mapping[str, Part]
    table: Mapping[str, Float[Tensor, "n d"]]
    maybe: Float[Tensor, " layer"] | None = None
    also: Part | None = None
    pair: tuple[float, str] = (0.0, "")
    curves: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    note: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Later(Result):
    """A kind of its own."""

    more: bool = False


def result(**changes: Any) -> Result:
    part = Part(("x", "y"), torch.ones(2, 4))
    made = Result(
        torch.zeros(3, 5), torch.zeros(3, 5, 2), 1, 0.5, "one", part, {"text": part, "image": part},
        {"text": torch.zeros(2, 5), "a/b": torch.zeros(7, 5)},
        curves={"text": [1.0, None]}, note={"deep": [1, {"er": None}]},
    )  # fmt: skip
    return replace(made, **changes)


def test_every_kind_of_field_comes_back(tmp_path: Path) -> None:
    for one in (
        result(),
        result(maybe=torch.ones(3), also=Part((), torch.zeros(0, 4)), pair=(2.0, "z"), table={}, parts={}),
        Later(**{**vars(result()), "more": True}),
    ):
        again = Result.load(one.save(tmp_path / "one"))
        assert type(again) is type(one) and str(again) == str(one)


def test_tensors_that_share_memory_are_kept_apart(tmp_path: Path) -> None:
    both = torch.arange(15.0).reshape(3, 5)
    again = Result.load(result(a=both, table={"text": both[:2]}).save(tmp_path / "one"))
    assert torch.equal(again.table["text"], both[:2]) and again.a.data_ptr() % 64 == 0


def test_a_frame_has_its_numbers_and_words() -> None:
    pytest.importorskip("pandas")
    assert result().to_frame().to_dict("records") == [{"layer": 1, "share": 0.5, "kind": "one"}]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"a": torch.zeros(3, 6)}, "its b has shape|its a has shape"),
        ({"a": torch.zeros(3)}, r"its a has shape \(3,\)"),
        ({"a": torch.zeros(3, 5, dtype=torch.int64)}, "its a has shape .* int64"),
        ({"a": torch.full((3, 5), float("nan"))}, "its a holds NaN"),
        ({"maybe": torch.zeros(4)}, "its maybe"),
        ({"table": {"text": torch.zeros(5)}}, "its table/text has shape"),
        ({"part": Part(("x",), torch.zeros(1, 3))}, "its part/rows has shape"),
        ({"layer": "1"}, "its layer is '1'"),
        ({"layer": True}, "its layer is 'True'"),
        ({"share": float("inf")}, "its share is 'inf'"),
        ({"share": 10**400}, "its share is '1000"),
        ({"kind": "third"}, "its kind is 'third'"),
        ({"pair": (1.0,)}, "its pair is no list of the right length"),
        ({"curves": {"text": 3}}, "its curves/text is no list"),
        ({"part": {"colour": 1}}, "holds colour, which no Part has"),
        ({"parts": {"../../x": {}}}, "it has no parts/../../x/"),
    ],
)
def test_content_that_cannot_be_right_is_one_line(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    path = result(**change).save(tmp_path / "one")
    with pytest.raises(DataError, match=match) as error:
        Result.load(path)
    assert "\n" not in str(error.value)


def test_foreign_tensors_fields_and_kinds_are_refused(tmp_path: Path) -> None:
    tensors, record = read_tensors(result().save(tmp_path / "one"))
    for more, changed, match in (
        ({"../../etc/passwd": torch.zeros(1)}, record, "which no Result has"),
        ({}, {**record, "fields": {**record["fields"], "colour": 1}}, "colour"),
        ({}, {**record, "fields": []}, "JSON object"),
        ({}, {**record, "kind": ["Result"]}, "not known"),
        ({}, {**record, "format": "tests.other.v1"}, "give a file of tests.result.v1"),
    ):
        path = write_tensors(tmp_path / "other", {**tensors, **more}, changed)
        with pytest.raises(DataError, match=match):
            Result.load(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "other"], "names of tensors are no paths"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_record_however_odd_is_more_than_one_line(tmp_path: Path, data: st.DataObject) -> None:
    tensors, record = read_tensors(result().save(tmp_path / "one"))
    name = data.draw(st.sampled_from([*record["fields"], "new"]))
    record["fields"][name] = data.draw(JSON)
    if data.draw(st.booleans()):
        tensors[data.draw(st.sampled_from([*tensors, "b/c"]))] = torch.zeros(data.draw(st.lists(st.integers(0, 3))))
    path = write_tensors(tmp_path / "odd", tensors, record)
    try:
        found = Result.load(path)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(found.layer, int) and found.a.shape == found.b.shape[:2]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bytes_however_spoiled_are_more_than_one_line(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(result().save(tmp_path / "one").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.sampled_from([len(raw), len(raw) // 2, 9, 8, 3]))]
    (tmp_path / "odd").write_bytes(bytes(raw))
    try:
        Result.load(tmp_path / "odd")
    except DataError as error:
        assert "\n" not in str(error)


def test_sizes_that_no_file_has_and_depths_that_no_record_has(tmp_path: Path) -> None:
    huge = json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}).encode()
    deep = json.dumps({"__metadata__": {"refusal_plugin": "[" * 200_000}}).encode()
    for header in (huge, deep):
        path = tmp_path / "odd"
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(DataError, match="not a readable"):
            Result.load(path)


def test_nothing_is_half_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    with pytest.raises(DataError, match="write"):
        write_json(tmp_path / "no" / "such.json", 1)
    with pytest.raises(DataError, match="write") as error:
        result().save(tmp_path / "a.json" / "below")
    assert "\n" not in str(error.value) and [p.name for p in tmp_path.iterdir()] == ["a.json"]


# -- checkpoints -------------------------------------------------------------------------------------------------------

FACTS = {"weights": "abc", "seed": 0}


class Work:
    """Work that counts how often it was done."""

    def __init__(self, value: Any, stop: bool = False) -> None:
        self.value, self.stop, self.times = value, stop, 0

    def __call__(self) -> Any:
        if self.stop:
            raise KeyboardInterrupt
        self.times += 1
        return self.value


def test_finished_stages_are_kept_over_an_interruption(tmp_path: Path) -> None:
    first, second = Work([1, 2]), Work({"x": None})
    stages = Checkpoints(tmp_path, FACTS)
    assert stages.run("one", first) == [1, 2]
    with pytest.raises(KeyboardInterrupt):
        stages.run("two", Work(0, stop=True))
    again = Checkpoints(tmp_path, FACTS)
    assert again.run("one", first) == [1, 2] and again.run("two", second) == {"x": None}
    assert (first.times, second.times, again.stages) == (1, 1, ["one"])
    assert again.seconds["one"] == stages.seconds["one"]
    assert again.run("one", first, again=True) == [1, 2] and first.times == 2


def test_a_stage_inside_another_is_part_of_its_time(tmp_path: Path) -> None:
    stages = Checkpoints(tmp_path, FACTS)
    stages.run("whole", lambda: stages.run("part", Work(1)))
    assert list(stages.seconds) == ["whole"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"weights": "xyz"}, {"limit": 3}])
def test_a_changed_question_starts_over(tmp_path: Path, change: dict[str, Any]) -> None:
    work = Work(5)
    Checkpoints(tmp_path, FACTS).run("one", work)
    changed = Checkpoints(tmp_path, {**FACTS, **change})
    changed.run("one", work)
    assert work.times == 2 and changed.stages == []


def test_half_a_line_and_spoiled_ones_are_done_again(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    assert kept.get({"a": 1}, lambda: [1, 2]) == [1, 2] and kept.get({"b": 1}, lambda: "x") == "x"
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'nonsense\n[]\n{"no": 1}\n\xff\n' + path.read_bytes()[:-6])  # stopped in the second line
    again = Checkpoints(tmp_path)
    assert again.get({"a": 1}, lambda: pytest.fail("it was done")) == [1, 2]
    assert again.get({"b": 1}, lambda: "y") == "y" and (again.reused, again.computed) == (1, 1)
    lines = path.read_text(errors="replace").splitlines()
    assert [json.loads(line)["key"] for line in lines[4:]] == [key_of({"a": 1}), key_of({"b": 1})]


def test_a_tensor_stage_is_kept_and_a_corrupt_one_runs_again(tmp_path: Path) -> None:
    work = Work(torch.arange(6.0).reshape(2, 3))
    Checkpoints(tmp_path, FACTS).tensor("stream", work)
    assert torch.equal(Checkpoints(tmp_path, FACTS).tensor("stream", work), work.value) and work.times == 1
    (tmp_path / "stream.safetensors").write_bytes(b"half a file")
    assert torch.equal(Checkpoints(tmp_path, FACTS).tensor("stream", work), work.value) and work.times == 2
    Checkpoints(tmp_path, {**FACTS, "seed": 1}).tensor("stream", work)
    assert work.times == 3


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="choose another --out") as error:
        Checkpoints(tmp_path / "file" / "study", FACTS)
    assert "\n" not in str(error.value) and isinstance(error.value, RefusalPluginError)


KILLED = """
import os, signal, sys, torch
from refusal_plugin.storage import Checkpoints
kept, last = Checkpoints(sys.argv[1], {}), int(sys.argv[2])
for n in range(6):
    def work(n=n):
        print(n, flush=True)
        if n == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor([float(n)]) if n % 2 else n
    (kept.tensor if n % 2 else kept.run)(f"stage{n}", work)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_a_run_killed_at_each_stage_does_each_stage_once_more_at_most(tmp_path: Path) -> None:
    done = []
    for last in (0, 1, 2, 3, 4, 5, 99):
        found = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), str(last)], capture_output=True, text=True, check=False
        )
        assert found.returncode == (0 if last == 99 else -signal.SIGKILL), found.stderr
        done.append([int(n) for n in found.stdout.split()])
    assert done == [[0], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5]]
