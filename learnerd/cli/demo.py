"""``learnerd demo``: see it learn CartPole on this machine, with real processes and nothing to set up."""

import importlib.util
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from learnerd.cli.options import check_folder_of, empty_folder
from learnerd.exit_codes import ExitCode

if TYPE_CHECKING:
    from learnerd.demo.supervisor import DemoOutcome, DemoSettings

EXTRAS = ("gymnasium", "matplotlib")
PLOT_NAME = "learnerd-demo.png"
INTERRUPTED = 130  # as a shell reports a command that was ended by Ctrl-C


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not accepted: a finite number is")
    return value


def command(
    *,
    rate: Annotated[
        float, typer.Option(min=1, callback=_finite, help="Steps a second of each client, at most.")
    ] = 2000.0,
    timeout: Annotated[
        float, typer.Option(min=1, callback=_finite, help="Seconds until the demo gives up.")
    ] = 300.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the learner; the clients' follow from it.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the outcome as one last line of JSON.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the scratch folder.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Use this empty folder, and keep it.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help=f"The learning curve, PNG (default: {PLOT_NAME}).")
    ] = None,
) -> None:
    """Watch the daemon learn CartPole from the files of two clients; ends at a mean return of 475.

    Exit code 0 when it got there, 1 when time was up, 130 when it was interrupted.
    """
    _require_extras()
    check_folder_of(plot, "--plot")
    from learnerd.demo.progress import progress_on  # noqa: PLC0415 - not needed for --help
    from learnerd.demo.supervisor import DemoSettings, run_demo  # noqa: PLC0415

    # With --json standard output holds that one line and nothing else.
    stream = sys.stderr if as_json else sys.stdout
    with _scratch(folder, keep=keep) as scratch:
        settings = DemoSettings(folder=scratch.folder, rate=rate, timeout_s=timeout, seed=seed)
        typer.echo(f"the daemon and two CartPole clients run in {scratch.folder}", err=as_json)
        outcome = run_demo(settings, progress_on(stream))
        file = _draw(plot, outcome, settings)
        scratch.keep |= outcome.ending == "timeout" or not outcome.drained or file.parent == scratch.folder
        typer.echo(_summary(outcome, settings, file, kept=scratch.keep), err=as_json)
    if as_json:
        typer.echo(_json(outcome, file))
    raise typer.Exit(_exit_code(outcome))


def _require_extras() -> None:
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        typer.echo(f"learnerd: demo needs {names}; install the extra: pip install 'learnerd[demo]'", err=True)
        raise typer.Exit(ExitCode.USAGE)


@dataclass
class _Scratch:
    folder: Path
    keep: bool


@contextmanager
def _scratch(folder: Path | None, *, keep: bool) -> Iterator[_Scratch]:
    """A folder that is removed at the end, unless it is the user's, or is to be kept, or something failed."""
    if folder is None:
        scratch = _Scratch(Path(tempfile.mkdtemp(prefix="learnerd-demo-")), keep)
    else:
        scratch = _Scratch(empty_folder(folder, "--dir"), keep=True)
    try:
        yield scratch
    except Exception:
        typer.echo(f"the scratch folder is kept: {scratch.folder}", err=True)
        raise
    if not scratch.keep:
        shutil.rmtree(scratch.folder, ignore_errors=True)


def _draw(plot: Path | None, outcome: "DemoOutcome", settings: "DemoSettings") -> Path:
    """Draw where asked; else here, or in the scratch folder when nothing can be written here."""
    from learnerd.demo.plot import write_plot  # noqa: PLC0415 - loads matplotlib

    title = f"CartPole-v1, learned from the files of two clients: {_result(outcome)}"
    places = [plot] if plot is not None else [Path(PLOT_NAME), settings.folder / PLOT_NAME]
    for place in places[:-1]:
        try:
            write_plot(place, outcome.curve, started_at_s=outcome.started_at_s, title=title)
        except OSError:
            continue
        return place.resolve()
    write_plot(places[-1], outcome.curve, started_at_s=outcome.started_at_s, title=title)
    return places[-1].resolve()


def _result(outcome: "DemoOutcome") -> str:
    return {
        "solved": f"solved after {outcome.seconds:.0f} s",
        "timeout": f"not solved within {outcome.seconds:.0f} s",
        "interrupted": f"interrupted after {outcome.seconds:.0f} s",
    }[outcome.ending]


def _summary(outcome: "DemoOutcome", settings: "DemoSettings", file: Path, *, kept: bool) -> str:
    curve = outcome.curve
    mean = "-" if curve.mean_return is None else f"{curve.mean_return:.1f}"
    figures = f"{len(curve.episodes):,} episodes ({curve.steps:,} steps), version {outcome.versions}"
    lines = [
        f"{_result(outcome)}: mean return {mean} over the last 100 of {figures}",
        f"learning curve: {file}",
    ]
    if not outcome.drained:
        lines.append("the daemon did not end after SIGTERM and was killed")
    if kept:
        lines.append(
            f"the scratch folder is kept: {settings.folder} (the daemon's log: {settings.daemon_log})"
        )
    return "\n".join(lines)


def _json(outcome: "DemoOutcome", file: Path) -> str:
    return json.dumps(
        {
            "solved": outcome.ending == "solved",
            "mean_return": outcome.curve.mean_return,
            "episodes": len(outcome.curve.episodes),
            "versions": outcome.versions,
            "seconds": round(outcome.seconds, 2),
            "plot": str(file),
        }
    )


def _exit_code(outcome: "DemoOutcome") -> int:
    return {"solved": ExitCode.OK, "timeout": ExitCode.FAILURE, "interrupted": INTERRUPTED}[outcome.ending]
