"""A real NDIF on loopback: Redis, an S3 stand-in, a hub stand-in, Ray, NDIF's controller and API. No Docker, no GPU.

    python tests/ndif/stack.py --env build/ndif-env -- COMMAND ...      run a command against it
    python tests/ndif/stack.py --env build/ndif-env                      until Ctrl-C; prints a client's variables

The server runs in an environment of its own, WITHOUT this package (`make ndif-env`). Every part is started in a session
of its own, and every process carries a variable with a random value: exactly those sessions and the processes with that
value are stopped, when the command has ended, on Ctrl-C, on SIGTERM and where a part does not come up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SERVER = Path(__file__).resolve().parent / "server"
MARK = "NDIF_TEST_STACK"
NODE = "/raylet/raylet"  # in the command line of Ray's node
RAY_ATTEMPTS = 6
PATIENCE = 900.0  # seconds for one part to come up: a few on an idle machine, minutes on a crowded one
TRUSTED_KEY = "11111111-1111-4111-8111-111111111111"
PLAIN_KEY = "22222222-2222-4222-8222-222222222222"  # no tag: sandboxed, as a public key is


class StackError(RuntimeError):
    """The server did not come up; says which part and shows its log."""


class Missing(StackError):
    """What the server is made of is not installed here."""


def free_ports(n: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass
class Stack:
    """The server and what a client has to know about it.

    Attributes:
        env: folder of the server's virtual environment.
        models: repo id to checkpoint folder.
        folder: logs and scratch files; a temporary folder by default.
        execution_timeout: seconds a request may run.
    """

    env: Path
    models: Mapping[str, Path]
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ndif-", dir="/tmp")))
    execution_timeout: float = 900.0
    hub_port: int = 0
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    parts: dict[str, subprocess.Popen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = (
            "redis",
            "s3",
            "api",
            "gcs",
            "client",
            "dashboard",
            "object",
            "node",
            "agent",
            "grpc",
            "env",
            "metrics",
        )
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.ports["hub"] = self.hub_port or free_ports(1)[0]
        self.host = f"http://127.0.0.1:{self.ports['api']}"
        self.hub = f"http://127.0.0.1:{self.ports['hub']}"

    # -- what a client sets ------------------------------------------------------------------------------------------
    def client(self, key: str = TRUSTED_KEY) -> dict[str, str]:
        """Variables for a client process."""
        return {
            "NDIF_HOST": self.host,
            "NDIF_API_KEY": key,
            "HF_ENDPOINT": self.hub,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(self.folder / "client-cache"),
        }

    # -- start and stop ----------------------------------------------------------------------------------------------
    def start(self) -> Stack:
        """Bring everything up; whatever was started is stopped again if a part fails.

        Raises:
            StackError: a program or the environment is missing, or a part does not come up (says which, with its log).
        """
        try:
            if shutil.which("redis-server") is None:
                raise Missing("redis-server is not installed (Debian and Ubuntu: apt-get install redis-server)")
            if not (self.env / "bin" / "ray").exists():
                raise Missing(f"no server environment in {self.env} (make ndif-env)")
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        (self.folder / "home").mkdir(parents=True, exist_ok=True)
        p = self.ports
        self.redis()
        self.run("s3", self.env / "bin/moto_server", "-H", "127.0.0.1", "-p", p["s3"])
        repos = [f"{repo}={folder}" for repo, folder in self.models.items()]
        self.run("hub", self.env / "bin/python", SERVER / "hub.py", p["hub"], *repos)
        self.ray()
        for name in ("redis", "s3", "hub", "gcs", "client", "dashboard"):
            self.listening(name)
        self.controller()
        self.api()

    def redis(self) -> None:
        """Start the queue of requests; nothing of it is kept on disk."""
        options = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        self.run("redis", "redis-server", "--port", self.ports["redis"], *options)

    def ray(self) -> None:
        """Start Ray; where its node gives up on its own agent (a fixed half minute, on a crowded machine), again."""
        p = self.ports
        resources = {"head": 10, "cuda_memory_bytes": 4 * 10**9, "cpu_memory_bytes": 4 * 10**9}
        command = (
            *(self.env / "bin/python", SERVER / "ray_head.py", "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", "--num-gpus=1", "--num-cpus=8", f"--resources={json.dumps(resources)}"),
            *(f"--port={p['gcs']}", f"--ray-client-server-port={p['client']}", f"--object-manager-port={p['object']}"),
            *(f"--node-manager-port={p['node']}", f"--dashboard-port={p['dashboard']}", "--dashboard-host=127.0.0.1"),
            *(f"--dashboard-agent-listen-port={p['agent']}", f"--dashboard-agent-grpc-port={p['grpc']}"),
            *(f"--runtime-env-agent-port={p['env']}", f"--metrics-export-port={p['metrics']}"),
            *("--include-dashboard=true", f"--temp-dir={self.folder / 'r'}", "--object-store-memory=200000000"),
            "--include-log-monitor=false",
        )
        for _attempt in range(RAY_ATTEMPTS):
            self.run("ray", *command)
            self.wait("Ray's node starts", lambda: self.processes(NODE), PATIENCE, "ray")
            self.wait("Ray's agent listens", lambda: self.agent() or not self.processes(NODE), PATIENCE, "ray")
            if self.processes(NODE):
                return
            self.end("ray")
            shutil.rmtree(self.folder / "r", ignore_errors=True)
        raise StackError(f"Ray's node ended {RAY_ATTEMPTS} times: its agent was too slow for its half minute")

    def agent(self) -> bool:
        """Whether the node's agent has told its port, the last thing that the node waits for."""
        return any((self.folder / "r").glob("session_2*/dashboard_agent_listen_port_*"))

    def controller(self) -> None:
        """Place NDIF's controller on Ray; the launcher ends when it is placed."""
        env = {"RAY_ADDRESS": f"127.0.0.1:{self.ports['gcs']}"}
        command = (self.env / "bin/python", "-m", "ndif.services.ray.deployments.controller.controller")
        for _attempt in range(5):  # on a crowded machine Ray is given up on too early
            if self.run("controller", *command, env=env).wait(PATIENCE) == 0:
                self.parts.pop("controller")
                return
        raise StackError(f"the controller did not start:\n{self.log('controller')}")

    def api(self) -> None:
        """Start the API and its dispatcher, and wait until they are connected to Ray."""
        gunicorn = self.env / "bin/gunicorn"
        bind = ("--bind", f"127.0.0.1:{self.ports['api']}")
        self.run("api", gunicorn, "--config", "python:ndif.services.api.gunicorn_conf", *bind, "api:app")
        self.wait("the API is connected", lambda: self.get("/connected") is not None, PATIENCE, "api")

    def stop(self) -> None:
        """End every process that was started, politely first; nothing happens where none is left."""
        for sign, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            left = self.processes()
            for pid in left:
                _kill(pid, sign)
            until = time.monotonic() + patience
            while left and time.monotonic() < until:
                for part in self.parts.values():
                    part.poll()  # collects those that have ended
                left = self.processes()
                time.sleep(0.1)
        self.parts.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def end(self, name: str, sign: int = signal.SIGTERM) -> None:
        """End one part and its descendants (for tests of faults)."""
        root = self.parts[name]
        for pid in [root.pid, *self.descendants(root.pid)]:
            _kill(pid, sign)
        root.wait(30)
        self.parts.pop(name)

    # -- processes ---------------------------------------------------------------------------------------------------
    def processes(self, holding: str = "") -> list[int]:
        """Ids of the living processes that this stack started, those whose command line holds a text.

        The mark alone does not find them all: a process that sets its title, as redis-server does, writes over its
        environment. A part that has not been waited for keeps its id, so no stranger can have a session of that number.
        """
        found = []
        needle = f"{MARK}={self.mark}".encode()
        sessions = {part.pid for part in self.parts.values() if part.poll() is None}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    state, _parent, _group, session, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                    ours = int(session) in sessions or needle in (entry / "environ").read_bytes().split(b"\0")
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                except OSError:
                    continue
                if ours and state != "Z" and holding in command:
                    found.append(int(entry.name))
        return found

    def descendants(self, root: int) -> list[int]:
        """Living processes below one, of those this stack started."""
        parents = {}
        for pid in self.processes():
            try:
                parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        found, fresh = [], [root]
        while fresh:
            fresh = [pid for pid, parent in parents.items() if parent in fresh and pid not in found]
            found += fresh
        return found

    def environment(self) -> dict[str, str]:
        """Variables of every server process: nothing of the client's package, hub cache or Python path gets in."""
        p = self.ports
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
        return {
            **kept,
            MARK: self.mark,
            "PATH": f"{self.env / 'bin'}:{kept.get('PATH', '')}",
            "HOME": str(self.folder / "home"),
            "PYTHONPATH": str(SERVER),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HOME": str(self.folder / "server-cache"),
            "HF_ENDPOINT": self.hub,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "MOTO_ALLOW_NONEXISTENT_REGION": "true",
            "GRPC_ENABLE_FORK_SUPPORT": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise loopback becomes the outward address
            "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "900",
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "900",
            "RAY_gcs_rpc_server_connect_timeout_s": "120",
            "RAY_gcs_server_request_timeout_seconds": "120",
            "RAY_worker_niceness": "0",  # 15 by default: a busy machine would never come to them
            "RAY_raylet_start_wait_time_s": "900",
            "RAY_agent_register_timeout_ms": "900000",
            "RAY_worker_register_timeout_seconds": "900",
            "NDIF_REDIS_URL": f"redis://127.0.0.1:{p['redis']}",
            "NDIF_OBJECT_STORE_URL": f"http://127.0.0.1:{p['s3']}",
            "NDIF_RAY_ADDRESS": f"ray://127.0.0.1:{p['client']}",
            "NDIF_API_PORT": str(p["api"]),
            "NDIF_MODEL_IMPORT_PATH": "cpu_actor.CpuActor",
            "NDIF_DEFAULT_DTYPE": "float32",
            "NDIF_DEFAULT_EXECUTION_TIMEOUT_SECONDS": str(self.execution_timeout),
            "NDIF_DEFAULT_PADDING_BIAS": "0",
            "NDIF_SANDBOX_POOL_SIZE": "1",
            "NDIF_STATUS_TTL_S": "3",
            "NDIF_MINIMUM_DEPLOYMENT_TIME_SECONDS": "0",
            "NDIF_AUTOSCALING_MAX_REPLICAS": "1",
            "NDIF_TEST_KEYS": f"{TRUSTED_KEY}=trusted {PLAIN_KEY}=",
        }

    def run(self, name: str, *command: object, env: Mapping[str, str] | None = None) -> subprocess.Popen:
        """Start one part, its output in a file."""
        with (self.folder / f"{name}.log").open("ab") as log:
            part = subprocess.Popen(
                [str(word) for word in command],
                env={**self.environment(), **(env or {})},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.parts[name] = part
        return part

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-3000:] if path.is_file() else ""

    def get(self, path: str) -> bytes | None:
        """Body of a route of the API, None if it does not answer 200."""
        try:
            with urllib.request.urlopen(self.host + path, timeout=20) as response:
                return response.read()
        except (urllib.error.URLError, OSError):
            return None

    def listening(self, name: str) -> None:
        def connects() -> bool:
            with socket.socket() as one:
                one.settimeout(1)
                return one.connect_ex(("127.0.0.1", self.ports[name])) == 0

        part = name if name in self.parts else "ray"
        self.wait(f"{name} listens", connects, PATIENCE, part)

    def wait(self, what: str, true: object, seconds: float, part: str) -> None:
        until = time.monotonic() + seconds
        while not true():  # type: ignore[operator]
            ended = self.parts[part].poll() if part in self.parts else None
            if ended is not None or time.monotonic() > until:
                why = f"it ended with {ended}" if ended is not None else f"not within {seconds:.0f} s"
                raise StackError(f"{what}: {why}\n{self.log(part)}")
            time.sleep(0.2)


def _kill(pid: int, sign: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sign)


def default_models(folder: Path) -> dict[str, Path]:
    """The embedded model and a tiny text model, as repositories of the stand-in hub."""
    from refusal_plugin.organism import checkpoint_path
    from tests.support.tiny import tiny_model

    tiny = folder / "tiny"
    if not tiny.is_dir():
        module, tokenizer = tiny_model("qwen2")
        module.save_pretrained(tiny)
        tokenizer.save_pretrained(tiny)
    return {"refusal-plugin/organism": Path(checkpoint_path("organism")), "refusal-plugin/tiny": tiny}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", type=Path, default=Path("build/ndif-env"))
    parser.add_argument("--key", choices=("trusted", "plain"), default="trusted")
    parser.add_argument("command", nargs="*")
    given = parser.parse_args()
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for sign in ending[1:]:  # an exception as Ctrl-C is, so that what was started is stopped then, too
        signal.signal(sign, lambda number, _: sys.exit(128 + number))
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    with tempfile.TemporaryDirectory(prefix="ndif-models-") as folder:
        stack = Stack(given.env.resolve(), default_models(Path(folder)))
        try:
            stack.start()
            variables = stack.client(TRUSTED_KEY if given.key == "trusted" else PLAIN_KEY)
            if given.command:
                return subprocess.call(given.command, env={**os.environ, **variables})
            print("\n".join(f"export {name}={value}" for name, value in variables.items()), flush=True)
            signal.pause()
        except StackError as error:
            print(f"no server: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        finally:
            for sign in ending:  # a second Ctrl-C must not leave half of it running
                signal.signal(sign, signal.SIG_IGN)
            stack.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
