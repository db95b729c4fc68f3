"""What several commands take and print."""

import datetime as dt
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from learnerd.config import Config, load_config

if TYPE_CHECKING:
    from rich.table import Table

WIDE = 400
"""Characters of a line where nobody looks at it."""

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The configuration (default: ./config.toml, $LEARNERD_CONFIG, the user's config folder).",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def read_config(ctx: typer.Context, path: Path | None) -> Config:
    """The configuration that ``--config`` names, after the command or before it.

    Raises:
        ConfigError: exit code 6.
    """
    return load_config(path or ctx.find_root().obj, os.environ)


def check_folder_of(file: Path | None, option: str) -> None:
    """Have a file that is to be written refused before the work, when there is no folder for it.

    Raises:
        typer.BadParameter: exit code 2.
    """
    if file is not None and not file.absolute().parent.is_dir():
        raise typer.BadParameter(f"{option} {file}: there is no folder {file.parent}; make it first")
    if file is not None and file.is_dir():
        raise typer.BadParameter(f"{option} {file} is a folder; the name of a file is accepted")


def empty_folder(folder: Path, option: str) -> Path:
    """Make a folder, if need be, that must be empty; its whole path.

    Raises:
        typer.BadParameter: exit code 2.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        empty = not any(folder.iterdir())
    except OSError as error:
        raise typer.BadParameter(f"{option} {folder}: {error.strerror}") from error
    if not empty:
        raise typer.BadParameter(f"{option} {folder} is not empty; a new or an empty folder is accepted")
    return folder.resolve()


def print_json(document: Any) -> None:
    """One document on standard output."""
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")


def print_table(table: "Table") -> None:
    """A table; a row is one line where the output is no terminal."""
    from rich.console import Console  # noqa: PLC0415 - not needed for --json

    Console(highlight=False, emoji=False, width=width_of(sys.stdout)).print(table)


def width_of(stream: TextIO) -> int | None:
    """Characters of a line of a table: None, as many as the terminal has; a row is one line elsewhere."""
    return None if stream.isatty() else WIDE


def counted(number: int, thing: str) -> str:
    """How many of a thing: 1 file, 2,000 files."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def ago(seconds: float | None) -> str:
    """A duration for people: 12 s, 5 min, 3.2 h, 4.0 d; "-" when unknown."""
    if seconds is None:
        return "-"
    if seconds < 120:  # noqa: PLR2004 - two of the next unit
        return f"{seconds:.0f} s"
    if seconds < 7200:  # noqa: PLR2004
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"  # noqa: PLR2004


def local_time(seconds: Any) -> str:
    """A moment, given in seconds since 1970, in local time; "-" when unknown."""
    if not isinstance(seconds, int | float):
        return "-"
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
