"""``learnerd replay --verify``: recorded versions rebuilt, and their hashes compared."""

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from learnerd.cli.options import counted, print_table
from learnerd.cli.progress import with_progress
from learnerd.cli.versions.options import ranges
from learnerd.config import Config
from learnerd.exit_codes import ExitCode
from learnerd.verify import ATOL, FAILED, RTOL, Judged, Outcome, missing_archive, plan_of, verify
from learnerd.verify_plan import Plan

WORDS: dict[Outcome, str] = {
    "same": "same",
    "close": "within tolerance",
    "differs": "DIFFERS",
    "unknown": "not comparable",
    "not_rebuilt": "NOT REBUILT",
}
COLUMNS = ("version", "made", "from", "writer", "episodes", "result", "largest\ndifference", "why")


def run_verify(config: Config, *, first: int | None, last: int | None, as_json: bool) -> ExitCode:
    """Rebuild, print, and return how the command is to end."""
    plan = plan_of(config, first=first, last=last)
    if not plan.judged:
        typer.echo(f"nothing to verify: {_nothing(config, plan, first, last)}", err=True)
        return ExitCode.NOTHING_TO_DO
    if missing := missing_archive(config, plan):
        typer.echo(f"nothing to verify: {missing}", err=True)
        return ExitCode.NOTHING_TO_DO
    rows = verify(config, plan)
    found = list(with_progress(rows, len(plan.judged), doing="verifying", of="versions"))
    code = _code(found)
    if as_json:
        typer.echo(json.dumps(_document(plan, found, code)))
    else:
        _print_table(found)
        _print_summary(plan, found)
    return code


def _code(found: list[Judged]) -> ExitCode:
    outcomes = {judged.outcome for judged in found}
    if outcomes & set(FAILED):
        return ExitCode.FAILURE
    return ExitCode.NOTHING_TO_DO if outcomes == {"unknown"} else ExitCode.OK


def _nothing(config: Config, plan: Plan, first: int | None, last: int | None) -> str:
    if plan.out_of_reach:
        return f"nothing to begin with is left: versions {ranges(list(plan.out_of_reach))}"
    wanted = (f" from {first}" if first else "") + (f" to {last}" if last else "")
    return f"no version{wanted} in {config.paths.state}"


def _document(plan: Plan, found: list[Judged], code: ExitCode) -> dict[str, Any]:
    first = _first(found)
    return {
        "schema": 1,
        "equal": code == ExitCode.OK,
        "counts": dict(Counter(judged.outcome for judged in found)),
        "first_different": None if first is None else first.version,
        "tolerance": {"absolute": ATOL, "relative": RTOL},
        "rebuilt_from": plan.versions[0],
        "out_of_reach": list(plan.out_of_reach),
        "versions": [asdict(judged) for judged in found],
    }


def _first(found: list[Judged]) -> Judged | None:
    """The first version that is wrong; else the first that is not the same to the bit."""
    wrong = (judged for judged in found if judged.outcome in FAILED)
    other = (judged for judged in found if judged.outcome != "same")
    return next(wrong, None) or next(other, None)


def _print_table(found: list[Judged]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, overflow="fold")
    for judged in found:
        cells = (
            judged.version,
            judged.made or "-",
            ", ".join(map(str, judged.parents)) or "-",
            judged.writer or "-",
            judged.episodes,
            WORDS[judged.outcome],
            "-" if judged.largest is None else f"{judged.largest:.2g}",
            "; ".join(judged.why),
        )
        table.add_row(*(escape(str(cell)) for cell in cells))
    print_table(table)


def _print_summary(plan: Plan, found: list[Judged]) -> None:
    counts = Counter(judged.outcome for judged in found)
    parts = ", ".join(f"{counts[outcome]} {word}" for outcome, word in WORDS.items() if counts[outcome])
    typer.echo(f"{counted(len(found), 'version')}: {parts}")
    if first := _first(found):
        typer.echo(f"first that is not the same: version {first.version}: {'; '.join(first.why)}")
    if any(judged.outcome in ("close", "unknown") and judged.rebuilt_sha256 for judged in found):
        typer.echo(f"computed elsewhere: weights may differ by {ATOL:g} + {RTOL:g} times their size")
    if plan.out_of_reach:
        typer.echo(f"not judged, nothing to begin with is left: versions {ranges(list(plan.out_of_reach))}")
