"""Progress of a demo: a live picture on a terminal, a line every 10 s elsewhere."""

import time
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from learnerd.demo.returns import TARGET_RETURN, WINDOW_EPISODES

LINE_EVERY_S = 10.0
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_CHARACTERS = 36  # all of it fits into 80 columns


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What there is to see at one moment.

    Attributes:
        seconds: since the start.
        mean_return: over the last 100 episodes; None before the first.
        means: how it developed, at equal intervals.
        episodes, steps: played by both clients.
        version: the one that CURRENT names, 0 before the first.
        steps_per_s: of both clients together, lately.
        refused: episodes that the daemon refused or quarantined.
    """

    seconds: float
    mean_return: float | None
    means: Sequence[float]
    episodes: int
    steps: int
    version: int
    steps_per_s: float
    refused: int


class Progress(AbstractContextManager["Progress"]):
    """Where snapshots are shown; a context, so that a terminal is left as it was found."""

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""

    @abstractmethod
    def show(self, snapshot: Snapshot) -> None:
        """Take the newest figures; called several times a second."""


def progress_on(stream: TextIO) -> Progress:
    """The form of progress that suits the stream."""
    return LiveProgress(stream) if stream.isatty() else LineProgress(stream)


class LineProgress(Progress):
    """One plain line every 10 s, the first one at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._due_s = 0.0

    def show(self, snapshot: Snapshot) -> None:
        """Print when a line is due."""
        if snapshot.seconds < self._due_s:
            return
        self._due_s = (snapshot.seconds // LINE_EVERY_S + 1) * LINE_EVERY_S
        mean = "-" if snapshot.mean_return is None else f"{snapshot.mean_return:.1f}"
        self._stream.write(
            f"{snapshot.seconds:4.0f} s  mean return {mean:>5} of {TARGET_RETURN:.0f}  "
            f"{snapshot.episodes} episodes  version {snapshot.version}  "
            f"{snapshot.steps_per_s:.0f} steps/s  {snapshot.refused} refused\n"
        )
        self._stream.flush()


class LiveProgress(Progress):
    """A picture that is redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        self._live = Live(console=Console(file=stream), auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Redraw."""
        self._live.update(picture(snapshot), refresh=True)


def picture(snapshot: Snapshot) -> Group:
    """Return, its history, and the counters below."""
    mean = snapshot.mean_return or 0.0
    top = Table.grid(padding=(0, 2))
    top.add_row(
        Text(f"mean return, last {WINDOW_EPISODES}"),
        ProgressBar(total=TARGET_RETURN, completed=min(mean, TARGET_RETURN), width=SPARK_CHARACTERS),
        Text(f"{mean:.1f} of {TARGET_RETURN:.0f}", style="bold"),
    )
    top.add_row("", Text(sparkline(snapshot.means), style="blue"), "")
    counters = (
        f"{snapshot.seconds:.0f} s · {snapshot.episodes:,} episodes · version {snapshot.version} · "
        f"{snapshot.steps_per_s:,.0f} steps/s · {snapshot.refused} refused"
    )
    return Group(top, Text(counters, style="dim"))


def sparkline(means: Sequence[float]) -> str:
    """The course of the mean, as one character a stretch of time."""
    count = min(len(means), SPARK_CHARACTERS)
    picked = [means[(i + 1) * len(means) // count - 1] for i in range(count)]
    return "".join(SPARKS[min(int(mean / TARGET_RETURN * len(SPARKS)), len(SPARKS) - 1)] for mean in picked)


class Speed:
    """A rate over the last seconds.

    Args:
        span_s: over how many.
    """

    def __init__(self, span_s: float = 5.0) -> None:
        self._span_s = span_s
        self._marks: list[tuple[float, int]] = []

    def __call__(self, total: int, *, now_s: float | None = None) -> float:
        """Take the total so far; give its growth per second."""
        now_s = time.monotonic() if now_s is None else now_s
        self._marks = [mark for mark in self._marks if mark[0] >= now_s - self._span_s] + [(now_s, total)]
        (first_s, first), (last_s, last) = self._marks[0], self._marks[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0
