"""``learnerd run``: the daemon in the foreground."""

import logging
from typing import Annotated, Literal

import typer

from learnerd import log
from learnerd.cli.options import ConfigOption, read_config
from learnerd.export.packages import require_packages
from learnerd.tensorboard_events import require_tensorboard
from learnerd.threads import pin_threads


def command(
    ctx: typer.Context,
    *,
    once: Annotated[bool, typer.Option("--once", help="One scan, all its batches, then exit.")] = False,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Exit when every waiting file has been dealt with.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Learn from the spool until stopped; SIGTERM learns what is waiting, publishes and exits."""
    if once and until_idle:
        raise typer.BadParameter("--once and --until-idle exclude each other")
    settings = read_config(ctx, config)
    if settings.telemetry.tensorboard:
        require_tensorboard(settings.file)
    require_packages(settings.export.formats, settings.file)
    log.configure(form=settings.telemetry.log, level=settings.telemetry.level)
    logging.captureWarnings(True)  # noqa: FBT003 - a library's warning is a line like the others
    pin_threads(settings)
    from learnerd.daemon import run  # noqa: PLC0415 - loads torch

    mode: Literal["forever", "once", "until_idle"] = (
        "once" if once else "until_idle" if until_idle else "forever"
    )
    raise typer.Exit(run(settings, mode=mode))
