"""``learnerd status``: is it running, does it learn, what is wrong. Needs no running daemon."""

import os
import sys
from typing import Annotated, Any

import typer

from learnerd import status_file
from learnerd.cli.options import ConfigOption, JsonOption, ago, counted, local_time, print_json, read_config
from learnerd.exit_codes import ExitCode
from learnerd.trend import Trend, read_trend, sparkline

STATES = {
    "starting": "starting",
    "running": "running",
    "draining": "stopping, learning what is left",
    "stopped": "stopped",
    "dead": "dead: it ended without saying so",
    "never": "never ran here",
}


def command(
    ctx: typer.Context,
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
) -> None:
    """Show what the daemon does; exit code 3 when it is down, 4 when something is wrong with it."""
    if watch and as_json:
        raise typer.BadParameter("--watch and --json exclude each other")
    settings = read_config(ctx, config)
    if watch:
        from learnerd.cli.watch import watch as watch_status  # noqa: PLC0415 - not needed to look once

        raise typer.Exit(watch_status(settings))
    document = status_file.live_document(settings)
    if as_json:
        print_json({name: value for name, value in document.items() if name != "process"})
    else:
        text = shown(document, read_trend(settings.paths.state), sys.stdout.encoding)
        typer.echo(text, color=False if os.environ.get("NO_COLOR") else None)  # None: on a terminal only
    raise typer.Exit(exit_code(document))


def exit_code(document: dict[str, Any]) -> ExitCode:
    """What a live document means to a script."""
    if not status_file.is_alive(document):
        return ExitCode.DAEMON_DOWN
    return ExitCode.OK if status_file.is_healthy(document) else ExitCode.DEGRADED


def shown(document: dict[str, Any], trend: Trend | None, encoding: str) -> str:
    """What ``status`` shows, with terminal colors: a line for each thing, then each alarm with what to do.

    Without rich, which takes as long to import as all the rest.
    """
    lines = _lines(document, document["process"]["written_at"], _trend(trend, encoding))
    width = max(len(name) for name, _ in lines)
    parts = [f"{typer.style(name.ljust(width), bold=True)}  {_printable(text)}" for name, text in lines]
    for alarm in document["alarms"]:
        color = "yellow" if alarm.get("level") == "notice" else "red"
        since = f" (since {local_time(alarm['since'])})" if isinstance(alarm["since"], int | float) else ""
        message = typer.style(f"! {_printable(alarm['message'])}", fg=color)
        parts += [f"{message}{since}", f"  what to do: {_printable(alarm['remedy'])}"]
    return "\n".join(parts)


def _trend(trend: Trend | None, encoding: str) -> str:
    if trend is None:
        return "-"
    line = sparkline(trend.returns, encoding)
    ends = f"{_number(trend.returns[0])} to {_number(trend.returns[-1])}"
    return f"{line}  {ends}, over {ago(trend.span_s)}"


def _lines(document: dict[str, Any], written_at: float | None, trend: str) -> list[tuple[str, str]]:
    daemon, policy, episodes = document["daemon"], document["policy"], document["episodes"]
    learning, latency, disk = document["learning"], document["latency"], document["disk"]
    state = STATES.get(daemon["state"], daemon["state"])
    if status_file.is_alive(document):
        state += (
            f" for {ago(daemon['uptime_s'])} (pid {daemon['pid']}, {daemon['device'] or 'device unknown'})"
        )
    elif written_at is not None:
        word = "since" if daemon["state"] == "stopped" else "last sign of life"
        state += f", {word} {local_time(written_at)} ({ago(document['process']['silent_s'])} ago)"
    lines = [
        ("daemon", state),
        *_holds(daemon["holds"]),
        ("policy", _policy(policy, written_at, document["process"]["silent_s"])),
        ("learned", counted(episodes["learned"], "episode")),
        ("refused", _reasons(episodes["refused"])),
        ("quarantined", _reasons(episodes["quarantined"])),
        ("waiting", _waiting(episodes)),
        (
            "return",
            (
                f"mean of the last 100: {_number(learning['return_mean_100'])}, "
                f"last: {_number(learning['return_last'])}"
            ),
        ),
        ("trend", trend),
        (
            "learning",
            (
                f"{_number(learning['updates'])} updates, "
                f"effective share {_number(learning['ess_fraction'])}, "
                f"entropy {_number(learning['entropy'])}, staleness {_number(learning['staleness_mean'])}"
            ),
        ),
        *_policy_updates(learning),
        ("plasticity", _plasticity(learning["plasticity"])),
        ("reuse", _reuse(learning["reuse"])),
        (
            "latency",
            (
                "-"
                if latency["drop_to_publish_p50_s"] is None
                else f"from drop to publish {_number(latency['drop_to_publish_p50_s'])} s in half of the "
                f"cases, {_number(latency['drop_to_publish_p99_s'])} s in 99 of 100"
            ),
        ),
        ("disk", f"{_bytes(disk['free_bytes'])} free"),
    ]
    optional = [("gate", _gate(document["gate"])), ("behavior", _behavior(learning["logp"]))]
    return [*lines, *(line for line in optional if line[1])]


def _gate(gate: dict[str, Any]) -> str:
    """What clients act with and what waits to be; "" while they act with the newest version."""
    if gate["mode"] in {None, "off"}:
        return ""
    text = f"{gate['mode']}; version {_number(gate['acting'])} acts"
    if gate["outcome"] is None:
        return text
    name = "the newest" if gate["candidate"] is None else f"version {gate['candidate']}"
    text += f"; {name} {gate['outcome']}: {_printable(gate['reason'])}"
    if gate["value"] is None:
        return text
    bounds = f"{_number(gate['low'])} to {_number(gate['high'])}"
    return f"{text} ({_number(gate['value'])}, {bounds}, against version {gate['against']})"


def _holds(holds: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """A line for each reason not to learn now."""
    lines = []
    for hold in holds:
        since, until = hold["since"], hold["until"]
        times = [f"since {local_time(since)}"] if since is not None else []
        times += [f"until {local_time(until)}"] if until is not None else []
        lines.append(("held", ", ".join([_printable(hold["message"]), *times])))
    return lines


def _behavior(logp: Any) -> str:
    """Whence the behavior policy's log-probabilities come; "" while all of them are logged."""
    counts = logp if isinstance(logp, dict) else {}
    recovered, missing = counts.get("recovered"), counts.get("missing")
    if not recovered and not missing:
        return ""
    logged = counted(counts.get("logged") or 0, "episode")
    return (
        f"log-probabilities: {logged} logged them, {_number(recovered)} by their version, "
        f"{_number(missing)} have none: a weaker rule"
    )


def _policy(policy: dict[str, Any], written_at: float | None, silent_s: float | None) -> str:
    if policy["version"] is None:
        return "no version yet"
    text = f"version {policy['version']}, {policy['algorithm']}, {_number(policy['parameters'])} parameters"
    if written_at is None or silent_s is None or not isinstance(policy["published_at"], int | float):
        return text
    return f"{text}, published {ago(max(0.0, written_at + silent_s - policy['published_at']))} ago"


def _policy_updates(learning: dict[str, Any]) -> list[tuple[str, str]]:
    """One line when batches were too stale to move the policy with all of their episodes."""
    counts = learning["policy_updates"] or {}
    if not counts.get("split") and not counts.get("value_only"):
        return []
    text = f"{counts['split']} updates split by version, {counts['value_only']} for the value network only"
    return [("too stale", f"{text} ([learner] ess_min)")]


def _plasticity(found: Any) -> str:
    if not isinstance(found, dict):
        return "-"
    return (
        f"{_number(found.get('dormant_fraction'))} of the units dormant, "
        f"effective rank {_number(found.get('effective_rank'))}, "
        f"weight norm {_number(found.get('weight_norm'))}"
    )


def _reuse(reuse: Any) -> str:
    if not isinstance(reuse, dict):
        return "-"
    passes, credits_, buffered = (_number(reuse.get(name)) for name in ("passes", "credits", "buffered"))
    return f"{passes} passes over archived episodes, {credits_} saved up, {buffered} episodes kept"


def _waiting(episodes: dict[str, Any]) -> str:
    if episodes["pending"] is None:
        return "unknown: the spool cannot be listed"
    files, oldest = counted(episodes["pending"], "file"), episodes["oldest_pending_age_s"]
    return files if oldest is None else f"{files}, the oldest for {ago(oldest)}"


def _reasons(counts: Any) -> str:
    if not isinstance(counts, dict) or not counts:
        return "none"
    each = ", ".join(f"{count} {_printable(reason)}" for reason, count in sorted(counts.items()))
    return f"{sum(counts.values())} ({each})"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else _printable(value)


def _bytes(count: Any) -> str:
    return f"{count / 2**30:.1f} GiB" if isinstance(count, int) else "-"


def _printable(value: Any) -> str:
    """Messages may quote what a client wrote: no terminal escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
