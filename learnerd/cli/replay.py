"""``learnerd replay``: what the archive would teach again."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from learnerd.cli import what_if
from learnerd.cli.options import ConfigOption, JsonOption, counted, empty_folder, read_config
from learnerd.cli.progress import with_progress
from learnerd.config import Config
from learnerd.exit_codes import ExitCode
from learnerd.threads import pin_threads
from learnerd.versions import recorded_threads

if TYPE_CHECKING:
    from learnerd.replay import Row


def command(
    ctx: typer.Context,
    *,
    into: Annotated[
        Path | None,
        typer.Option("--into", metavar="DIR", help="Keep the scratch store here; DIR must be empty."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Rebuild recorded versions, compare their hashes; 1 when one differs."),
    ] = False,
    first: Annotated[
        int | None, typer.Option("--from", min=1, metavar="V", help="With --verify: judge from here on.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", min=1, metavar="W", help="With --verify: judge up to here.")
    ] = None,
    set_: what_if.SetOption = None,
    tune: what_if.TuneOption = None,
    seeds: what_if.SeedsOption = None,
    parts: what_if.PartsOption = None,
    method: what_if.MethodOption = None,
    jobs: what_if.JobsOption = None,
    plot: what_if.PlotOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Learn from the archived episodes again, into a scratch store, and compare with what was published.

    With --verify: are recorded versions what their episodes make? With --set or --tune: what would other
    settings have learned from them? See docs/replay.md and docs/whatif.md.
    """
    asked = what_if.Options(
        set_=set_, tune=tune, seeds=seeds, parts=parts, jobs=jobs, method=method, plot=plot
    )
    if into is not None and (verify or asked.wanted):
        raise typer.BadParameter("there is no store with --verify, --set or --tune", param_hint="--into")
    if verify and asked.wanted:
        raise typer.BadParameter("goes without --set and --tune", param_hint="--verify")
    if not verify and (first, last) != (None, None):
        raise typer.BadParameter("goes with --verify only", param_hint="--from, --to")
    settings = read_config(ctx, config)
    pin_threads(settings, recorded=recorded_threads(settings.paths.state) if verify else None)
    if verify:
        from learnerd.cli.replay_verify import run_verify  # noqa: PLC0415 - loads torch

        raise typer.Exit(run_verify(settings, first=first, last=last, as_json=as_json))
    if asked.wanted:
        what_if.what_if(settings, asked, as_json=as_json)
    else:
        _replay(settings, into, as_json=as_json)


def _replay(settings: Config, into: Path | None, *, as_json: bool) -> None:
    from learnerd.archived import archived_versions  # noqa: PLC0415 - loads pyarrow
    from learnerd.replay import replay, scratch_folder  # noqa: PLC0415 - loads torch

    versions = archived_versions(settings)
    if not versions:
        typer.echo(f"nothing to replay: no shard in {settings.paths.spool / 'archive'}", err=True)
        raise typer.Exit(ExitCode.NOTHING_TO_DO)
    scratch, remove = scratch_folder(None if into is None else empty_folder(into, "--into"))
    try:
        rows = list(with_progress(replay(settings, versions, scratch=scratch), len(versions)))
    finally:
        remove()
    if as_json:
        typer.echo(json.dumps({"schema": 1, "batches": [asdict(row) for row in rows]}))
    else:
        _print_table(rows)
        if into is not None:
            typer.echo(f"scratch store kept in {into}")


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
    steps = sum(row.steps for row in rows)
    batches = f"{len(rows)} batch" if len(rows) == 1 else f"{len(rows)} batches"
    typer.echo(f"{batches}, {counted(episodes, 'episode')}, {counted(steps, 'step')} replayed")
