"""A real NDIF server for the tests in this folder, once per session; see `stack.py`.

They run where NDIF_ENV names the server's environment (`make test-remote` sets it) and are left out otherwise. What a
client reads once at import, it must find before anything is imported: hence the variables at the top.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from stack import PLAIN_KEY, TRUSTED_KEY, Missing, Stack, default_models, free_ports  # noqa: E402

ENV = os.environ.get("NDIF_ENV", "")
TABLE = os.environ.get("NDIF_TABLE", "")
if ENV:
    HUB_PORT = free_ports(1)[0]
    CACHE = tempfile.mkdtemp(prefix="ndif-client-")
    os.environ.update(
        HF_ENDPOINT=f"http://127.0.0.1:{HUB_PORT}",
        HF_HUB_OFFLINE="0",
        HF_HOME=CACHE,
        REFUSAL_PLUGIN_JOBS=str(Path(CACHE) / "jobs"),
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a server's environment these tests are not part of the run."""
    if not ENV:
        ours = [item for item in items if item.get_closest_marker("ndif")]
        if ours:
            config.hook.pytest_deselected(items=ours)
            items[:] = [item for item in items if item not in ours]


def pytest_unconfigure() -> None:
    """The client's cache goes with the session."""
    if ENV:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The running server; skips, saying why, where Redis or the server's environment is missing."""
    models = default_models(tmp_path_factory.mktemp("models"))
    server = Stack(Path(ENV).resolve(), models, hub_port=HUB_PORT)
    try:
        server.start()
    except Missing as error:
        pytest.skip(f"no NDIF server: {error}")
    try:
        yield server
    finally:
        server.stop()
        assert server.processes() == [], "everything that was started is stopped"


@pytest.fixture(params=["sandboxed", "trusted"])
def mode(request: pytest.FixtureRequest, client: Any) -> str:
    """Both ways a server runs a request; a key decides which."""
    client.API.APIKEY = TRUSTED_KEY if request.param == "trusted" else PLAIN_KEY
    return str(request.param)


@pytest.fixture
def client(stack: Stack) -> Iterator[Any]:
    """nnsight's configuration, pointing at the server, with a trusted key; as it was afterwards."""
    from nnsight import CONFIG

    before = (CONFIG.API.HOST, CONFIG.API.APIKEY)
    CONFIG.API.HOST, CONFIG.API.APIKEY = stack.host, TRUSTED_KEY
    yield CONFIG
    CONFIG.API.HOST, CONFIG.API.APIKEY = before


@pytest.fixture(scope="session")
def far(stack: Stack) -> Any:
    """The embedded model on the server: no weights here."""
    from refusal_plugin import load

    return load("refusal-plugin/organism", remote=True)


@pytest.fixture(scope="session")
def tiny(stack: Stack) -> Any:
    """The tiny text model on the server."""
    from refusal_plugin import load

    return load("refusal-plugin/tiny", remote=True)


@pytest.fixture
def jobs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of jobs of its own."""
    monkeypatch.setenv("REFUSAL_PLUGIN_JOBS", str(tmp_path / "jobs"))
    return tmp_path / "jobs"


@pytest.fixture(scope="session")
def table() -> Iterator[dict[str, Any]]:
    """What the tests measure, written to NDIF_TABLE at the end: what, in which mode, how different, at what cost."""
    rows: dict[str, Any] = {}
    yield rows
    if TABLE and rows:
        order = ("local", "sandboxed", "trusted")
        listed = [
            {"what": what, "mode": mode, **found}
            for what, modes in sorted(rows.items())
            for mode, found in sorted(modes.items(), key=lambda item: order.index(item[0]))
        ]
        Path(TABLE).parent.mkdir(parents=True, exist_ok=True)
        Path(TABLE).write_text(json.dumps({"rows": listed}, indent=1) + "\n")


@pytest.fixture
def same(far: Any, organism: Any, table: dict[str, Any], mode: str) -> Callable[..., Any]:
    """Run a thing here and on the server: `same(name, run, flatten)` compares and notes what it cost.

    `run(model, remote)` gives a result, `flatten(result)` its tensors and other parts; tensors may differ by `within`
    and everything else must be equal.
    """
    import time

    import torch

    from refusal_plugin.remote.backend import metered

    def compare(
        name: str,
        run: Callable[[Any, bool], Any],
        flatten: Callable[[Any], list[Any]],
        requests: int = 1,
        within: float = 1e-6,
    ) -> Any:
        started = time.perf_counter()
        here = flatten(run(organism, False))
        seconds = time.perf_counter() - started
        with metered() as meter:
            result = run(far, True)
        there = flatten(result)
        assert len(here) == len(there)
        worst = 0.0
        for a, b in zip(here, there, strict=True):
            if isinstance(a, torch.Tensor):
                assert a.shape == b.shape
                both = torch.isnan(a.double()) & torch.isnan(b.double())
                if a.numel():
                    worst = max(worst, float((a.double() - b.double()).abs().masked_fill(both, 0.0).max()))
            else:
                assert a == b
        record = table.setdefault(name, {})
        record["local"] = {
            "difference": 0.0,
            "requests": 0,
            "bytes_up": 0,
            "bytes_down": 0,
            "seconds": round(seconds, 2),
        }
        record[mode] = {
            "difference": worst,
            "requests": meter.requests,
            "bytes_up": meter.bytes_up,
            "bytes_down": meter.bytes_down,
            "seconds": round(meter.seconds, 2),
        }
        assert worst <= within
        assert meter.requests == requests
        return result

    return compare


@contextlib.contextmanager
def ended(process: Any) -> Iterator[Any]:
    """A process that is ended with the block."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
