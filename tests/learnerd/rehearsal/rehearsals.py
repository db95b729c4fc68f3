"""What a rehearsal is; ``register`` puts each on the one list that tests go by."""

import contextlib
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Play = Callable[[Any, Any], Iterator[None]]
"""Given a site and a way to drop episodes: brings the cause about, yields, takes it away again."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """An alarm, and how to come by it.

    Attributes:
        alarm: its id.
        play: as above; the daemon runs when it yields.
        level: "alarm" or "notice".
        ends: it clears once the cause is gone; the others stand until a restart.
        sample: quick, and so part of every run of the tests.
    """

    alarm: str
    play: Play
    level: str = "alarm"
    ends: bool = True
    sample: bool = False

    @property
    def name(self) -> str:
        """The alarm, and which way to it."""
        return f"{self.alarm}-{self.play.__name__}"


REHEARSALS: list[Rehearsal] = []


def register(alarm: str, **options) -> Callable[[Play], Play]:
    """Put a play on the list; an alarm may have several."""

    def put(play: Play) -> Play:
        REHEARSALS.append(Rehearsal(alarm=alarm, play=play, **options))
        return play

    return put


SPACES = """
[policy]
observation_shape = [3]
action = { kind = "discrete", n = 2 }
"""
QUICK = """
[batch]
max_wait_s = 0.1
[admission]
settle_s = 0.1
[schedule]
rescan_s = 0.5
"""


@contextlib.contextmanager
def no_large_files(process, most_bytes=24_000):
    """As with a quota that is used up: the daemon's status still fits, a version or a shard does not."""
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def replaced_by_a_file(folder):
    """As after a hand that slipped: a file where a folder should be."""
    aside = folder.with_name(f"{folder.name}.moved")
    folder.rename(aside)
    folder.write_text("")
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)


def waiting_for_version(site, version):
    site.wait(lambda: (site.current() or 0) >= version, what=f"version {version}")
