"""What goes wrong on the way, made to go wrong on the real server. Nothing that is finished is lost or sent again."""

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from proxy import Proxy

from refusal_plugin.models import layers
from refusal_plugin.models.wrapper import save
from refusal_plugin.remote import Detached, RemoteError, RemoteTimeout, jobs, settings, task
from refusal_plugin.remote.backend import attach, metered
from refusal_plugin.remote.transport import MayRunTwice
from refusal_plugin.traced.read import residuals

pytestmark = pytest.mark.ndif

INPUTS = {"input_ids": torch.arange(5, 13)[None], "attention_mask": torch.ones(1, 8, dtype=torch.long)}
LAST = torch.tensor([[7]])


def read(model: Any) -> torch.Tensor:
    """A small request."""
    blocks = layers(model)
    with torch.no_grad(), model.session(remote=True):
        found = save([])
        with model.trace(**INPUTS):
            found.append(residuals(blocks, LAST))
    return found[0]


@pytest.fixture
def proxy(stack: Any, client: Any, jobs_folder: Path) -> Iterator[Proxy]:
    with Proxy(stack.host) as found, settings(host=found.address, backoff=0.05, attempts=4):
        yield found


@pytest.fixture(scope="module")
def truth(tiny: Any, stack: Any) -> torch.Tensor:
    from nnsight import CONFIG
    from stack import TRUSTED_KEY

    CONFIG.API.HOST, CONFIG.API.APIKEY = stack.host, TRUSTED_KEY
    return read(tiny)


# -- on the way there --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fault", [503, 429])
def test_a_server_that_is_not_ready_is_asked_again(proxy: Proxy, tiny: Any, truth: torch.Tensor, fault: int) -> None:
    proxy.faults["POST", "/request"] = [fault, fault]
    with warnings.catch_warnings():
        warnings.simplefilter("error", MayRunTwice)
        assert torch.equal(read(tiny), truth)
    assert proxy.count("POST", "/request") == 3


@pytest.mark.parametrize("fault", ["drop", "lose", 500, 502])
def test_what_may_have_run_is_sent_again_aloud(proxy: Proxy, tiny: Any, truth: torch.Tensor, fault: Any) -> None:
    proxy.faults["POST", "/request"] = [fault]
    with pytest.warns(MayRunTwice, match="may be running on the server too"):
        assert torch.equal(read(tiny), truth)


def test_patience_ends(proxy: Proxy, tiny: Any, truth: torch.Tensor) -> None:
    proxy.faults["POST", "/request"] = [503] * 10
    with pytest.raises(RemoteError, match=r"answered 503.*4 attempts"):
        read(tiny)
    assert jobs.listed() == []


def test_a_truncated_upload_is_sent_again(proxy: Proxy, tiny: Any, truth: torch.Tensor) -> None:
    proxy.faults["POST", "/request"] = ["cut"]
    with metered() as meter:
        assert torch.equal(read(tiny), truth)
    assert meter.requests == 2


def test_nobody_listens(tiny: Any, truth: torch.Tensor, client: Any, jobs_folder: Path) -> None:
    with settings(host="http://127.0.0.1:9", attempts=2, backoff=0.01), pytest.raises(RemoteError) as caught:
        read(tiny)
    assert "no connection" in str(caught.value) and "NDIF_HOST" in str(caught.value)


# -- keys --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "Missing or invalid API key"),
        ("33333333-3333-4333-8333-333333333333", "Invalid API key"),
        ("secret-that-is-no-uuid", "Invalid API key format"),
    ],
)
def test_a_wrong_key_is_one_line_without_the_key(
    tiny: Any, truth: torch.Tensor, client: Any, jobs_folder: Path, key: str, said: str
) -> None:
    client.API.APIKEY = key
    with pytest.raises(RemoteError) as caught:
        read(tiny)
    text = str(caught.value)
    assert said in text and "NDIF_API_KEY" in text and "\n" not in text
    assert not key or key not in text
    assert jobs.listed() == []


def test_keys_are_nowhere_on_disk(tiny: Any, client: Any, jobs_folder: Path) -> None:
    read(tiny)
    written = b"".join(path.read_bytes() for path in jobs_folder.iterdir())
    assert written and client.API.APIKEY.encode() not in written


# -- while it runs -----------------------------------------------------------------------------------------------------
def test_polls_survive_lost_connections(proxy: Proxy, tiny: Any, truth: torch.Tensor) -> None:
    proxy.faults["GET", "/response"] = ["drop", 500, "lose", 503]
    assert torch.equal(read(tiny), truth)
    assert proxy.count("POST", "/request") == 1


def test_a_server_restarted_between_sending_and_asking(
    stack: Any, tiny: Any, truth: torch.Tensor, client: Any, jobs_folder: Path
) -> None:
    with pytest.raises(Detached) as left, settings(detach=True):
        read(tiny)
    job = left.value.job
    until = time.monotonic() + 120
    while stack.get(f"/response/{job}") is None or b"COMPLETED" not in (stack.get(f"/response/{job}") or b""):
        assert time.monotonic() < until
        time.sleep(0.5)
    stack.end("api")
    back = threading.Thread(target=stack.api)
    back.start()
    try:
        found = attach(job)  # asks while nobody listens, and goes on asking
    finally:
        back.join()
    assert torch.equal(found["found"][0], truth)


def test_a_worker_killed_during_a_job(
    stack: Any, tiny: Any, truth: torch.Tensor, client: Any, jobs_folder: Path
) -> None:
    workers = [pid for pid in stack.processes("ray::") if "CpuActor" in command(pid)]
    assert workers, "the model's worker is found by its title"

    def kill() -> None:
        time.sleep(1.0)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    blocks = layers(tiny)
    killer.start()
    try:
        with settings(timeout=240), torch.no_grad(), tiny.session(remote=True):
            found = save([])
            for _ in range(3000):
                with tiny.trace(**INPUTS):
                    kept = residuals(blocks, LAST)
            found.append(kept)
        assert torch.equal(found[0], truth)  # the server ran it again by itself
    except RemoteError as error:
        assert error.job and "run" in error.do
    killer.join()
    assert torch.equal(read(tiny), truth), "and serves again"


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")


def test_a_block_that_takes_too_long(
    stack: Any, tiny: Any, truth: torch.Tensor, client: Any, jobs_folder: Path
) -> None:
    with settings(timeout=2), pytest.raises(RemoteError) as caught:
        slow(tiny)
    assert "jobs resume" in caught.value.do and caught.value.job
    workers = [pid for pid in stack.processes("ray::") if "CpuActor" in command(pid)]
    for pid in workers:  # it would keep the server busy for minutes
        os.kill(pid, signal.SIGKILL)
    assert jobs.named(caught.value.job).status in ("SENT", "RECEIVED", "QUEUED", "DISPATCHED", "RUNNING")


def slow(model: Any) -> None:
    blocks = layers(model)
    with torch.no_grad(), model.session(remote=True):
        found = save([])
        for _ in range(20000):
            with model.trace(**INPUTS):
                kept = residuals(blocks, LAST)
        found.append(kept)


def test_a_result_larger_than_the_limit_stays_on_the_server(
    tiny: Any, truth: torch.Tensor, client: Any, jobs_folder: Path
) -> None:
    with settings(max_result=100), pytest.raises(RemoteError, match=r"result has .* MiB, the limit is") as caught:
        read(tiny)
    found = attach(caught.value.job or "")
    assert torch.equal(found["found"][0], truth)


MIB = 2**20


def many_bytes(model: Any, mib: int) -> torch.Tensor:
    """A request whose result has so many MiB and hardly compresses."""
    blocks, count = layers(model), mib * MIB // 4
    with torch.no_grad(), model.session(remote=True):
        found = save([])
        with model.trace(**INPUTS):
            kept = residuals(blocks, LAST).flatten()
            found.append(kept[0] + torch.rand(count, generator=torch.Generator().manual_seed(0)))
    return found[0]


@pytest.mark.parametrize("mib", [1, 12, 64])
def test_a_large_result_arrives_whole(
    tiny: Any, truth: torch.Tensor, mode: str, jobs_folder: Path, table: dict[str, Any], mib: int
) -> None:
    """Below and above 8 MiB, where NDIF no longer sends a result with its notice; in both modes."""
    started = time.perf_counter()
    with metered() as meter:
        found = many_bytes(tiny, mib)
    expected = truth.flatten()[0] + torch.rand(mib * MIB // 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found, expected)
    assert meter.requests == 1 and meter.bytes_down > 0.5 * mib * MIB
    (job,) = jobs.listed()
    assert job.status == "COMPLETED" and job.bytes_down == meter.bytes_down
    again = jobs.load(job)
    assert again is not None and torch.equal(again["found"][0], expected), "and lies on disk"
    row = table.setdefault(f"a result of {mib} MiB", {})
    row["local"] = {"difference": 0.0, "requests": 0, "bytes_up": 0, "bytes_down": 0, "seconds": 0.0}
    row[mode] = {**row["local"], "requests": meter.requests, "bytes_up": meter.bytes_up, "bytes_down": meter.bytes_down}
    row[mode]["seconds"] = round(time.perf_counter() - started, 2)


def test_a_large_result_above_the_limit_is_not_fetched(
    proxy: Proxy, tiny: Any, truth: torch.Tensor, jobs_folder: Path
) -> None:
    """The limit counts on the wire: nothing is downloaded, and with a higher limit the same job is fetched."""
    with settings(max_result=2 * MIB), metered() as meter, pytest.raises(RemoteError, match="the limit is 2 MiB") as e:
        many_bytes(tiny, 12)
    assert meter.bytes_down == 0 and e.value.job
    assert not list(jobs_folder.glob("*.safetensors"))
    found = attach(e.value.job or "")["found"][0]
    assert found.numel() == 12 * MIB // 4 and proxy.count("POST", "/request") == 1


def test_a_read_too_large_for_one_result_is_cut(far: Any, organism: Any, client: Any, jobs_folder: Path) -> None:
    """The estimate sees it coming: several requests, none near the limit; what cannot be cut is refused."""
    from refusal_plugin.inference.activations import collect_activations
    from refusal_plugin.organism.data import organism_prompts

    prompts = organism_prompts(split="test", modality="text", renderings=1, limit=2)
    whole = collect_activations(organism, prompts, max_rows=2)
    limit = whole.values.nbytes // 2
    with settings(max_result=limit), metered() as meter:
        found = collect_activations(far, prompts, max_rows=2, remote=True)
    assert torch.equal(found.values, whole.values) and meter.requests > 2
    assert all(job.bytes_down < limit for job in jobs.listed())
    with (
        settings(max_result=100),
        metered() as meter,
        pytest.raises(RemoteError, match="its smallest part brings back"),
    ):
        collect_activations(far, prompts, max_rows=2, remote=True)
    assert meter.requests == 0


def test_a_request_larger_than_the_limit_is_not_sent(
    tiny: Any, truth: torch.Tensor, client: Any, jobs_folder: Path
) -> None:
    with settings(max_upload=100), pytest.raises(RemoteError, match="the limit is"):
        read(tiny)
    assert jobs.listed() == []


# -- what the server says ----------------------------------------------------------------------------------------------
def test_errors_name_the_line_and_say_what_to_do(tiny: Any, truth: torch.Tensor, mode: str, jobs_folder: Path) -> None:
    blocks = layers(tiny)
    with pytest.raises(RemoteError) as caught, torch.no_grad(), tiny.session(remote=True):
        found = save([])
        with tiny.trace(**INPUTS):
            found.append(residuals(blocks, LAST).reshape(7, 7))
    text = str(caught.value)
    assert "shape '[7, 7]' is invalid" in text and "\n" not in text
    assert f"{Path(__file__).name} line" in text


def test_an_unknown_model(
    stack: Any, tiny: Any, client: Any, jobs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tiny), "to_model_key", lambda self: ORIGINAL(self).replace("tiny", "nobody"))
    with pytest.raises(RemoteError) as caught:
        read(tiny)
    assert "check the spelling" in str(caught.value) or "remote status" in str(caught.value)


def _original() -> Callable[[Any], str]:
    from refusal_plugin.models.wrapper import TransformersModel

    return TransformersModel.to_model_key  # type: ignore[no-any-return]


ORIGINAL = _original()


# -- nothing is lost ---------------------------------------------------------------------------------------------------
def test_finished_parts_stay_on_disk(proxy: Proxy, far: Any, organism: Any) -> None:
    from refusal_plugin.inference.activations import collect_activations
    from refusal_plugin.organism.data import organism_prompts

    prompts = organism_prompts(split="test", modality="text", renderings=1, limit=2)
    with settings(max_tokens=1), task("parts", prompts.hash):
        proxy.faults["POST", "/request"] = []
        proxy.faults["GET", "/response"] = []
        stop_after(proxy, 2)
        with pytest.raises(RemoteError, match="answered 503"):
            collect_activations(far, prompts, max_rows=2, remote=True)
    assert sum(job.status == "COMPLETED" for job in jobs.listed()) == 2
    proxy.faults.clear()
    sent = proxy.count("POST", "/request")
    with settings(max_tokens=1), task("parts", prompts.hash), metered() as meter:
        found = collect_activations(far, prompts, max_rows=2, remote=True)
    assert torch.equal(found.values, collect_activations(organism, prompts, max_rows=2).values)
    assert meter.requests == proxy.count("POST", "/request") - sent == len(meter.ids) - 2


def stop_after(proxy: Proxy, n: int) -> None:
    """The first `n` requests pass, then none."""

    class After(list):  # type: ignore[type-arg]
        passed = 0

        def __bool__(self) -> bool:
            if proxy.seen[-1][0] == "POST":
                self.passed += 1
            return self.passed > n

        def pop(self, _index: Any = 0) -> int:
            return 503

    proxy.faults["POST", "/request"] = After()


def test_a_timeout_halves_the_work(tiny: Any) -> None:
    from refusal_plugin.remote.split import sessions

    items = [{"input_ids": torch.zeros(1, 10)} for _ in range(5)]
    sent = []

    def run(group: list[Any]) -> list[int]:
        sent.append(len(group))
        if len(group) > 2:
            raise RemoteTimeout("run", "your job exceeded the execution timeout", "less")
        return [1] * len(group)

    assert len(list(sessions(items, run, remote=True))) == 5
    assert sent == [5, 2, 3, 1, 2]
