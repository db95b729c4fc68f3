"""What several commands take and print."""

import datetime as dt
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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


def print_json(document: Any) -> None:
    """One document on standard output."""
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")


def print_table(table: "Table") -> None:
    """A table; a row is one line where the output is no terminal."""
    from rich.console import Console  # noqa: PLC0415 - not needed for --json

    width = None if sys.stdout.isatty() else WIDE
    Console(highlight=False, emoji=False, width=width).print(table)


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
