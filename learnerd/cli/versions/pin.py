"""``learnerd versions pin``: keep a version for good."""

import typer

from learnerd.cli.options import ConfigOption, read_config
from learnerd.cli.versions.options import VersionArgument, check_is_there


def command(ctx: typer.Context, version: VersionArgument, *, config: ConfigOption = None) -> None:
    """Keep a version until it is unpinned, whatever retention says."""
    state = read_config(ctx, config).paths.state
    check_is_there(state, version)
    from policies.store import CheckpointStore  # noqa: PLC0415 - loads NumPy

    CheckpointStore(state).pin(version)
    typer.echo(f"version {version} is pinned")
