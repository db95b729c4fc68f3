"""The command line: one module a command, imported when it is called. Loads nothing heavy."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from learnerd.cli.lazily import lazily, new_typer
from learnerd.errors import LearnerdError
from learnerd.exit_codes import ExitCode

COMMANDS = (
    "demo",
    "setup",
    "run",
    "status",
    "pause",
    "resume",
    "report",
    "replay",
    "evaluate",
    "backtest",
    "config",
    "versions",
    "export",
    "doctor",
    "service",
    "import",
)
"""Each is ``learnerd.cli.<name>`` with a function ``command``, or a ``typer.Typer`` named ``app``."""


app = new_typer(cls=lazily("learnerd.cli", COMMANDS), no_args_is_help=True)


def _show_version(*, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - for this alone

        typer.echo(f"learnerd {version('learnerd')}")
        raise typer.Exit


@app.callback()
def _learnerd(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The configuration; also after the command."),
    ] = None,
    *,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version.")
    ] = False,
) -> None:
    """Learn in the background: episode files go in, better policies come out."""
    ctx.obj = config


def main() -> None:
    """Run the command line and exit with its code.

    An error is one line; with LEARNERD_DEBUG=1 it is a traceback.
    """
    # Ours need no plugins of pydantic; to find that out, it would read every installed package's metadata.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        typer.main.get_command(app)(prog_name="learnerd")
    except Exception as error:
        if os.environ.get("LEARNERD_DEBUG") == "1":
            raise
        print(_one_line(error), file=sys.stderr)  # noqa: T201 - standard error is the place for it
        sys.exit(_exit_code(error))


def _one_line(error: Exception) -> str:
    if isinstance(error, LearnerdError):
        return f"learnerd: {error}"
    text = " ".join(str(error).split())
    return f"learnerd: {type(error).__name__}: {text} (LEARNERD_DEBUG=1 shows where)"


def _exit_code(error: Exception) -> ExitCode:
    if isinstance(error, LearnerdError):
        return error.exit_code
    # Whoever raised it has loaded the module; importing it here would load NumPy for every error.
    policies = sys.modules.get("policies.errors")
    if policies is None:
        return ExitCode.FAILURE
    if isinstance(error, policies.StoreBusy):
        return ExitCode.RETRYABLE
    if isinstance(error, (policies.NewerRelease, policies.LedgerDamaged)):
        return ExitCode.FATAL  # starting again does not help
    return ExitCode.FAILURE
