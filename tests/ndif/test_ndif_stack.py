"""The server on loopback stops what it started: after use, on Ctrl-C, on SIGTERM, and where a part does not come up.

Redis is the real one; what stands in for the rest of the server sleeps, or ends at once.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stack import Stack

pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not installed: nothing to start and stop"
)
COMMAND = Path(__file__).resolve().parent / "stack.py"


def fields(pid: int) -> list[str]:
    """State, parent, group, session ... of a process; a dead one is in state Z."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["Z", "0", "0", "0"]


def children(parent: int) -> dict[int, str]:
    """{id: command line} of the living children of a process."""
    found = {}
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        state, above, *_ = fields(pid)
        if state != "Z" and int(above) == parent:
            with contextlib.suppress(OSError):  # it has just ended
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def environment(folder: Path, python: str) -> Path:
    """A server's environment whose programs sleep, and whose Python does what it is told in shell."""
    (folder / "bin").mkdir(parents=True)
    for name, line in (("ray", "exec sleep 600"), ("moto_server", "exec sleep 600"), ("python", python)):
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / "bin" / name).chmod(0o755)
    return folder


def test_a_part_that_hides_its_environment_is_stopped_with_the_others(tmp_path: Path) -> None:
    stack = Stack(tmp_path, {})
    try:
        stack.redis()
        stack.listening("redis")
        redis, asleep = stack.parts["redis"], stack.run("asleep", "sleep", "600")
        assert {redis.pid, asleep.pid} <= set(stack.processes())
    finally:
        stack.stop()
    assert redis.poll() is not None and asleep.poll() is not None
    with socket.socket() as one:
        assert one.connect_ex(("127.0.0.1", stack.ports["redis"])) != 0
    assert not stack.folder.exists()


def test_a_strangers_process_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    stack = Stack(tmp_path, {})
    try:
        stack.run("asleep", "sleep", "600")
        stack.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("python", "sign", "code"), [
    ("exec sleep 600", signal.SIGINT, 130),
    ("exec sleep 600", signal.SIGTERM, 143),
    ("exit 3", None, 1),
])  # fmt: skip
def test_the_command_leaves_nothing_running(tmp_path: Path, python: str, sign: int | None, code: int) -> None:
    env = environment(tmp_path / "env", python)
    words = [sys.executable, str(COMMAND), "--env", str(env), "--", "true"]
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}, start_new_session=True
    )
    seen: dict[int, str] = {}
    sent, until = False, time.monotonic() + 300
    while process.poll() is None and time.monotonic() < until:
        seen |= children(process.pid)
        if sign and not sent and "redis-server" in str(seen) and len(seen) >= 4:  # redis, S3, hub, Ray
            process.send_signal(sign)
            sent = True
        time.sleep(0.02)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert sign or "no server: Ray's node starts" in error, error
    assert "redis-server" in str(seen), seen
    assert [pid for pid in seen if fields(pid)[0] != "Z"] == []
    assert not list(tmp_path.glob("ndif-*")), "the folder of the models is removed"
