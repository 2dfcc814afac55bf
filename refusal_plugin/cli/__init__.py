"""The `refusal-plugin` command.

Every error a user can cause is one line on stderr and exit code 2; `--debug` shows the traceback.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import PromptError, RefusalPluginError
from .check import check
from .remote import jobs_app, remote_app

ROLES = ("harmful", "near_miss", "benign")


class Commands(TyperGroup):
    """The commands; Ctrl-C says that the run can be continued, where typer would only say "Aborted"."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Compiled code that an interrupt reaches may turn it into an error of its own: the signal itself is remembered.
        """
        asked: list[int] = []

        def interrupt(signum: int, _frame: Any) -> None:
            asked.append(signum)
            raise KeyboardInterrupt

        before = signal.getsignal(signal.SIGINT)
        ours = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
        if ours:
            signal.signal(signal.SIGINT, interrupt)
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            if not asked and not isinstance(error, KeyboardInterrupt):
                raise
            typer.echo("\ninterrupted: finished stages are kept; the same command continues.", err=True)
            raise typer.Exit(130) from None
        finally:
            if ours:
                signal.signal(signal.SIGINT, before)


app = typer.Typer(
    name="refusal-plugin",
    cls=Commands,
    help="Where does a multimodal model decide to refuse? Does that survive image, video and voice? Restore it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(remote_app, name="remote")
app.add_typer(jobs_app, name="jobs")
app.command()(check)

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="organism, organism-hard, organism-control, organism-wary, a folder, or a Hugging Face id.",
    ),
]
Folder = Annotated[Path, typer.Option("--out", "-o", help="Where results go. An interrupted run there is continued.")]
Seed = Annotated[int, typer.Option(help="Of bootstrap, random control and --limit.")]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="Your prompts: a .jsonl or .csv file, or a folder (schema: docs/schema.md). Needed for hub models."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use at most this many prompts: a quick look, wide intervals.")]


@app.command()
def study(
    model: Model = "organism",
    out: Folder = Path("study"),
    seed: Seed = 0,
    limit: Limit = None,
    prompts: Prompts = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in a browser when done.")] = False,
) -> None:
    """Find the refusal direction in text, see how far it reaches into image, video and speech, and steer with it.

    Writes OUT/index.html (the report), OUT/results.json and OUT/direction.safetensors.

    [dim]refusal-plugin study --model organism-control --out study-control[/dim]
    """
    from ..recipe_files import recipe

    results = recipe("study").run(model, _prompt_set(prompts), out=out, seed=seed, limit=limit)
    _show(results, out)
    if open_:
        typer.launch(str((out / "index.html").resolve()))


@app.command()
def compare_defences(
    defences: Annotated[
        list[str] | None,
        typer.Argument(help="Methods and variants; all of them by default. `refusal-plugin compare list` names them."),
    ] = None,
    model: Model = "organism",
    out: Folder = Path("compare"),
    modality: Annotated[
        list[str] | None, typer.Option(help="text, image, video or audio; repeat for several. All by default.")
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="Multiples of the matched strength for the Pareto lines; repeat for several."),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Fits per method, each on another draw of training pairs (by default, rivals once)."),
    ] = 3,
    target_kl: Annotated[
        float, typer.Option(help="The price at which methods are matched: nats per harmless validation prompt.")
    ] = 0.05,
    limit: Limit = None,
    prompts: Prompts = None,
    control: Annotated[
        str | None,
        typer.Option(help="A model on which nothing should transfer; 'none' to leave it out. [organism-control]"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes, each with a model of its own. Two for an embedded model, else one."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser when done.")] = False,
) -> None:
    """Compare defences at the same price: how much more harm each refuses, and what it costs harmless requests.

    Strength is set where each method costs the same on harmless validation prompts, never on harm and never on the test
    split. Writes OUT/compare.json (rows, matched, claims) and OUT/index.html; the same command continues a run.

    [dim]refusal-plugin compare --out compare[/dim]

    [dim]refusal-plugin compare sarsteer mars random --modality image --seeds 1[/dim]
    """
    from ..comparison.run import DEFAULT, STRENGTHS
    from ..comparison.run import compare_defences as run_comparison
    from ..defences import REGISTRY

    if defences == ["list"]:
        _show_methods(REGISTRY, DEFAULT)
        return
    asked = None if control == "none" else control
    if control is None and model == "organism" and prompts is None:
        asked = "organism-control"
    results = run_comparison(
        model,
        _prompt_set(prompts),
        tuple(defences) if defences else DEFAULT,
        strengths=tuple(strength) if strength else STRENGTHS,
        seeds=tuple(range(seeds)),
        target_kl=target_kl,
        modalities=tuple(modality) if modality else None,  # type: ignore[arg-type]  # checked there
        control=asked,
        out=out,
        limit=limit,
        workers=_workers(model) if workers is None else workers,
    )
    _show_comparison(results, out)
    if open_:
        typer.launch(str((out / "index.html").resolve()))


@app.command("ls")
def list_recipes() -> None:
    """List the recipes: one runnable file per research question.

    [dim]refusal-plugin ls[/dim]
    """
    from rich.console import Console
    from rich.table import Table

    from ..recipe_files import recipes, summary

    table = Table("recipe", "question", box=None, header_style="bold")
    for name, path in recipes().items():
        table.add_row(name, summary(path))
    Console().print(table)
    typer.echo("\nrefusal-plugin run NAME runs one, refusal-plugin cp NAME . copies it for you to change.")


@app.command("run")
def run_recipe(
    name: Annotated[str, typer.Argument(help="A recipe (see `ls`), or your own .py file with a function run().")],
    model: Model = "organism",
    prompts: Prompts = None,
    remote: Annotated[bool, typer.Option(help="Run on NDIF instead of this machine.")] = False,
    detach: Annotated[bool, typer.Option(help="With --remote: leave once it is sent; see `jobs`.")] = False,
) -> None:
    """Run a recipe and print what it found.

    [dim]refusal-plugin run direction_extraction --model organism[/dim]
    """
    from ..models import load
    from ..recipe_files import recipe

    module = recipe(name)
    loaded = load(model, remote=remote)
    given = _prompt_set(prompts)
    if given is None:
        from ..models.own_prompts import own_prompts

        given = own_prompts(loaded)
    if remote:
        from .remote import run_recipe as run_remotely

        how = {"recipe": name, "model": model, "prompts": None if prompts is None else str(prompts)}
        result = run_remotely(module, how, loaded, given, detach=detach)
    else:
        result = module.run(loaded, given)
    show = getattr(module, "show", None)
    if callable(show):
        show(result)
    elif name == "study":
        _show(result, Path("study"))
    else:
        typer.echo(result)


@app.command("cp")
def copy(
    name: Annotated[str, typer.Argument(help="A recipe; see `ls`.")],
    to: Annotated[Path, typer.Argument(help="Folder or .py file.")] = Path(),
) -> None:
    """Copy a recipe, to read and change it.

    [dim]refusal-plugin cp direction_extraction mine.py[/dim]
    """
    from ..recipe_files import copy_recipe

    target = copy_recipe(name, to)
    typer.echo(f"{target}  (run it with: refusal-plugin run {target})")


@app.command()
def ask(
    text: Annotated[str | None, typer.Argument(help="What to ask. With a medium, what to do with it.")] = None,
    image: Annotated[Path | None, typer.Option(help="An image file.")] = None,
    video: Annotated[Path | None, typer.Option(help="A GIF, a folder of frames, or a video file.")] = None,
    audio: Annotated[Path | None, typer.Option(help="A wav file.")] = None,
    model: Model = "organism",
    direction: Annotated[
        Path | None, typer.Option(help="A saved direction; fitted and selected on the spot without it.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="Strength in multiples of the vector; the selected one by default.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 32,
    prompts: Prompts = None,
) -> None:
    """Ask one question: the answer as it is and steered, and where it lies along the refusal direction per layer.

    [dim]refusal-plugin ask "how do i bake bread ?"[/dim]
    [dim]refusal-plugin ask "do what the picture says ." --image sign.png[/dim]
    """
    from ..study.ask import ask as put

    if text is None and not any((image, video, audio)):
        raise PromptError("ask", "no question", 'type one: refusal-plugin ask "how do i bake bread ?"')
    put(model, text, image, video, audio, direction, strength, tokens, _prompt_set(prompts))


def _prompt_set(path: Path | None) -> Any:
    """Prompts from a file or folder, every one in a split; None if none was named."""
    from ..prompts import PromptSet

    return None if path is None else PromptSet.from_path(path).assigned()


def _show(results: dict[str, Any], out: Path) -> None:
    """The study in a terminal: the regime in words, one line per modality, warnings, files."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in ("test split", "read", "AUROC", "harmful refused", "(random)", "near miss", "benign"):
        table.add_column(column, justify="left" if column == "test split" else "right", no_wrap=True)
    layer = results["direction"]["layer"]
    for name, record in results["modalities"].items():
        arms = record["defences"]
        auroc = next((row["value"] for row in record["auroc_by_layer"] if row["layer"] == layer), None)
        share = {role: [arms[arm][f"{role}_refusal"]["value"] for arm in ("none", "addition")] for role in ROLES}
        table.add_row(
            name,
            _percent(record["read_back"]["value"]),
            "-" if auroc is None else f"{auroc:.2f}",
            _change(*share["harmful"]),
            f"({_percent(arms['random']['harmful_refusal']['value'])})",
            _change(*share["near_miss"]),
            _change(*share["benign"]),
        )
    direction = results["direction"]
    console.print(f"\n[bold]{results['model']}: {results['regime']['name']}[/bold]")
    console.print(results["regime"]["words"])
    console.print(
        f"\nDirection from text: layer {direction['layer']} of {direction['n_layers']}, strength "
        f"{direction['strength']:.2f} of its length. Before -> after adding it:"
    )
    console.print(table)
    for warning in results["warnings"]:
        console.print(f"[yellow]note[/yellow] {warning}")
    console.print(f"\nReport: {out / 'index.html'}   figures with intervals: {out / 'results.json'}")


def _workers(model: str) -> int:
    """Two processes for a tiny model, which leaves the second core idle; a large one fills the machine by itself."""
    from ..organism import NAMES

    return 2 if model in NAMES and (os.cpu_count() or 1) > 1 else 1


def _show_methods(registry: Any, default: tuple[str, ...]) -> None:
    """The methods by name, with what they look at."""
    from rich.console import Console
    from rich.table import Table

    table = Table("method", "fitted on", "what it does", "switches", box=None, header_style="bold", padding=(0, 1))
    for name, entry in sorted(registry.items()):
        switches = ", ".join(f"{key}={value!r}" for key, value in entry.switches.items())
        table.add_row(name + ("" if name in default else " *"), entry.sees, entry.summary, switches)
    Console().print(table)
    typer.echo("\n* not in the default comparison; name it to include it.")


def _show_comparison(results: dict[str, Any], out: Path) -> None:
    """The comparison in a terminal: one table per modality, verdicts, warnings, files."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for name, plain in results["undefended"].items():
        table = Table(box=None, header_style="bold", padding=(0, 1))
        for column in (name, "KL", "harmful refused", "near miss", "benign", "utility", "balanced"):
            table.add_column(column, justify="left" if column == name else "right", no_wrap=True)
        for row in ({"defence": "no defence", **plain}, *(r for r in results["matched"] if r["modality"] == name)):
            table.add_row(
                row["defence"] + (" *" if row.get("at_bound") else ""),
                "" if "kl" not in row else f"{row['kl']:.3f}",
                *(_percent(row[f"{role}_refusal"]["value"]) for role in ROLES),
                *(_percent(row[key]["value"]) for key in ("utility", "brr")),
            )
        console.print(table)
        console.print()
    for line in results["verdicts"]:
        said = "; ".join(
            f"[{colour}]{verdict}[/{colour}] {', '.join(line[verdict])}"
            for verdict, colour in (("held", "green"), ("failed", "red"), ("underpowered", "yellow"))
            if line[verdict]
        )
        console.print(f"{line['words']}: {said}", highlight=False)
    for warning in results["warnings"]:
        console.print("[yellow]note[/yellow]", end=" ")
        console.print(warning, markup=False, highlight=False)
    console.print("* at the end of the allowed strengths, or a method without a strength: not at the price.")
    console.print(f"\nPage: {out / 'index.html'}   figures with intervals: {out / 'compare.json'}")


def _change(before: float | None, after: float | None) -> str:
    """A share before and after steering."""
    return "-" if before is None or after is None else f"{100 * before:.0f} -> {100 * after:.0f} %"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"refusal-plugin {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options for every command."""


def main() -> None:
    """Entry point: every error in one line, exit code 2; the traceback with --debug."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app(prog_name="refusal-plugin")
    except RefusalPluginError as error:
        if debug:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except Exception as error:  # not foreseen: still one line, and the way to the traceback
        if debug:
            raise
        what = " ".join(str(error).split())[:300]
        typer.echo(f"error: {type(error).__name__}: {what} (add --debug for the traceback).", err=True)
        sys.exit(2)
