"""``learnerd config``: check and show the configuration."""

import json
from typing import Any

import typer

from learnerd.cli.options import ConfigOption, JsonOption, print_json, read_config

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Check and show the configuration.")


@app.command()
def check(ctx: typer.Context, *, config: ConfigOption = None) -> None:
    """Check the configuration; exit code 6 when something is wrong, one line a key."""
    typer.echo(f"{read_config(ctx, config).file}: ok")


@app.command()
def show(ctx: typer.Context, *, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the values in effect: the file's, the environment's and the defaults."""
    settings = read_config(ctx, config)
    tables = settings.model_dump(mode="json")
    if as_json:
        print_json(tables)
        return
    typer.echo(f"# {settings.file}, digest {settings.digest()[:12]}")
    for name, table in tables.items():
        typer.echo(f"\n[{name}]")
        for key, value in table.items():
            typer.echo(f"# {key}: left out" if value is None else f"{key} = {toml_of(value)}")


def toml_of(value: Any) -> str:
    """A value as TOML: JSON and TOML write text, numbers and lists alike; inline tables differ."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_of(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)
