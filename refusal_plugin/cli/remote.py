"""`refusal-plugin remote status`, `compare` and `whoami`."""

from typing import Annotated

import typer

from .options import table

remote_app = typer.Typer(help="NDIF: what is up, do versions match, whose key is it.", no_args_is_help=True)


@remote_app.command("status")
def show_status(
    model: Annotated[str | None, typer.Argument(help="Only this model: exit code 1 if it is not running.")] = None,
) -> None:
    """Which models are up, and with which attention implementation.

    [dim]refusal-plugin remote status[/dim]
    """
    from ..remote.server import status

    rows = [one for one in status() if model is None or one.model == model]
    table(
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
    table(("package", "here", "server", ""), rows)
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
