"""`refusal-plugin remote status|compare|whoami` and `refusal-plugin jobs`."""

import time
from typing import Annotated, Any

import typer

remote_app = typer.Typer(help="NDIF: what is up, do versions match, whose key is it.", no_args_is_help=True)
jobs_app = typer.Typer(help="Jobs sent to NDIF; they outlive this program.", invoke_without_command=True)


@remote_app.command("status")
def show_status(
    model: Annotated[str | None, typer.Argument(help="Only this model: exit code 1 if it is not running.")] = None,
) -> None:
    """Which models are up, and with which attention implementation.

    [dim]refusal-plugin remote status[/dim]
    """
    from ..remote.server import status

    rows = [one for one in status() if model is None or one.model == model]
    _table(
        ("model", "task", "revision", "level", "state", "attention", "weights"),
        [
            (r.model, r.task, r.revision, r.level, r.state, r.attention, f"{r.parameters:,}" if r.parameters else "-")
            for r in rows
        ],
    )
    if not rows:
        typer.echo("no model is up" if model is None else f"{model} is not up; a first request may start it")
    if model is not None and not any(r.state == "RUNNING" for r in rows):
        raise typer.Exit(1)


@remote_app.command("compare")
def show_versions(
    every: Annotated[bool, typer.Option("--all", help="Also packages that do not matter.")] = False,
) -> None:
    """Versions here and on the server; exit code 1 if nnsight, transformers or torch differ.

    [dim]refusal-plugin remote compare[/dim]
    """
    from ..remote.server import CRITICAL, compare

    found = compare()
    shown = found.differing if every else {n: found.packages[n] for n in CRITICAL if n in found.packages}
    rows = [("python", *found.python, "" if found.python[0] == found.python[1] else "differs")]
    rows += [
        (name, here, there, "DIFFERS" if name in found.critical else "" if here == there else "differs, harmless")
        for name, (here, there) in shown.items()
    ]
    _table(("package", "here", "server", ""), rows)
    if found.critical:
        typer.echo(
            f"install the server's versions here: {', '.join(f'{n}=={t}' for n, (_, t) in found.critical.items())}"
        )
        raise typer.Exit(1)


@remote_app.command("whoami")
def show_identity() -> None:
    """Whose key is in use, and whether it is trusted (the key itself is never shown).

    [dim]refusal-plugin remote whoami[/dim]
    """
    from ..remote.errors import api_key
    from ..remote.options import current
    from ..remote.server import whoami
    from ..remote.transport import host

    found = whoami()
    tags = [str(tag) for tag in found.get("tags") or []]
    typer.echo(f"server: {host(current())}")
    typer.echo(f"key: {'set' if api_key() else 'none'}")
    typer.echo(f"owner: {found.get('email') or 'not known to the server'}")
    typer.echo(f"tags: {', '.join(tags) or 'none'} ({'beside the weights' if 'trusted' in tags else 'sandboxed'})")


@jobs_app.callback()
def list_jobs(ctx: typer.Context) -> None:
    """List jobs, newest first.

    [dim]refusal-plugin jobs[/dim]
    """
    from ..remote import journal

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
            for one in journal.jobs()
        ]
        _table(("id", "run", "model", "status", "sent", "bytes up", "bytes down"), rows)
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
    from ..remote import journal

    job = journal.job(identity)
    if job.how:
        again(dict(job.how), detach=detach)
        return
    from ..remote.backend import attach

    for name, value in attach(identity).items():
        typer.echo(f"{name}: {_shape(value)}")
    typer.echo(f"kept in {journal.folder()}")


@jobs_app.command("drop")
def drop(identity: Annotated[str, typer.Argument(metavar="ID", help="Of a job, or its beginning.")]) -> None:
    """Forget a job and its result on this machine.

    [dim]refusal-plugin jobs drop 3f2a[/dim]
    """
    from ..remote import journal

    job = journal.job(identity)
    journal.drop(job)
    typer.echo(f"{job.id} is forgotten")


def run_recipe(module: Any, how: dict[str, Any], model: Any, prompts: Any, *, detach: bool) -> Any:
    """Run a recipe remotely under a name, so that it continues where it stopped.

    Args:
        module: the recipe.
        how: arguments of the command ("recipe", "model", "prompts").
        model, prompts: loaded.
        detach: leave after sending.

    Raises:
        typer.Exit: after sending, if `detach`.
    """
    from ..inference.cost import estimate
    from ..recipe_files import run_remotely
    from ..remote.errors import Detached
    from ..remote.options import settings

    typer.echo(f"all prompts, read once: {estimate(model, prompts)}", err=True)
    try:
        with settings(detach=detach):
            return run_remotely(module, model, prompts, how=how)
    except Detached as left:
        typer.echo(str(left))
        raise typer.Exit from None


def again(how: dict[str, Any], *, detach: bool) -> None:
    """Run the command that a job belongs to once more."""
    from pathlib import Path

    from . import run_recipe as command

    prompts = how.get("prompts")
    command(how["recipe"], how["model"], None if prompts is None else Path(prompts), remote=True, detach=detach)


def _table(names: tuple[str, ...], rows: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    if rows:
        table = Table(*names, box=None, header_style="bold")
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        Console().print(table)


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
