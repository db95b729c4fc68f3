"""``learnerd report``: one HTML file with curves, versions, refusals and where a version comes from."""

import contextlib
import datetime as dt
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from learnerd.cli.options import ConfigOption, check_folder_of, read_config
from learnerd.durations import seconds_of
from learnerd.versions import numbers

FILE_NAME = "learnerd-report.html"


def command(
    ctx: typer.Context,
    *,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where to write it; - is standard output.")
    ] = Path(FILE_NAME),
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Begin the curves at 90m, 24h, 7d, 4w ago, or at 2026-11-21."),
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Whose provenance is told (default: the current one's).")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Write a self-contained HTML report; needs no running daemon."""
    begin = 0.0 if since is None else moment_of(since, now=time.time())
    to_file = str(out) != "-"
    if to_file:
        check_folder_of(out, "--out")
    settings = read_config(ctx, config)
    from learnerd.report.page import report  # noqa: PLC0415 - loads NumPy

    text = report(settings, since=begin, version=version)
    if to_file:
        out.write_text(text, encoding="utf-8")
        typer.echo(f"wrote {out}")
    else:
        sys.stdout.write(text)
    if version is not None and version not in numbers(settings.paths.state):
        typer.echo(f"version {version} was pruned, or never published: little is known of it", err=True)


def moment_of(text: str, *, now: float) -> float:
    """UTC seconds of "24h" (ago) or "2026-11-21T12:00" (local time unless it names a zone).

    Raises:
        typer.BadParameter: it is neither.
    """
    with contextlib.suppress(ValueError):
        return now - seconds_of(text)
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise typer.BadParameter(
            f"--since {text}: a time ago such as 90m, 24h, 7d, 4w is accepted, or a date"
        ) from None
