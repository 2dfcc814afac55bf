"""`refusal-plugin assemble DECODER ENCODER`: the spoken model from local folders, for machines without the hub."""

from pathlib import Path
from typing import Annotated

import typer


def assemble(
    decoder: Annotated[Path, typer.Argument(help="Folder of Qwen2.5-Coder-0.5B-Instruct.", exists=True)],
    encoder: Annotated[Path, typer.Argument(help="Folder of Whisper base.", exists=True)],
) -> None:
    """Put the model "spoken" together from local folders; it is kept in the cache, and every command loads it by name.

    [dim]refusal-plugin assemble folders/decoder folders/whisper-base[/dim]
    """
    from ..models.spoken import assembled_folder

    typer.echo(f'{assembled_folder(decoder, encoder)}: load it as "spoken"')
