"""The way of a session to the server and back: check, pack, send, ask until it is done, unpack.

Jobs are sent without a websocket and asked for by id, so that a lost connection, a restarted server or an ended process
loses nothing: the id is on disk before the waiting begins. Results are read without running code from them
(`weights_only`), then kept as safetensors.
"""

import io
import time
import weakref
from typing import Any

import torch
from nnsight.intervention.backends.remote import RemoteBackend  # type: ignore[import-untyped]
from nnsight.intervention.serialization import dumps, reduce_block  # type: ignore[import-untyped]
from nnsight.schema.request import RequestModel  # type: ignore[import-untyped]

from . import jobs
from .errors import Detached, RemoteError, last_line, translate
from .fingerprint import request_hash
from .meter import Meter, note
from .meter import metered as metered
from .options import Settings, current, current_task
from .portable import without_stops
from .preflight import check
from .transport import exchange, headers, host

_NOT_RUN = ("payload could not be read", "timed out waiting for the runner socket")
"""What a server says of a request that it did not begin: unreadable, or its sandbox did not come up in time."""
_FIRST_LOOK, _LONGEST_LOOK = 0.1, 2.0


class Envelope(RequestModel):  # type: ignore[misc]
    """NDIF's routing record with the wish to be trusted or not."""

    trusted: bool | None = None

    def metadata(self) -> str:
        return str(self.model_dump_json(exclude_none=True))


class Remote(RemoteBackend):  # type: ignore[misc]
    """Run one session on NDIF. Made by `model.session(remote=True)` of a loaded model."""

    def __init__(self, model: Any, remote: bool | str, verbose: bool = False) -> None:
        self._model = weakref.ref(model)
        self._settings: Settings = current()
        self._name = _name(model)
        where = remote if isinstance(remote, str) else host(self._settings)
        super().__init__(_model_key(model, self._name), host=where, verbose=verbose)
        self.display.enabled = self.verbose

    def __call__(self, tracer: Any = None) -> Any:
        settings, model = self._settings, self._model()
        file = tracer.info.frame.f_code.co_filename
        asked = f"run {_where(tracer, file)} on {self._name}"
        check(tracer.node, asked, settings, getattr(getattr(model, "_module", None), "config", None))
        tracer.node = without_stops(tracer.node)
        run = current_task()
        index, run_key = (0, "") if run is None else (run.sent, run.key)
        if run is not None:
            run.sent += 1
        block = request_hash(tracer, self.model_key)
        started = time.monotonic()
        job = jobs.find(run_key, index, block) if run_key else None
        name, how = (run.name, dict(run.how)) if run is not None else ("", {})
        meter, result = Meter(), None if job is None else jobs.load(job)
        if job is None or result is None:
            if job is None:
                job = self.send_job(tracer, asked, meter)
                facts = {"name": name, "run": run_key, "how": how, "index": index, "block": block}
                job = jobs.write(job, **facts, bytes_up=meter.bytes_up)
            if settings.detach:
                raise Detached(job.id)
            try:
                result = self._collect(job, asked, file, meter)
            except _Unread:
                jobs.write(job, status="ERROR")
                job = self.send_job(tracer, asked, meter)
                job = jobs.write(job, name=name, run=run_key, how=how, index=index, block=block)
                try:
                    result = self._collect(job, asked, file, meter)
                except _Unread as again:
                    raise again.error from None
        meter.seconds = time.monotonic() - started
        note(meter, job.id)
        self._push(result, tracer)
        return result

    # -- send ----------------------------------------------------------------------------------------------------------
    def send_job(self, tracer: Any, asked: str, meter: Meter) -> jobs.Job:
        """Send a block and note it; the job may still be waiting."""
        try:
            blob = self._serialize(tracer)
        except Exception as error:
            found = f"the block cannot be packed{culprit(tracer)} ({type(error).__name__}: {last_line(str(error))})"
            do = "use only tensors, numbers and plain functions inside the block, under names used for nothing else"
            raise RemoteError(asked, found, do) from error
        limit = self._settings.max_upload
        if len(blob) > limit:
            found = f"the request has {len(blob) / 2**20:.0f} MiB, the limit is {limit / 2**20:.0f} MiB"
            raise RemoteError(asked, found, "send fewer prompts per request: remote.settings(max_tokens=...)")
        envelope = Envelope(
            model_key=self.model_key, compress=self.compress, env=self.env, trusted=self._settings.trusted
        )

        def post(client: Any) -> Any:
            return client.post(
                f"{self.host}/request",
                data={"data": envelope.metadata()},
                files={"blob": ("request", blob, "application/octet-stream")},
                headers=headers(),
            )

        response = exchange(asked, post, self._settings, repeatable=False)
        meter.requests += 1
        meter.bytes_up += len(blob)
        return jobs.Job(str(response.json()["id"]), self.host, self._name)

    # -- receive -------------------------------------------------------------------------------------------------------
    def _collect(self, job: jobs.Job, asked: str, file: str | None, meter: Meter) -> dict[str, Any]:
        """Wait for a job, fetch its result and keep it."""
        url = self._wait(job, asked, file)
        content = self._fetch(job, url, asked)
        meter.bytes_down += len(content)
        result = self._unpack(content, asked, job.id)
        jobs.store(job, result)
        seconds = time.time() - job.created
        jobs.write(job, status="COMPLETED", bytes_down=len(content), seconds=round(seconds, 2))
        return result

    def _wait(self, job: jobs.Job, asked: str, file: str | None) -> str:
        """Ask until the job is done; the address of its result.

        Raises:
            RemoteError: it failed, or nothing was heard of it for too long (it stays on the server under its id).
        """
        settings, address = self._settings, f"{self.host}/response/{job.id}"
        until = time.monotonic() + settings.timeout
        stalled, seen, pause = time.monotonic() + settings.stalled, "", _FIRST_LOOK
        while True:
            left = max(1.0, until - time.monotonic())

            response = exchange(
                asked, lambda c: c.get(address, headers=headers()), settings, repeatable=True, patience=left
            )
            if response.status_code != 404:
                record = response.json()
                status, said = str(record.get("status")), str(record.get("description") or "")
                if status == "COMPLETED":
                    return str(record.get("data") or "")
                if status == "ERROR":
                    jobs.write(job, status="ERROR")
                    unread = any(words in said for words in _NOT_RUN)
                    if unread and "ModuleNotFound" not in said and "has no module" not in said:
                        raise _Unread(translate(asked, said, filename=file, job=job.id))
                    raise translate(asked, said, filename=file, job=job.id)
                if status != seen:
                    seen, stalled = status, time.monotonic() + settings.stalled
                    job = jobs.write(job, status=status)
            now = time.monotonic()
            if now > until or now > stalled:
                last = seen or "no status at all (was the server restarted?)"
                found = f"no result after {settings.timeout if now > until else settings.stalled:.0f} s, last: {last}"
                do = f"refusal-plugin jobs resume {job.id} goes on waiting; refusal-plugin jobs drop ID forgets it"
                raise RemoteError(asked, found, do, job=job.id)
            time.sleep(pause)
            pause = min(1.3 * pause, _LONGEST_LOOK)

    def _fetch(self, job: jobs.Job, url: str, asked: str) -> bytes:
        """Download a result; a download that breaks off is begun again.

        Raises:
            RemoteError: it is larger than the limit, or gone.
        """
        limit = self._settings.max_result

        def get(client: Any) -> Any:
            with client.stream("GET", url) as response:
                size = int(response.headers.get("Content-Length") or 0)
                if response.is_success and size > limit:
                    found = f"the result has {size / 2**20:.0f} MiB, the limit is {limit / 2**20:.0f} MiB"
                    do = "save less inside the block, or raise remote.settings(max_result=...): it waits on the server"
                    raise RemoteError(asked, found, do, job=job.id)
                response.read()
                return response

        response = exchange(asked, get, self._settings, repeatable=True)
        if response.status_code == 404:
            raise RemoteError(asked, "its result is no longer on the server", "run it again", job=job.id)
        content: bytes = response.content
        return content

    def _unpack(self, content: bytes, asked: str, job: str) -> dict[str, Any]:
        if self.compress:
            import zstandard

            content = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content)).read()
        try:
            found: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:
            what = f"its result cannot be read safely ({last_line(str(error))})"
            raise RemoteError(asked, what, "save tensors, numbers, strings, lists, tuples or dicts", job=job) from error
        return found


class _Unread(Exception):
    """The server did not begin the request, so it may be sent again.

    Attributes:
        error: what to raise if it happens again.
    """

    def __init__(self, error: RemoteError) -> None:
        self.error = error
        super().__init__(str(error))


def culprit(tracer: Any) -> str:
    """Which name of the block cannot travel. A name of a comprehension counts as the outer variable of that name."""
    frame = tracer.info.frame
    _source, used_globals, used_locals = reduce_block(tracer.node, frame.f_globals, dict(frame.f_locals))
    for name, value in {**used_globals, **used_locals}.items():
        try:
            dumps(value)
        except Exception:
            return f": '{name}' is a {type(value).__name__}"
    return ""


def _where(tracer: Any, file: str) -> str:
    name = "the cell" if file.startswith("<") or "ipykernel" in file else file.rpartition("/")[2]
    return f"{name} line {tracer.node.lineno}"


def _name(model: Any) -> str:
    return str(getattr(model, "repo_id", None) or type(model._module).__name__)


def _model_key(model: Any, name: str) -> str:
    """NDIF's name of a model.

    Raises:
        RemoteError: it is not a model of the hub, which is where a server looks for it.
    """
    asked = f"run {name!r} on NDIF"
    try:
        from pathlib import Path

        repo = getattr(model, "repo_id", None)
        if not repo or Path(str(repo)).exists():
            raise RemoteError(asked, "a server only knows models of the hub", 'load("owner/name", remote=True)')
        return str(model.to_model_key())
    except RemoteError:
        raise
    except Exception as error:
        found = f"the hub does not know it ({type(error).__name__}: {last_line(str(error))})"
        raise RemoteError(asked, found, "check the spelling and the network") from error


def attach(identity: str, settings: Settings | None = None) -> dict[str, Any]:
    """The result of a job by its id, waiting for it if need be. No model is needed.

    Raises:
        RemoteError: no such job, it failed, or it does not finish in time.
    """
    job = jobs.named(identity)
    kept = jobs.load(job)
    if kept is not None:
        return kept
    backend = Remote.__new__(Remote)
    backend._settings = settings or current()
    backend.host, backend._name, backend.compress = job.host, job.model, True
    meter = Meter()
    try:
        return backend._collect(job, f"fetch job {job.id}", None, meter)
    except _Unread as unread:
        raise unread.error from None
