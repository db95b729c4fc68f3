"""``learnerd versions show``: one version's manifest, ledger and files. Loads no NumPy for what is there."""

import json
from typing import Annotated, Any

import typer

from learnerd import versions
from learnerd.cli.options import (
    ConfigOption,
    JsonOption,
    counted,
    local_time,
    print_json,
    print_table,
    read_config,
)
from learnerd.cli.versions.list import live_text, state_text
from learnerd.cli.versions.options import VersionArgument, check_is_there
from learnerd.exit_codes import ExitCode
from learnerd.version_origin import TOLD, origin

MAX_CHARACTERS = 200
ELSEWHERE = ("files", "keys", *TOLD)
SHORT_SHA = 12
EPISODE_COLUMNS = (
    *("update", "client", "episode", "segment", "agent", "steps", "return", "acted", "row sha256"),
    "learned",
)
TIMES = ("saved_at", "published_at")


def command(
    ctx: typer.Context,
    version: VersionArgument,
    *,
    episodes: Annotated[
        bool, typer.Option("--episodes", help="List its episodes too, in the order of learning.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what made one version, and check its files; exit code 1 when it is damaged or not there.

    Of a version that retention has removed, what its record says, while the archive has its episodes.
    """
    settings = read_config(ctx, config)
    state = settings.paths.state
    if version not in versions.numbers(state) and not versions.is_recorded(state, version):
        check_is_there(state, version)
    found = versions.details(state, version)
    if episodes:
        from learnerd.version_episodes import episodes_of  # noqa: PLC0415 - loads pyarrow

        found["episodes"] = episodes_of(settings, found["manifest"]) if found["manifest"] else []
    if as_json:
        print_json(found)
    else:
        _print_details(found)
    if found["damage"]:
        raise typer.Exit(ExitCode.FAILURE)


def _print_details(found: dict[str, Any]) -> None:
    words = (state_text({**found, "damage": []}), "pruned: this is its record" if found["pruned"] else "")
    state = "; ".join(filter(None, words))
    typer.echo(f"version {found['version']}" + (f", {state}" if state else ""))
    for damage in found["damage"]:
        typer.echo(f"  DAMAGED: {damage}")
    typer.echo(f"  return live: {live_text(found['live'])}")
    if found["gate"] is not None:
        typer.echo(f"  gate: {_gate(found['gate'])}")
    ledger = found["ledger"]
    clients = ", ".join(f"{n} of {client or 'no client_id'}" for client, n in ledger["clients"].items())
    typer.echo(f"  ledger: {counted(ledger['episodes'], 'episode')}" + (f" ({clients})" if clients else ""))
    for name, what in origin(found["manifest"] or {}):
        typer.echo(f"  {name}: {what}")
    for key, value in (found["manifest"] or {}).items():
        if key not in ELSEWHERE and value not in ([], {}):
            text = local_time(value) if key in TIMES else _text(value)
            cut = text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"
            typer.echo(f"  {key}: {cut}")
    for name, file in found["files"].items():
        typer.echo(f"  {name}: {file['bytes']} bytes, sha256 {file['state']}")
    if "episodes" in found:
        _print_episodes(found["episodes"])


def _print_episodes(rows: list[dict[str, Any]]) -> None:
    from rich.markup import escape  # noqa: PLC0415 - not needed for --json
    from rich.table import Table  # noqa: PLC0415

    lines = []
    for row in rows:
        again = row["learned_again_from"]
        cells = (
            row["update"] + 1,
            *(row[name] for name in ("client_id", "episode_id", "segment", "agent_id", "steps")),
            None if row["return"] is None else f"{row['return']:.6g}",
            row["policy_version"],
            row["row_sha256"] and row["row_sha256"][:SHORT_SHA],
            "" if again is None else f"again, of {again}",
        )
        lines.append(tuple(escape("-" if cell is None else str(cell)) for cell in cells))
    used = [i for i in range(len(EPISODE_COLUMNS)) if any(line[i] for line in lines)]
    table = Table(*(EPISODE_COLUMNS[i] for i in used), box=None, pad_edge=False)
    for line in lines:
        table.add_row(*(line[i] for i in used))
    print_table(table)


def _text(value: Any) -> str:
    """A value of the manifest for people: what an object holds, without its brackets."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return _plain(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _gate(gate: dict[str, Any]) -> str:
    """The verdict on a version."""
    against, episodes = gate["against"], counted(gate["episodes"], "episode")
    text = f"{gate['outcome']} against version {against} after {episodes}: {gate['reason']}"
    if gate["value"] is None:
        return text
    bounds = f"{gate['value']:.4g}, {gate['low']:.4g} to {gate['high']:.4g}"
    return f"{text} ({bounds}; effective share {gate['ess_fraction']:.2f}, {gate['probabilities']})"
