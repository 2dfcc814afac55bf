"""The `refusal-plugin` command.

Every error a user can cause is one line on stderr; `--debug` shows the traceback. Exit codes: 0 done; 1 a check failed
(`remote status MODEL`, `remote compare`); 2 an error; 130 and 143 interrupted, by Ctrl-C or by a scheduler's SIGTERM.
"""

import signal
import sys
import threading
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import RefusalPluginError
from .ask import ask
from .assemble import assemble
from .check import check
from .compare import compare
from .datasets import list_datasets
from .jobs import jobs_app
from .recipes import copy, list_recipes, run
from .remote import remote_app
from .reproduce import reproduce
from .study import study


class Commands(TyperGroup):
    """The commands; Ctrl-C and SIGTERM say that the run can be continued, where typer would only say "Aborted"."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Compiled code that an interrupt reaches may turn it into an error of its own: the signal itself is remembered.
        """
        asked: list[int] = []

        def interrupt(signum: int, _frame: Any) -> None:
            asked.append(signum)
            raise KeyboardInterrupt

        usual: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        here = threading.current_thread() is threading.main_thread()
        ours = [one for one, handler in usual.items() if here and signal.getsignal(one) is handler]
        for one in ours:
            signal.signal(one, interrupt)
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            if not asked and not isinstance(error, KeyboardInterrupt):
                raise
            typer.echo("\ninterrupted: finished stages are kept; the same command continues.", err=True)
            raise typer.Exit(128 + (asked[0] if asked else signal.SIGINT)) from None
        finally:
            for one in ours:
                signal.signal(one, usual[one])


app = typer.Typer(
    name="refusal-plugin",
    cls=Commands,
    help="Where does a multimodal model decide to refuse? Does that survive image, video and voice? Restore it.",
    no_args_is_help=True,
    epilog="Exit codes: 0 done, 1 a check failed, 2 an error (one line on stderr), 130/143 interrupted, go on.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(remote_app, name="remote")
app.add_typer(jobs_app, name="jobs")
COMMANDS: dict[str, Callable[..., None]] = {
    "check": check,
    "study": study,
    "compare": compare,
    "ask": ask,
    "datasets": list_datasets,
    "reproduce": reproduce,
    "ls": list_recipes,
    "run": run,
    "cp": copy,
    "assemble": assemble,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


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
