"""What happens around a request, without a server: refusing, cutting, keeping, explaining, trying again."""

import ast
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from refusal_plugin.recipe_files import run_remotely
from refusal_plugin.remote import (
    RemoteError,
    RemoteTimeout,
    Settings,
    current,
    jobs,
    parts,
    portions,
    settings,
    task,
    workload,
)
from refusal_plugin.remote.errors import translate
from refusal_plugin.remote.fingerprint import request_hash
from refusal_plugin.remote.portable import without_stops
from refusal_plugin.remote.preflight import check
from refusal_plugin.remote.split import sessions
from refusal_plugin.remote.transport import MayRunTwice, exchange


def block(body: str) -> ast.AST:
    lines = "\n".join("        " + line for line in body.splitlines())
    return ast.parse(f"with model.session(remote=True):\n    with model.trace(**inputs) as tracer:\n{lines}").body[0]


# -- refused before it is sent -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("loss.backward()", "line 3 asks for gradients"),
        ("x = torch.autograd.grad(a, b)", "gradients"),
        ("h.requires_grad_()", "gradients"),
        ("w = layer.weight.save()", "weights cannot be read in the sandbox"),
        ("import json", "imports inside the block"),
        ("a = attn.source.attention_interface_1.output", "attention patterns"),
    ],
)
def test_what_cannot_work_is_refused(body: str, reason: str) -> None:
    config = type("Config", (), {"_attn_implementation": "sdpa"})()
    with pytest.raises(RemoteError, match=reason):
        check(block(body), "run it", Settings(), config)


def test_files_are_encoded_here() -> None:
    node = ast.parse("with model.session(remote=True):\n    with model.trace(images=[x]):\n        pass").body[0]
    with pytest.raises(RemoteError, match="passes images"):
        check(node, "run it", Settings())


def test_a_trusted_key_may_have_gradients_and_weights() -> None:
    check(block("loss.backward()\nw = layer.weight"), "run it", Settings(trusted=True))


def test_an_ordinary_block_passes() -> None:
    check(block("found.append(residuals(blocks, last))\ntracer.stop()"), "run it", Settings())


# -- made fit ----------------------------------------------------------------------------------------------------------
def test_stops_inside_a_session_are_taken_out() -> None:
    node = block("found.append(x)\ntracer.stop()\nmachine.stop()")
    changed = ast.unparse(without_stops(node))
    assert "tracer.stop" not in changed and "machine.stop()" in changed
    assert "tracer.stop()" in ast.unparse(node), "the block itself is not changed"


def test_a_single_trace_keeps_its_stop() -> None:
    node = ast.parse("with model.trace(**inputs, remote=True) as tracer:\n    tracer.stop()").body[0]
    assert "tracer.stop()" in ast.unparse(without_stops(node))


# -- cut ---------------------------------------------------------------------------------------------------------------
def batch(rows: int, columns: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.zeros(rows, columns, dtype=torch.long)}


def test_parts_stay_below_the_limit_and_keep_the_order() -> None:
    work = [(k, batch(1, 10)) for k in range(5)]
    with settings(max_tokens=25):
        cut = parts(work)
    assert [[k for k, _ in part] for part in cut] == [[0, 1], [2, 3], [4]]
    assert len(parts(work)) == 1
    with settings(max_tokens=1):
        assert len(parts(work, remote=False)) == 1
        assert len(parts(work)) == 5, "a batch is never cut"


def test_portions_run_across_stages_in_order() -> None:
    reads, tries = [(k, batch(1, 10)) for k in range(3)], [("try", k, batch(2, 5)) for k in range(3)]
    with settings(max_tokens=45):
        cut = portions(workload(reads), workload(tries, passes=2))
    assert [[item[0] for item in one] for one, _ in cut] == [[0, 1, 2], [], []]
    assert [[item[1] for item in two] for _, two in cut] == [[], [0, 1], [2]]
    whole = portions(workload(reads), workload(tries, passes=2))
    assert whole == [(reads, tries)]
    with settings(max_tokens=1):
        assert portions(workload(reads), workload(tries), remote=False) == whole
        assert len(portions(workload(reads), workload(tries))) == 6
    assert portions(workload([])) == [([],)], "an empty job is one request, which says why"


def test_answers_results_and_fixed_work_count() -> None:
    work = [batch(2, 10) for _ in range(4)]
    with settings(max_tokens=100):
        assert len(portions(workload(work))) == 1
        assert len(portions(workload(work, new_tokens=15))) == 2, "20 prompt and 30 new tokens each"
        assert len(portions(workload(work), fixed=60)) == 2
        assert len(portions(workload(work, passes=lambda inputs: 5.0))) == 4
    with settings(max_result=4000):
        assert len(portions(workload(work, row_bytes=500))) == 2, "half of the limit per request"
    with settings(max_upload=2 * 160):
        assert len(portions(workload(work))) == 4


def test_a_result_that_cannot_be_cut_is_refused_before_anything_is_sent() -> None:
    with settings(max_result=4000):
        with pytest.raises(RemoteError, match=r"read it on NDIF: its smallest part brings back .* MiB, the limit"):
            portions(workload([batch(2, 10)], row_bytes=2001), asked="read it on NDIF")
        with pytest.raises(RemoteError, match="the limit is") as caught:
            portions(workload([batch(1, 1)]), fixed_bytes=4001)
        assert "\n" not in str(caught.value)
        assert len(portions(workload([batch(2, 10)] * 2, row_bytes=2000))) == 2
        portions(workload([batch(1, 1)]), fixed_bytes=4001, remote=False)


class Recipe:
    """A recipe whose requests of more than `most` items are ended by the server."""

    __name__ = "refusal_plugin_recipe_made_up"

    def __init__(self, most: int, items: int = 8) -> None:
        self.most, self.items, self.sent = most, items, []  # type: ignore[var-annotated]

    def run(self, _model: Any, _prompts: Any, *, remote: bool, start: int = 0) -> list[int]:
        found: list[int] = []
        for (part,) in portions(workload([(start + k, batch(1, 10)) for k in range(self.items)]), remote=remote):
            self.sent.append(len(part))
            if len(part) > self.most:
                raise RemoteTimeout("run it", "your job exceeded the execution timeout", "less")
            found += [k for k, _ in part]
        return found


class Words:
    hash = "words"


def test_a_recipe_is_cut_until_it_fits(organism: Any) -> None:
    made = Recipe(most=2)
    with pytest.warns(UserWarning, match="goes on in requests of at most 20 tokens"):
        assert run_remotely(made, organism, Words(), start=5) == list(range(5, 13))
    assert made.sent == [8, 4, 2, 2, 2, 2]
    assert current() == Settings()


def test_a_recipe_of_single_batches_that_are_too_long_says_so(organism: Any) -> None:
    made = Recipe(most=0)
    with pytest.warns(UserWarning, match="goes on"), pytest.raises(RemoteTimeout):
        run_remotely(made, organism, Words())
    assert made.sent[-1] == 1


def test_a_run_knows_whether_it_can_be_cut() -> None:
    with task("made up") as going:
        portions(workload([batch(1, 10)] * 3), fixed=5)
        assert going.heaviest == 35
        with settings(max_tokens=1):
            portions(workload([batch(1, 10)] * 3))
        assert going.heaviest == 0


def test_a_timeout_halves_the_work_and_nothing_is_repeated() -> None:
    sent: list[list[int]] = []

    def run(group: list[Any]) -> list[int]:
        sent.append([k for k, _ in group])
        if len(group) > 2:
            raise RemoteTimeout("run", "exceeded", "less")
        return [k for k, _ in group]

    work = [(k, batch(1, 10)) for k in range(5)]
    assert [result for _, result in sessions(work, run, remote=True)] == [0, 1, 2, 3, 4]
    assert sent == [[0, 1, 2, 3, 4], [0, 1], [2, 3, 4], [2], [3, 4]]


def test_a_single_batch_that_is_too_long_says_so() -> None:
    def run(_group: list[Any]) -> list[int]:
        raise RemoteTimeout("run", "exceeded", "less")

    with pytest.raises(RemoteTimeout):
        list(sessions([(0, batch(1, 1))], run, remote=True))


# -- kept --------------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REFUSAL_PLUGIN_JOBS", str(tmp_path / "jobs"))
    return tmp_path / "jobs"


def test_results_come_back_as_they_were(folder: Path) -> None:
    result = {"a": [torch.arange(3), (1, 2.5, "x", None, True)], "b": {"c": torch.zeros(0, 2), 3: []}}
    job = jobs.write(jobs.Job("abc", "http://x", "m"))
    jobs.store(job, result)
    found = jobs.load(job)
    assert found is not None
    assert torch.equal(found["a"][0], result["a"][0]) and found["a"][1] == (1, 2.5, "x", None, True)
    assert found["b"]["c"].shape == (0, 2) and found["b"][3] == []


def test_what_cannot_be_kept_is_named(folder: Path) -> None:
    job = jobs.write(jobs.Job("abc", "http://x", "m"))
    with pytest.raises(RemoteError, match="the block saved a set"):
        jobs.store(job, {"a": {1, 2}})


def test_jobs_are_found_again(folder: Path) -> None:
    one = jobs.write(jobs.Job("aaa1", "http://x", "m", run="r", index=1, block="b", created=1.0))
    jobs.write(jobs.Job("aab2", "http://x", "m", run="r", index=1, block="other", created=2.0))
    assert jobs.find("r", 1, "b") == one
    assert jobs.find("r", 0, "b") is None
    assert [job.id for job in jobs.listed()] == ["aab2", "aaa1"]
    assert jobs.named("aaa").id == "aaa1"
    with pytest.raises(RemoteError, match="2 jobs begin like that"):
        jobs.named("aa")
    jobs.write(one, status="ERROR")
    assert jobs.find("r", 1, "b") is None, "what failed is sent again"
    jobs.drop(one)
    (folder / "spoiled.json").write_text("{")
    assert [job.id for job in jobs.listed()] == ["aab2"]


def test_ids_are_no_paths(folder: Path) -> None:
    jobs.write(jobs.Job("../../escape", "http://x", "m"))
    assert [path.parent for path in folder.rglob("*.json")] == [folder]


# -- the very same request ---------------------------------------------------------------------------------------------
def captured(organism: Any, value: Any) -> str:
    from nnsight.tracing.backend import Backend

    hashes = []

    class Look(Backend):  # type: ignore[misc]
        def __call__(self, tracer: Any) -> None:
            hashes.append(request_hash(tracer, "key"))

    with organism.session(backend=Look()):
        print(value)
    return hashes[0]


def test_a_request_is_told_from_others_by_its_data(organism: Any) -> None:
    same = captured(organism, [torch.ones(2), {"a": 1}])
    assert captured(organism, [torch.ones(2), {"a": 1}]) == same
    assert captured(organism, [torch.ones(2), {"a": 2}]) != same
    assert captured(organism, [torch.zeros(2), {"a": 1}]) != same


# -- explained ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("said", "do"),
    [
        ("Your job exceeded the execution timeout of 60.0s.", "fewer prompts"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", "smaller batches"),
        ("ModuleNotFoundError: No module named 'refusal_plugin'", "torch and math only"),
        (
            "The model architecture on this server doesn't match the one your code was traced against",
            "compare",
        ),
        ("Client nnsight version 0.7 is below the minimum supported 0.8", "compare"),
        ("Missing or invalid API key. Please visit", "NDIF_API_KEY"),
        ("Could not deploy this model. Repository Not Found for url", "spelling"),
        ("There was an error parsing the body", "1 MB"),
        ("TimeoutError: timed out waiting for the runner socket", "overloaded"),
        ("NotImplementedError: Cannot copy out of meta tensor; no data!", "weights cannot be read"),
    ],
)
def test_every_message_has_advice(said: str, do: str) -> None:
    error = translate("run it", said)
    assert do in error.do and "\n" not in str(error)
    assert isinstance(error, RemoteTimeout) == ("timeout" in said)


def test_a_traceback_becomes_the_recipes_line() -> None:
    said = 'Traceback (most recent call last):\n  File "/a/recipe.py", line 7, in run\n    x\nValueError: too small'
    assert "recipe.py line 7: ValueError: too small" in str(translate("run it", said, filename="/a/recipe.py"))


def test_keys_are_taken_out_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnsight import CONFIG

    monkeypatch.setattr(CONFIG.API, "APIKEY", "my-secret")
    text = str(RemoteError("run", "format: 'my-secret' or 11111111-1111-4111-8111-111111111111", "log in"))
    assert "my-secret" not in text and "4111" not in text


# -- tried again -------------------------------------------------------------------------------------------------------
@pytest.fixture
def server() -> Iterator[Any]:
    answers: list[int] = []
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            seen.append(self.path)
            status = answers.pop(0) if answers else 200
            if status == 0:
                self.connection.close()
                return
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"detail": "no"}')

    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield type("Server", (), {"url": f"http://127.0.0.1:{found.server_port}", "answers": answers, "seen": seen})
    found.shutdown()
    found.server_close()


PATIENT = Settings(attempts=3, backoff=0.01)


def get(server: Any, repeatable: bool) -> Any:
    return exchange("ask", lambda client: client.get(server.url), PATIENT, repeatable=repeatable)


def test_not_ready_is_silent_and_unclear_is_said(server: Any, recwarn: pytest.WarningsRecorder) -> None:
    server.answers[:] = [503, 429]
    assert get(server, repeatable=False).status_code == 200
    assert not [w for w in recwarn if issubclass(w.category, MayRunTwice)]
    for fault in (0, 500, 502, 504):
        server.answers[:] = [fault]
        with pytest.warns(MayRunTwice):
            get(server, repeatable=False)
    server.answers[:] = [0, 500]
    assert get(server, repeatable=True).status_code == 200


def test_refused_is_not_tried_again(server: Any) -> None:
    server.answers[:] = [403]
    with pytest.raises(RemoteError):
        get(server, repeatable=False)
    assert len(server.seen) == 1


def test_attempts_end(server: Any) -> None:
    server.answers[:] = [503] * 9
    with pytest.raises(RemoteError, match="3 attempts"):
        get(server, repeatable=False)
    assert len(server.seen) == 3


# -- settings ----------------------------------------------------------------------------------------------------------
def test_settings_end_with_their_block() -> None:
    with settings(timeout=5):
        assert current().timeout == 5
    assert current() == Settings()


@pytest.mark.parametrize("bad", [{"timeout": 0}, {"nonsense": 1}])
def test_wrong_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(RemoteError), settings(**bad):
        pass


def test_a_local_model_is_not_sent(organism: Any) -> None:
    with pytest.raises(RemoteError, match="a server only knows models of the hub"):
        organism.session(remote=True)


def test_the_name_that_cannot_travel_is_told(organism: Any) -> None:
    import threading

    from refusal_plugin.remote.backend import culprit

    said = []

    from nnsight.tracing.backend import Backend

    class Look(Backend):  # type: ignore[misc]
        def __call__(self, tracer: Any) -> None:
            said.append(culprit(tracer))

    lock = threading.Lock()
    with organism.session(backend=Look()):
        print([lock + 1 for lock in (1, 2)])
    assert said == [": 'lock' is a lock"]
    assert lock is not None
