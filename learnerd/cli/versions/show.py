"""``learnerd versions show``: one version's manifest, ledger and files. Reads JSON, without NumPy."""

from typing import Any

import typer

from learnerd import versions
from learnerd.cli.options import ConfigOption, JsonOption, local_time, print_json, read_config
from learnerd.cli.versions.list import live_text, state_text
from learnerd.cli.versions.options import VersionArgument, check_is_there
from learnerd.exit_codes import ExitCode

MAX_CHARACTERS = 200
ELSEWHERE = ("files", "keys")
TIMES = ("saved_at", "published_at")


def command(
    ctx: typer.Context,
    version: VersionArgument,
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one version's manifest and check its files; exit code 1 when it is damaged or not there."""
    state = read_config(ctx, config).paths.state
    check_is_there(state, version)
    found = versions.details(state, version)
    if as_json:
        print_json(found)
    else:
        _print_details(found)
    if found["damage"]:
        raise typer.Exit(ExitCode.FAILURE)


def _print_details(found: dict[str, Any]) -> None:
    state = state_text({**found, "damage": []})
    typer.echo(f"version {found['version']}" + (f", {state}" if state else ""))
    for damage in found["damage"]:
        typer.echo(f"  DAMAGED: {damage}")
    typer.echo(f"  return live: {live_text(found['live'])}")
    if found["gate"] is not None:
        typer.echo(f"  gate: {_gate(found['gate'])}")
    ledger = found["ledger"]
    clients = ", ".join(f"{n} of {client or 'no client_id'}" for client, n in ledger["clients"].items())
    typer.echo(f"  ledger: {ledger['episodes']} episodes" + (f" ({clients})" if clients else ""))
    for key, value in (found["manifest"] or {}).items():
        if key not in ELSEWHERE:
            text = local_time(value) if key in TIMES else str(value)
            cut = text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"
            typer.echo(f"  {key}: {cut}")
    for name, file in found["files"].items():
        typer.echo(f"  {name}: {file['bytes']} bytes, sha256 {file['state']}")


def _gate(gate: dict[str, Any]) -> str:
    """The verdict on a version."""
    against, episodes = gate["against"], gate["episodes"]
    text = f"{gate['outcome']} against version {against} after {episodes} episodes: {gate['reason']}"
    if gate["value"] is None:
        return text
    bounds = f"{gate['value']:.4g}, {gate['low']:.4g} to {gate['high']:.4g}"
    return f"{text} ({bounds}; effective share {gate['ess_fraction']:.2f}, {gate['probabilities']})"
