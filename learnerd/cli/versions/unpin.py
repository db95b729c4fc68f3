"""``learnerd versions unpin``: leave a version to retention again."""

import typer

from learnerd.cli.options import ConfigOption, read_config
from learnerd.cli.versions.options import VersionArgument
from learnerd.exit_codes import ExitCode


def command(ctx: typer.Context, version: VersionArgument, *, config: ConfigOption = None) -> None:
    """Take a pin back; exit code 9 when there was none."""
    state = read_config(ctx, config).paths.state
    from policies.store import CheckpointStore  # noqa: PLC0415 - loads NumPy

    if not CheckpointStore(state).unpin(version):
        typer.echo(f"version {version} was not pinned")
        raise typer.Exit(ExitCode.NOTHING_TO_DO)
    typer.echo(f"version {version} is not pinned any more")
