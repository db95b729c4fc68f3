"""``learnerd versions list``: every version that is kept. Reads JSON, without NumPy."""

from typing import Any

import typer

from learnerd import versions
from learnerd.cli.options import ConfigOption, JsonOption, local_time, print_json, print_table, read_config

COLUMNS = (
    *("version", "saved", "writer", "parents", "updates", "episodes", "return\nlearned", "return\nlive"),
    "state",
)
WRAPPED = ("saved", "parents", "state")
"""Columns that give way where the terminal is narrow."""


def command(ctx: typer.Context, *, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the versions that are kept, oldest first.

    "return learned" is the mean over the episodes that a version learned from; "return live" is what clients
    earned with it, and in how many episodes.
    """
    found = versions.summaries(read_config(ctx, config).paths.state)
    if as_json:
        print_json(found)
    elif not found:
        typer.echo("no version yet")
    else:
        _print_table(found)


def _print_table(found: list[dict[str, Any]]) -> None:
    from rich.markup import escape  # noqa: PLC0415 - not needed for --json
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        table.add_column(name, no_wrap=name not in WRAPPED)
    for row in found:
        cells = (
            row["version"],
            local_time(row["saved_at"]),
            _text(row["writer"]),
            ", ".join(str(parent) for parent in row["parents"] or ()),
            _text(row["updates_total"]),
            _text(row["episodes_total"]),
            _number(row["return_mean"]),
            live_text(row["live"]),
            state_text(row),
        )
        table.add_row(*(escape(str(cell)) for cell in cells))
    print_table(table)


def state_text(row: dict[str, Any]) -> str:
    """What is special about a version."""
    words = [*row["damage"]]
    if row["current"]:
        words.append("current")
    if row["held"]:
        words.append("held back")
    if row["rollback_to"] is not None:
        words.append(f"rollback to {row['rollback_to']}")
    if row["rejected_by"] is not None:
        words.append(f"rejected by {row['rejected_by']}")
    if row["pinned"]:
        words.append("pinned")
    return "; ".join(words)


def live_text(live: dict[str, Any] | None) -> str:
    """What clients earned with a version."""
    return "-" if live is None else f"{_number(live['mean'])} ({live['n']})"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"


def _text(value: Any) -> str:
    return "-" if value is None else str(value)
