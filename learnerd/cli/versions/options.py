"""What the commands about one version take, and how they end."""

from pathlib import Path
from typing import Annotated

import typer

from learnerd import versions
from learnerd.exit_codes import ExitCode

VersionArgument = Annotated[int, typer.Argument(min=1, metavar="VERSION")]


def check_is_there(state: Path, version: int) -> None:
    """End with exit code 1 when a version has no directory, and say what would be accepted."""
    there = versions.numbers(state)
    if version not in there:
        refuse(f"no version {version} in {state}", state)


def refuse(reason: str, state: Path) -> None:
    """End with exit code 1, naming the versions that are there and whole by their sizes."""
    whole = [row["version"] for row in versions.summaries(state) if not row["damage"]]
    accepted = ranges(whole) or "none yet"
    typer.echo(f"learnerd: {reason}; accepted: {accepted} (`learnerd versions list`)", err=True)
    raise typer.Exit(ExitCode.FAILURE)


def ranges(numbers: list[int]) -> str:
    """Ascending numbers, shortened: 1, 4-7."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
