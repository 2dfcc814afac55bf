"""What commands share: their options, prompts from files, tables as wide as the page, results as JSON."""

import inspect
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ..errors import DataError, ModelError
from ..organism import require_spelled
from ..progress import Voice, speak

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="organism, organism-hard, organism-control, organism-wary, a folder, or a Hugging Face id.",
    ),
]
Folder = Annotated[Path, typer.Option("--out", "-o", help="Where results go. An interrupted run there is continued.")]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="Your prompts: a .jsonl or .csv file, or a folder (schema: docs/schema.md). Needed for hub models."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="Public data sets by name, jbb+xstest; NAME:PART one part, NAME=PATH a local copy. See `datasets`."
    ),
]
Judges = Annotated[
    str | None,
    typer.Option(
        help="FORMAT=MODEL, a judge of docs/judges.md: qwen3guard=Qwen/Qwen3Guard-Gen-0.6B, or xstest=MODEL@http://HOST/v1."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use at most this many prompts: a quick look, wide intervals.")]
Open = Annotated[bool, typer.Option("--open", help="Open the page in a browser when done.")]

MODEL, OUTPUT = "The model", "What is shown"


@dataclass(frozen=True)
class Options:
    """Options of every command that runs a model; `with_options` puts them into its signature."""

    dtype: Annotated[
        str | None, typer.Option(help="Of the weights: float32, bfloat16, auto …", rich_help_panel=MODEL)
    ] = None
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …", rich_help_panel=MODEL)] = None
    device_map: Annotated[
        str | None, typer.Option(help="Spread the layers over several devices: auto, balanced.", rich_help_panel=MODEL)
    ] = None
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.", rich_help_panel=MODEL)] = (
        None
    )
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code found in the repository.", rich_help_panel=MODEL)
    ] = False
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Most tokens of one batch, padding included.", rich_help_panel=MODEL)
    ] = 8192
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", "--tokens", min=1, help="Longest answer.", rich_help_panel=MODEL),
    ] = None
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no tables: files and errors.", rich_help_panel=OUTPUT)
    ] = False
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Lines with the time, as in a log, instead of bars.", rich_help_panel=OUTPUT
        ),
    ] = False
    json: Annotated[
        bool, typer.Option("--json", help="The result as JSON on stdout, and nothing else.", rich_help_panel=OUTPUT)
    ] = False

    def answer(self, usual: int) -> int:
        """Longest answer, the usual one by default."""
        return usual if self.max_new_tokens is None else self.max_new_tokens

    def load(self, name: str, *, remote: bool = False) -> Any:
        """The model under these options.

        Raises:
            ModelError: there is none of that name.
        """
        from ..models import load

        given = {"dtype": self.dtype, "device": self.device, "device_map": self.device_map, "revision": self.revision}
        chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        return load(name, remote=remote, trust_remote_code=self.trust_remote_code, **chosen)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose last parameter `options` becomes the options themselves."""
    own = list(inspect.signature(command).parameters.values())[:-1]
    hints = get_type_hints(Options, include_extras=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(Options)
    ]

    @wraps(command)
    def run(**given: Any) -> None:
        options = Options(**{one.name: given.pop(one.name) for one in shared})
        if "model" in given:
            require_spelled(given["model"])
        lines: Voice = "bars" if sys.stderr.isatty() and not options.verbose else "lines"
        speak("quiet" if options.quiet else lines)
        try:
            command(**given, options=options)
        finally:
            speak("bars")

    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    run.__signature__ = inspect.Signature([*keyword, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {
        **{key: hint for key, hint in get_type_hints(command, include_extras=True).items() if key != "options"},
        **{one.name: one.annotation for one in shared},
    }
    return run


def prompt_set(path: Path | None, data: str | None = None) -> Any:
    """Prompts from a file or folder and from public sets, every one in a split; None if none was named."""
    from ..prompts import PromptSet

    found = PromptSet() if path is None else PromptSet.from_path(path)
    if data is not None:
        from ..datasets import load_sets

        found = found + load_sets(data)
    return None if path is None and data is None else found.assigned()


def judge_of(spec: str | None) -> Any:
    """A judge from "FORMAT=MODEL", or "FORMAT=MODEL@URL" for a served one; None if none was named.

    Raises:
        ModelError: no such format, no model, or it cannot be loaded.
    """
    if spec is None:
        return None
    from ..evaluation import FORMATS, EndpointJudge, GenerativeJudge

    name, _, model = spec.partition("=")
    if name not in FORMATS or not model:
        do = f"write FORMAT=MODEL with one of {', '.join(FORMATS)}"
        raise ModelError(f"judge {spec!r}", "no format and model", do)
    served, at, address = model.partition("@http")
    if at:
        return EndpointJudge(f"http{address}", served, FORMATS[name])
    return GenerativeJudge.load(model, name, device_map=None, dtype="auto")


def console() -> Any:
    """Where tables go: as wide as the terminal, and in a file as wide as they are."""
    from rich.console import Console

    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if narrow else 240)


def table(names: tuple[str, ...], rows: list[Any]) -> None:
    """Rows under bold names; nothing where there are none."""
    from rich.table import Table

    if rows:
        shown = Table(*names, box=None, header_style="bold")
        for row in rows:
            shown.add_row(*(str(cell) for cell in row))
        console().print(shown)


def emit(result: Any) -> None:
    """A result as JSON on stdout: mappings, lists, dataclasses, tensors as lists; null for NaN."""
    typer.echo(json.dumps(plain(result), ensure_ascii=False))


def plain(value: Any) -> Any:
    """A result in the words of JSON.

    Raises:
        DataError: it holds something that has none.
    """
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    if value is None or isinstance(value, str | int):
        return value
    found = f"it holds a {type(value).__name__}"
    raise DataError("write the result as JSON", found, "return numbers, words, lists, dicts, tensors or dataclasses")


def percent(share: float | None) -> str:
    """A share as a whole percentage."""
    return "-" if share is None else f"{100 * share:.0f} %"
