"""`refusal-plugin jobs`: what was sent to NDIF, and how it goes on."""

import time
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Options, table

jobs_app = typer.Typer(help="Jobs sent to NDIF; they outlive this program.", invoke_without_command=True)


@jobs_app.callback()
def list_jobs(ctx: typer.Context) -> None:
    """List jobs, newest first.

    [dim]refusal-plugin jobs[/dim]
    """
    from ..remote import jobs

    if ctx.invoked_subcommand is None:
        rows = [
            (
                one.id,
                one.name or "-",
                one.model,
                one.status,
                _ago(one.created),
                f"{one.bytes_up:,}",
                f"{one.bytes_down:,}",
            )
            for one in jobs.listed()
        ]
        table(("id", "run", "model", "status", "sent", "bytes up", "bytes down"), rows)
        if not rows:
            typer.echo("no jobs")


@jobs_app.command("resume")
def resume(
    identity: Annotated[str, typer.Argument(metavar="ID", help="Of a job, or its beginning.")],
    detach: Annotated[bool, typer.Option(help="Leave again if another request has to be sent.")] = False,
) -> None:
    """Wait for a job and finish its run: what is done is not sent again.

    [dim]refusal-plugin jobs resume 3f2a[/dim]
    """
    from ..remote import jobs

    job = jobs.named(identity)
    if job.how:
        again(dict(job.how), detach=detach)
        return
    from ..remote.backend import attach

    for name, value in attach(identity).items():
        typer.echo(f"{name}: {_shape(value)}")
    typer.echo(f"kept in {jobs.folder()}")


@jobs_app.command("drop")
def drop(identity: Annotated[str, typer.Argument(metavar="ID", help="Of a job, or its beginning.")]) -> None:
    """Forget a job and its result on this machine.

    [dim]refusal-plugin jobs drop 3f2a[/dim]
    """
    from ..remote import jobs

    job = jobs.named(identity)
    jobs.drop(job)
    typer.echo(f"{job.id} is forgotten")


def again(how: dict[str, Any], *, detach: bool) -> None:
    """Run the command that a job belongs to once more."""
    from .recipes import run as command

    files = {key: None if how.get(key) is None else Path(how[key]) for key in ("prompts", "out")}
    shared = {one.name: one.default for one in fields(Options)}
    command(name=how["recipe"], model=how["model"], **files, remote=True, detach=detach, **shared)


def _ago(created: float) -> str:
    seconds = max(0.0, time.time() - created)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _shape(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"tensor {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {len(value)}" + (f", first {_shape(value[0])}" if value else "")
    return repr(value)
