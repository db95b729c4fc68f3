"""Progress of long work: a bar on a terminal, else a line every ten seconds; both on standard error."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

LINE_EVERY_S = 10.0


def with_progress(
    rows: Iterator[T], total: int, *, doing: str = "replaying", of: str = "batches"
) -> Iterator[T]:
    """Pass ``rows`` on, and show how many of ``total`` have come."""
    with progress(total, doing=doing, of=of) as advance:
        for row in rows:
            yield row
            advance()


@contextlib.contextmanager
def progress(total: int, *, doing: str, of: str) -> Iterator[Callable[[], None]]:
    """Give what is to be called after each of ``total`` things, and show how many are done."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(total, doing=doing, of=of).advance
        return
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda: bar.advance(task)


class _Lines:
    """A line now and then, with the time that is left."""

    def __init__(self, total: int, *, doing: str, of: str) -> None:
        self._total, self._doing, self._of = total, doing, of
        self._done = 0
        self._first = self._last = time.monotonic()

    def advance(self) -> None:
        self._done += 1
        now = time.monotonic()
        if self._done == 1:
            self._first = now  # until then things were loaded
        elif now - self._last >= LINE_EVERY_S:
            self._last = now
            left_s = (now - self._first) / (self._done - 1) * (self._total - self._done)
            line = f"{self._doing}: {self._done} of {self._total} {self._of}, about {left_s:.0f} s left"
            print(line, file=sys.stderr, flush=True)  # noqa: T201
