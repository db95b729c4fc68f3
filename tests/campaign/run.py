"""The fault campaign: ``python tests/campaign/run.py`` puts every promise to the test and prints the table.

Options: ``--only 1,3`` runs these promises, ``--sample`` a small part of each (what CI runs), ``--trials N``
as many of each, ``--seed N`` makes other random choices, ``--out FILE`` writes the table there (and JSON
beside it). Exit code 1: a promise was broken. The whole takes hours; give it a machine of its own.
"""

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parents[1])]

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy and torch are loaded

from outcome import Outcome  # noqa: E402 - beside this file

SHOWN_VIOLATIONS = 20
PROGRESS_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    number: int
    promise: str
    outcome: Outcome
    seconds: float


def modules(only: set[int]) -> list[ModuleType]:
    """The campaign's modules in the order of their promises."""
    names = sorted(path.stem for path in FOLDER.glob("p[0-9][0-9]_*.py"))
    wanted = [name for name in names if not only or int(name[1:3]) in only]
    return [importlib.import_module(name) for name in wanted]


def carry_out(module: ModuleType, *, trials: int, seed: int) -> Row:
    """Run one promise; what it raises breaks the promise."""
    began_s = time.monotonic()
    progress = Progress(module.NUMBER, trials)
    try:
        outcome = module.run(trials=trials, seed=seed, progress=progress)
    except Exception:  # noqa: BLE001 - the other promises are tested all the same
        outcome = Outcome(trials=progress.done, violations=(traceback.format_exc(),), figure="broken off")
    return Row(
        number=module.NUMBER, promise=module.PROMISE, outcome=outcome, seconds=time.monotonic() - began_s
    )


class Progress:
    """One line every ten seconds."""

    def __init__(self, number: int, trials: int) -> None:
        self._number, self._trials = number, trials
        self._next_s = time.monotonic() + PROGRESS_S
        self.done = 0

    def __call__(self, done: int) -> None:
        self.done = done
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + PROGRESS_S
            print(f"promise {self._number}: {done} of {self._trials}", file=sys.stderr, flush=True)


def table(rows: list[Row]) -> str:
    """The rows as Markdown, with the violations below them."""
    lines = [
        "| # | Promise | Trials | Violations | Reached | Seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        outcome = row.outcome
        reached = outcome.figure + (f"; **not run: {outcome.skipped}**" if outcome.skipped else "")
        cells = (row.number, row.promise, f"{outcome.trials:,}", len(outcome.violations), reached)
        lines.append(f"| {' | '.join(_cell(str(cell)) for cell in cells)} | {row.seconds:.0f} |")
    for row in rows:
        if row.outcome.violations:
            lines += ["", f"Violations of promise {row.number}:", ""]
            lines += [f"- {_cell(violation)}" for violation in row.outcome.violations[:SHOWN_VIOLATIONS]]
            more = len(row.outcome.violations) - SHOWN_VIOLATIONS
            lines += [f"- … and {more} more"] if more > 0 else []
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def write(path: Path, rows: list[Row], *, seed: int) -> None:
    """Write the table, and everything as JSON beside it."""
    path.write_text(table(rows), encoding="utf-8")
    document = {"seed": seed, "rows": [asdict(row) for row in rows]}
    path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="1,3", help="only these promises")
    parser.add_argument("--sample", action="store_true", help="the small part that CI runs")
    parser.add_argument("--trials", type=int, default=None, help="of each promise, instead of its own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("campaign.md"), metavar="FILE")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    for module in modules({int(number) for number in options.only.split(",") if number}):
        trials = options.trials or (module.SAMPLE if options.sample else module.FULL)
        rows.append(carry_out(module, trials=trials, seed=options.seed))
        write(options.out, rows, seed=options.seed)
    print(table(rows), end="")
    return 1 if any(row.outcome.violations for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
