"""Progress of long work: a bar on a terminal, else a line every ten seconds; both on standard error."""

import sys
import time
from collections.abc import Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

LINE_EVERY_S = 10.0


def with_progress(
    rows: Iterator[T], total: int, *, doing: str = "replaying", of: str = "batches"
) -> Iterator[T]:
    """Pass ``rows`` on, and show how many of ``total`` have come."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            yield from progress.track(rows, total=total)
        return
    last = time.monotonic()
    for done, row in enumerate(rows, start=1):
        yield row
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            print(f"{doing}: {done} of {total} {of}", file=sys.stderr, flush=True)  # noqa: T201
