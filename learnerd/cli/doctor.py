"""``learnerd doctor``: what is wrong with machine, folders, state or pipeline, and what to do about it."""

import os
from collections.abc import Iterable
from dataclasses import asdict

import typer

from learnerd.cli.options import ConfigOption, JsonOption, print_json, read_config
from learnerd.config import Config, ConfigError
from learnerd.doctor import Finding, examine
from learnerd.exit_codes import ExitCode

COLORS = {"ok": "green", "notice": "cyan", "warning": "yellow", "failure": "red"}


def command(ctx: typer.Context, *, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Look at everything that the daemon needs, and try one episode; disturbs no daemon that runs.

    Exit code 0 when all is well, 1 when something does not work, 4 when something works but not as it
    should, 6 when the configuration is wrong.
    """
    try:
        settings: Config | ConfigError = read_config(ctx, config)
    except ConfigError as error:
        settings = error
    found = examine(settings, os.environ)
    if as_json:
        findings = list(found)
        healthy = exit_code(findings) == ExitCode.OK
        print_json({"schema": 1, "healthy": healthy, "findings": [asdict(one) for one in findings]})
    else:
        findings = show(found)
    raise typer.Exit(ExitCode.BAD_CONFIG if isinstance(settings, ConfigError) else exit_code(findings))


def exit_code(findings: Iterable[Finding]) -> ExitCode:
    """What a command ends with that found these."""
    severities = {finding.severity for finding in findings}
    if "failure" in severities:
        return ExitCode.FAILURE
    return ExitCode.DEGRADED if "warning" in severities else ExitCode.OK


def show(findings: Iterable[Finding]) -> list[Finding]:
    """Print each as soon as it is known; return all."""
    from rich.console import Console  # noqa: PLC0415 - not needed for --json
    from rich.markup import escape  # noqa: PLC0415

    console = Console(highlight=False, emoji=False)
    seen = []
    for finding in findings:
        seen.append(finding)
        color = COLORS[finding.severity]
        text = escape(_printable(f"{finding.check}: {finding.what}"))
        console.print(f"[{color}]{finding.severity:<8}[/]{text}", soft_wrap=True)
        if finding.remedy:
            console.print(f"        → {escape(_printable(finding.remedy))}", soft_wrap=True)
    counts = {name: sum(one.severity == name for one in seen) for name in ("failure", "warning")}
    said = ", ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items() if count)
    console.print(said or "all is well")
    return seen


def _printable(text: str) -> str:
    """What clients or files said may hold terminal escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
