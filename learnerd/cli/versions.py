"""``learnerd versions``: what has been published. Reads manifests as JSON, without NumPy."""

from typing import Annotated, Any

import typer

from learnerd import versions
from learnerd.cli.options import ConfigOption, JsonOption, local_time, print_json, read_config
from learnerd.exit_codes import ExitCode

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List and show published versions.")
MAX_CHARACTERS = 200
COLUMNS = ("version", "saved", "writer", "parents", "episodes", "updates", "state")


@app.command("list")
def list_(ctx: typer.Context, *, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the versions that are kept, oldest first."""
    state = read_config(ctx, config).paths.state
    found = [versions.summary(state, number) for number in versions.numbers(state)]
    if as_json:
        print_json(found)
    elif not found:
        typer.echo("no version yet")
    else:
        _print_table(found)


@app.command()
def show(
    ctx: typer.Context,
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION")],
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one version's manifest and check its files; exit code 1 when it is damaged or not there."""
    state = read_config(ctx, config).paths.state
    if version not in versions.numbers(state):
        typer.echo(
            f"learnerd: no version {version} in {state}; `learnerd versions list` lists them", err=True
        )
        raise typer.Exit(ExitCode.FAILURE)
    found = versions.details(state, version)
    if as_json:
        print_json(found)
    else:
        _print_details(found)
    if found["damage"]:
        raise typer.Exit(ExitCode.FAILURE)


def _print_table(found: list[dict[str, Any]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - not needed for --json
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(*COLUMNS, box=None, pad_edge=False)
    for row in found:
        state = "; ".join(row["damage"]) or ("current" if row["current"] else "")
        cells = (
            row["version"],
            local_time(row["saved_at"]),
            _text(row["writer"]),
            ", ".join(str(parent) for parent in row["parents"] or ()),
            _text(row["episodes_total"]),
            _text(row["updates_total"]),
            state,
        )
        table.add_row(*(escape(str(cell)) for cell in cells))
    Console(highlight=False, emoji=False).print(table)


def _print_details(found: dict[str, Any]) -> None:
    typer.echo(f"version {found['version']}" + (", current" if found["current"] else ""))
    for damage in found["damage"]:
        typer.echo(f"  DAMAGED: {damage}")
    manifest = found["manifest"] or {}
    for key, value in manifest.items():
        if key == "files":
            continue
        text = local_time(value) if key == "saved_at" else str(value)
        typer.echo(f"  {key}: {text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + '…'}")
    for name, file in found["files"].items():
        typer.echo(f"  {name}: {file['bytes']} bytes, sha256 {file['state']}")


def _text(value: Any) -> str:
    return "-" if value is None else str(value)
