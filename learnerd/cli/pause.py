"""``learnerd pause``: learn nothing until ``resume``, or for a while. Needs no running daemon."""

from dataclasses import asdict
from typing import Annotated

import typer

from learnerd import status_file
from learnerd.cli.options import ConfigOption, JsonOption, ago, local_time, print_json, read_config
from learnerd.durations import seconds_of
from learnerd.pause import Pause, shown, write_pause


def command(
    ctx: typer.Context,
    *,
    length: Annotated[
        str | None,
        typer.Option("--for", metavar="TIME", help="End by itself after 90s, 30m, 2h, 1h30m, 7d."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; status shows it.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn nothing until `resume`; an update under way is finished, files wait and do not get older."""
    try:
        for_s = None if length is None else seconds_of(length)
    except ValueError as error:
        raise typer.BadParameter(f"--for: {error}") from None
    settings = read_config(ctx, config)
    pause = Pause.now(for_s=for_s, reason=shown(reason))
    write_pause(settings.paths.state, pause)
    until = None if for_s is None else pause.since + for_s
    if as_json:
        told = {name: value for name, value in asdict(pause).items() if name in ("since", "reason")}
        print_json({"paused": True, **told, "until": until})
        return
    text = "until `learnerd resume`" if until is None else f"for {ago(for_s)}, until {local_time(until)}"
    runs = status_file.is_alive(status_file.live_document(settings))
    typer.echo(f"paused {text}" if runs else f"paused {text}; no daemon runs: it will start paused")
