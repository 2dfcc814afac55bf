"""`refusal-plugin check MODEL`: what works on a model, and what to install or do where it does not."""

import json
from dataclasses import asdict
from typing import Annotated

import typer


def check(
    model: Annotated[str, typer.Argument(help="organism, a checkpoint folder, or a Hugging Face id.")],
    dtype: Annotated[str | None, typer.Option(help="Of the weights, float32 or bfloat16 for example.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 and so on.")] = None,
    device_map: Annotated[str | None, typer.Option(help='"auto" spreads the layers over all devices.')] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code found in the repository.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Load a model, try what a study needs of it, and say in one table what works and what to install.

    [dim]refusal-plugin check Qwen/Qwen2.5-VL-3B-Instruct[/dim]
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..models.check import check_model

    rows = check_model(
        model,
        dtype=dtype,
        device=device,
        device_map=device_map,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        table = Table(box=None, pad_edge=False)
        for name in ("", "works", "found", "what to do"):
            table.add_column(name, overflow="fold")
        for row in rows:
            works = Text("yes", "green") if row.works else Text("no", "red")
            table.add_row(row.what, works, Text(row.found), Text(row.do))
        Console().print(table)
    if not rows[0].works:
        raise typer.Exit(2)
