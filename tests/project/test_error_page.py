"""The page "Errors and what to do" lists every error the package can make, under the code its message ends with."""

import ast
import html
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import refusal_plugin as rp
from refusal_plugin import errors, geometry, statistics
from refusal_plugin.directions.direction import Direction
from refusal_plugin.evaluation.judge import match_answers
from refusal_plugin.models import load
from refusal_plugin.prompts import Prompt, PromptSet
from refusal_plugin.recipe_files import copy_recipe
from refusal_plugin.remote.errors import RemoteError, translate

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import error_page  # noqa: E402

LISTED = error_page.messages()


def made() -> Iterator[tuple[str, str]]:
    """(module, class) of each call in the package that makes an error, by the classes themselves and not by name."""
    for found in pkgutil.walk_packages(rp.__path__, "refusal_plugin."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                names = ast.unparse(node.func).split(".")
                kind: Any = module
                for name in names:
                    kind = getattr(kind, name, None)
                if isinstance(kind, type) and issubclass(kind, errors.RefusalPluginError):
                    yield found.name, names[-1]


def test_every_error_made_in_the_package_is_listed() -> None:
    assert sorted(made()) == sorted((one.module, one.kind) for one in LISTED)


def test_a_code_belongs_to_one_function() -> None:
    places = {(one.module, one.function) for one in LISTED}
    assert len({one.code for one in LISTED}) == len(places), "two functions share a code: rename one of them"


def test_every_row_says_something_in_words_but_where_a_server_or_a_decoder_is_quoted() -> None:
    assert all(len(one.parts) == 3 for one in LISTED)
    silent = {one.function for one in LISTED if not re.search(r"[a-z]", re.sub(r"<i>.*?</i>", "", "".join(one.parts)))}
    assert silent <= {"translate", "readable"}, "say in words at the call what was found and what to do"


def pattern(part: str) -> str:
    """What a part of a row matches: anything for a hole, any of its alternatives."""
    either = [re.split(r"<i>.*?</i>", one) for one in part.split(" / ")]
    return "|".join(".*".join(re.escape(html.unescape(text)) for text in one) for one in either)


def fits(error: errors.RefusalPluginError, row: error_page.Message) -> bool:
    said = (error.asked, error.found, error.do)
    return type(error).__name__ == row.kind and all(
        re.fullmatch(pattern(part), text, re.S) for part, text in zip(row.parts, said, strict=True)
    )


CASES: dict[str, Callable[[], Any]] = {
    "a function": lambda: geometry.pca(torch.eye(3), 5),
    "a helper behind a function": lambda: geometry.pca(torch.full((4, 3), torch.nan), 1),
    "numbers": lambda: statistics.auroc([float("nan")], [1.0]),
    "the name of a model": lambda: load("organism-x"),
    "a returned error": lambda: load("no/such/model/anywhere"),
    "a constructor": lambda: Prompt(""),
    "a file": lambda: PromptSet.from_path("no-such-file.jsonl"),
    "a folder": lambda: PromptSet.from_folder("no-such-folder"),
    "a class method": lambda: Direction.load("no-such-file.safetensors"),
    "answers": lambda: match_answers([Prompt("how do i bake bread ?")], []),
    "a recipe": lambda: copy_recipe("no such", Path("no-such-folder")),
}


@pytest.mark.parametrize("case", CASES)
def test_the_code_of_an_error_leads_to_a_row_that_says_what_it_says(case: str) -> None:
    with pytest.raises(errors.RefusalPluginError) as caught:
        CASES[case]()
    error = caught.value
    assert str(error) == f"{error.asked}: {error.found}. {error.do}. ({error.code})"
    assert any(fits(error, row) for row in LISTED if row.code == error.code), error


@pytest.mark.parametrize("said", ["the job exceeded the execution timeout", "Invalid API key", "something new"])
def test_what_a_server_says_is_listed_where_it_is_translated(said: str) -> None:
    error = translate("run a block", said)
    assert any(fits(error, row) for row in LISTED if row.code == error.code), error


SHAPES = """
def plain():
    raise DataError("a", "b", "c")

def outer():
    def inner():
        raise DataError(asked="a", found="b", do="c")
    inner()

def generator():
    list(fail for fail in [0] if throw(DataError("a", "b", "c")))

def anonymous():
    (lambda: throw(RemoteError("a", "b", "c", job="1")))()

class Thing:
    def __init__(self, error=None):
        raise error or DataError("a", "b", "c")

    @property
    def value(self):
        raise MediaError("a", "b", "c")

    @classmethod
    def make(cls):
        cls(RemoteError("a", "b", "c"))
"""


def test_a_code_is_the_same_in_the_source_and_at_run_time_wherever_an_error_is_made() -> None:
    def throw(error: Exception) -> None:
        raise error

    kinds = {kind.__name__: kind for kind in (errors.DataError, errors.MediaError, RemoteError)}
    here: dict[str, Any] = {"__name__": "refusal_plugin.somewhere", "throw": throw, **kinds}
    exec(SHAPES, here)
    thing = here["Thing"]
    bare = object.__new__(thing)
    calls = [here[name] for name in ("plain", "outer", "generator", "anonymous")]
    codes = []
    for call in [*calls, thing, lambda: bare.value, thing.make]:
        with pytest.raises(errors.RefusalPluginError) as caught:
            call()
        codes.append(caught.value.code)
    listed = list(error_page.Module("refusal_plugin.somewhere", SHAPES).messages(set(kinds)))
    assert codes == [one.code for one in listed]
    assert len(set(codes)) == len(codes)


def test_a_message_put_together_above_the_call_is_followed_to_where_it_is_written() -> None:
    source = """
ADVICE = "send less"

def check(rows, limit):
    found = "unused"
    found = f"{len(rows)} rows"
    if limit:
        found = "a_b" if rows else "none"
    raise DataError(found, "x: " + ADVICE, limit)
"""
    (one,) = error_page.Module("refusal_plugin.somewhere", source).messages({"DataError"})
    assert one.function == "check"
    assert one.parts == ("a&#95;b / none / <i>len(rows)</i> rows", "x: send less", "<i>limit</i>")


def test_an_error_made_outside_the_package_has_no_code() -> None:
    error = errors.DataError("a", "b", "c")
    assert (error.code, str(error)) == ("", "a: b. c.")


def test_each_code_is_an_anchor_of_the_page_once() -> None:
    anchors = re.findall(r'id="(rp-[0-9a-f]{5})"', error_page.page())
    assert sorted(anchors) == sorted({one.code for one in LISTED})
