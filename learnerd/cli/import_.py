"""``learnerd import``: episodes that others recorded, into the spool."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from learnerd.cli.options import ConfigOption, JsonOption, counted, print_json, read_config
from learnerd.datasets import FORMATS, Losses, format_of
from learnerd.exit_codes import ExitCode


def command(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(help="A file, or the name of a Minari dataset.")],
    *,
    name: Annotated[
        str | None,
        typer.Option("--format", help=f"{', '.join(FORMATS)} (default: by the file's ending, else minari)."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=COLUMN", help="What a table calls obs.0, action, reward, …"),
    ] = None,
    client_id: Annotated[
        str, typer.Option(help="Whose episodes they are, where they do not say.")
    ] = "import",
    lossy: Annotated[bool, typer.Option("--lossy", help="Import although something is lost.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deposit a dataset's episodes for the daemon to learn from.

    Exit code 1 when it cannot be read, or not exactly and without --lossy; nothing is deposited then.
    """
    chosen = format_of(_format(source, name))
    names = dict(_pair(text) for text in columns or ())
    settings = read_config(ctx, config)
    from experience.errors import InputError  # noqa: PLC0415 - loads NumPy
    from learnerd.datasets.deposits import deposit  # noqa: PLC0415

    losses = Losses()
    try:
        _look_at(chosen.read(source, losses, names), losses, lossy=lossy)
        found = deposit(
            chosen.read(source, Losses(), names), settings.paths.spool, client_id=client_id, now=time.time()
        )
    except (InputError, OSError, ValueError) as error:
        typer.echo(f"{source}: {error}", err=True)
        raise typer.Exit(ExitCode.FAILURE) from None
    document = {"schema": 1, "source": source, **found, "lost": dict(losses.counts)}
    if as_json:
        print_json(document)
        return
    inbox = settings.paths.spool / "in"
    parts = [counted(found[f"{thing}s"], thing) for thing in ("episode", "step", "file")]
    typer.echo(f"{parts[0]}, {parts[1]}, in {parts[2]}: {inbox}")
    if losses.counts:
        typer.echo(f"lost: {losses}")


def _look_at(episodes: Iterable[Any], losses: Losses, *, lossy: bool) -> None:
    """Read everything once before the first is deposited."""
    for _ in episodes:
        pass
    if not lossy:
        losses.refuse("--lossy")


def _format(source: str, name: str | None) -> str:
    chosen = name or {".csv": "csv", ".parquet": "parquet"}.get(Path(source).suffix, "minari")
    if chosen not in FORMATS:
        raise typer.BadParameter(f"--format {chosen}: accepted: {', '.join(FORMATS)}")
    return chosen


def _pair(text: str) -> tuple[str, str]:
    field, equals, column = text.partition("=")
    if not (field and equals and column):
        raise typer.BadParameter(f"--map {text}: accepted: FIELD=COLUMN, such as --map reward=profit")
    return field, column
