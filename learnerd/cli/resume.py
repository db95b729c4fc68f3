"""``learnerd resume``: end a pause."""

import time

import typer

from learnerd import status_file
from learnerd.cli.options import ConfigOption, JsonOption, print_json, read_config
from learnerd.exit_codes import ExitCode
from learnerd.pause import BadPauseError, boot_id, boot_s, read_pause, remove_pause


def command(ctx: typer.Context, *, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Learn again after `pause`; exit code 9 when nothing is paused."""
    settings = read_config(ctx, config)
    state = settings.paths.state
    now = time.time()
    try:
        pause = read_pause(state)
        was_paused = pause is not None and pause.left_s(wall_s=now, boot=boot_id(), boot_s=boot_s()) > 0.0
    except BadPauseError:
        was_paused = False
    remove_pause(state)
    holds = status_file.live_document(settings)["daemon"]["holds"]
    others = [str(hold["message"]) for hold in holds if hold["why"] != "paused"]
    if as_json:
        print_json({"paused": False, "was_paused": was_paused})
    elif was_paused:
        typer.echo("; ".join(["resumed", *(f"still held: {message}" for message in others)]))
    else:
        typer.echo("nothing is paused")
    raise typer.Exit(ExitCode.OK if was_paused else ExitCode.NOTHING_TO_DO)
