"""``learnerd versions diff``: how far apart two versions are."""

from typing import Any

import typer

from learnerd.cli.options import ConfigOption, JsonOption, counted, print_json, print_table, read_config
from learnerd.cli.versions.options import VersionArgument, check_is_there, refuse


def command(
    ctx: typer.Context,
    version: VersionArgument,
    other: VersionArgument,
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions: weights layer by layer, counters, and what was learned between them."""
    state = read_config(ctx, config).paths.state
    for number in (version, other):
        check_is_there(state, number)
    from learnerd.version_diff import difference  # noqa: PLC0415 - loads NumPy
    from policies.errors import VersionDamaged  # noqa: PLC0415
    from policies.store import CheckpointStore  # noqa: PLC0415

    store = CheckpointStore(state)
    try:
        found = difference(store.load(version), store.load(other))
    except VersionDamaged as error:
        refuse(str(error), state)
    else:
        print_json(found) if as_json else _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table  # noqa: PLC0415 - not needed for --json

    old, new = found["versions"]
    columns = ("weights", f"norm in {old}", f"norm in {new}", "difference", "relative")
    table = Table(*columns, box=None, pad_edge=False)
    for name, row in found["weights"].items():
        table.add_row(name, *(f"{row[key]:.4g}" for key in ("old", "new", "difference", "relative")))
    print_table(table)
    for name, (before, after) in found["counters"].items():
        if before != after:
            typer.echo(f"{name}: {before} -> {after} ({after - before:+})")
    typer.echo(f"{counted(found['episodes'], 'episode')} learned between them")
