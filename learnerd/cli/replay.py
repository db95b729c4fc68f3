"""``learnerd replay``: what the archive would teach again."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from learnerd.cli.options import ConfigOption, JsonOption, read_config
from learnerd.exit_codes import ExitCode
from learnerd.threads import pin_threads

if TYPE_CHECKING:
    from learnerd.replay import Row

LINE_EVERY_S = 10.0


def command(
    ctx: typer.Context,
    *,
    into: Annotated[
        Path | None,
        typer.Option("--into", metavar="DIR", help="Keep the scratch store here; DIR must be empty."),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Learn from the archived episodes again, into a scratch store, and compare with what was published."""
    settings = read_config(ctx, config)
    pin_threads(settings)
    from learnerd.replay import archived_versions, replay, scratch_folder  # noqa: PLC0415 - loads torch

    versions = archived_versions(settings)
    if not versions:
        typer.echo(f"nothing to replay: no shard in {settings.paths.spool / 'archive'}", err=True)
        raise typer.Exit(ExitCode.NOTHING_TO_DO)
    scratch, remove = scratch_folder(into)
    try:
        rows = list(_with_progress(replay(settings, versions, scratch=scratch), len(versions)))
    finally:
        remove()
    if as_json:
        typer.echo(json.dumps({"schema": 1, "batches": [asdict(row) for row in rows]}))
    else:
        _print_table(rows)
        if into is not None:
            typer.echo(f"scratch store kept in {into}")


def _with_progress(rows: "Iterator[Row]", total: int) -> "Iterator[Row]":
    """Show a bar on a terminal, else a line every ten seconds; both on standard error."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            yield from progress.track(rows, total=total)
        return
    last = time.monotonic()
    for done, row in enumerate(rows, start=1):
        yield row
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            print(f"replayed {done} of {total} batches", file=sys.stderr, flush=True)  # noqa: T201


def _print_table(rows: "list[Row]") -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("version", "episodes", "steps", "updates", "return", "loss", "entropy", "ESS"):
        table.add_column(name, justify="right")
    table.add_column("weights")
    for row in rows:
        table.add_row(
            str(row.recorded),
            str(row.episodes),
            str(row.steps),
            str(row.updates),
            f"{row.return_mean:.2f}",
            f"{row.loss:.4f}",
            f"{row.entropy:.3f}",
            f"{row.ess_fraction:.2f}",
            {True: "same", False: "differ", None: "pruned"}[row.same_weights],
        )
    Console().print(table)
    episodes = sum(row.episodes for row in rows)
    typer.echo(f"{len(rows)} batches, {episodes} episodes, {sum(row.steps for row in rows)} steps replayed")
