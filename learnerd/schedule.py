"""Schedule: may a cycle begin now, and if not: why, and until when?

Each guard answers for one reason; ``GUARDS`` lists them. While any of them holds the daemon back it claims
files, so that their age stands still, but reads none, learns nothing and publishes nothing.
"""

import datetime as dt
import errno
import fcntl
import itertools
import math
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from learnerd.clock import Clock
from learnerd.config import Config
from learnerd.exit_codes import ExitCode
from learnerd.pause import FILE_NAME as PAUSE_FILE
from learnerd.pause import BadPauseError, Pause, boot_id, boot_s, read_pause
from learnerd.windows import QuietHours, Spell, Window

MORE = 10
"""A tenth above ``min_free_bytes`` learning goes on, so that it does not stop again at once."""

MAX_BUSY_FILES = 256
"""Names in spool/busy that are looked at: clients share the folder, one must not keep the daemon at it."""

LOCK_SUFFIX = ".lock"

ROUNDING_S = 2.0
"""The end of a pause is told from two clocks: by less than this it has not changed."""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Why no cycle may begin.

    Attributes:
        why: "paused", "disk_low", "quiet" or "busy".
        message: the same for people.
        since: UTC seconds; None: since it was seen first.
        until: UTC seconds at which it ends by itself; None: nobody knows.
    """

    why: str
    message: str
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, kw_only=True)
class Concern:
    """Something about a guard that an operator should look at: an alarm."""

    id: str
    message: str
    remedy: str


Answer = tuple[Hold | None, tuple[Concern, ...]]


class Guard(Protocol):
    """Looks again each time it is asked; must be quick, and never raise for what it finds."""

    def __init__(self, config: Config, clock: Clock) -> None: ...

    def look(self) -> Answer:
        """Say whether a cycle may begin, and what else is the matter."""


class PauseGuard:
    """``learnerd pause``."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._state, self._clock, self._boot = config.paths.state, clock, boot_id()
        self._seen: tuple[int, int] | None = None
        self._pause: Pause | None = None
        self._concern: Concern | None = None

    def look(self) -> Answer:
        """Read the file when it is another one than before."""
        try:
            status = os.stat(self._state / PAUSE_FILE)  # noqa: PTH116 - quicker than Path.stat, each round
            seen = (status.st_ino, status.st_mtime_ns)
        except OSError:
            seen = None
        if seen != self._seen:
            self._seen = seen
            self._read()
        if self._pause is None:
            return None, () if self._concern is None else (self._concern,)
        wall_s = self._clock.wall()
        left_s = self._pause.left_s(wall_s=wall_s, boot=self._boot, boot_s=boot_s())
        if left_s == 0.0:
            return None, ()
        until = None if left_s == math.inf else wall_s + left_s
        return Hold(why="paused", message=self._pause.message, since=self._pause.since, until=until), ()

    def _read(self) -> None:
        self._pause = self._concern = None
        try:
            self._pause = read_pause(self._state)
        except (BadPauseError, OSError) as error:
            if isinstance(error, OSError):
                self._seen = None  # it may be readable at the next look
            self._concern = Concern(
                id="pause_unreadable",
                message=f"{self._state / PAUSE_FILE} is no pause, so nothing is paused: {error}",
                remedy="`learnerd pause` again, or `learnerd resume`, which removes it",
            )


class DiskGuard:
    """``[disk] min_free_bytes``, on the file systems of spool and state.

    Args:
        config: where they are, and the bound.
        clock: unused.
        statvfs: given by tests.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,  # noqa: ARG002 - every guard takes both
        statvfs: Callable[[Path], os.statvfs_result] = os.statvfs,
    ) -> None:
        self._folders = {"spool": config.paths.spool, "state": config.paths.state}
        self._min_bytes = config.disk.min_free_bytes
        self._statvfs = statvfs
        self._low = False

    def look(self) -> Answer:
        """Ask both file systems; once low, it takes a little more than the bound to go on."""
        wanted = self._min_bytes + (self._min_bytes // MORE if self._low else 0)
        found = {name: self._free_bytes(folder) for name, folder in self._folders.items()}
        short = [name for name, free_bytes in found.items() if free_bytes < wanted]
        self._low = bool(short)
        if not short:
            return None, ()
        place = min(short, key=lambda name: found[name])
        message = (
            f"{_bytes(found[place])} free for the {place}, {self._folders[place]}; it takes {_bytes(wanted)}"
        )
        remedy = (
            "free space, lower keep_bytes in [store], [archive] and [quarantine], or lower [disk] "
            "min_free_bytes; files wait, nothing is lost, and learning goes on by itself"
        )
        return Hold(why="disk_low", message=message), (
            Concern(id="disk_low", message=message, remedy=remedy),
        )

    def _free_bytes(self, folder: Path) -> float:
        try:
            found = self._statvfs(folder)
        except OSError:
            return math.inf  # what is wrong there is told by whoever needs the folder
        return found.f_bavail * found.f_frsize


class QuietGuard:
    """``[schedule] quiet`` and ``train``."""

    def __init__(self, config: Config, clock: Clock, zone: dt.tzinfo | None = None) -> None:
        schedule = config.schedule
        train = None if schedule.train == "always" else [Window.parse(text) for text in schedule.train]
        self._hours = QuietHours([Window.parse(text) for text in schedule.quiet], train, zone)
        self._clock = clock
        self._known: tuple[float, Spell] | None = None

    def look(self) -> Answer:
        """Ask the calendar when its last answer is over, or the clock was set back before it."""
        now = self._clock.wall()
        if self._known is None or not self._known[0] <= now < self._known[1].valid_until:
            self._known = now, self._hours.spell(now)
        spell = self._known[1]
        if not spell.inside:
            return None, ()
        message = "quiet hours, or outside of the training windows ([schedule])"
        return Hold(why="quiet", message=message, since=spell.since, until=spell.until), ()


class BusyGuard:
    """Files in spool/busy, by which a game says that it plays.

    A name that ends with .lock counts while somebody holds an exclusive flock(2) on it, which ends with its
    process; any other counts until ``[schedule] busy_max_s`` after it was touched last.
    """

    def __init__(self, config: Config, clock: Clock) -> None:
        self._folder, self._clock = config.paths.spool / "busy", clock
        self._max_s = config.schedule.busy_max_s

    def look(self) -> Answer:
        """List the folder."""
        found: dict[str, list[str]] = {"busy": [], "free": [], "stale": [], "unreadable": []}
        try:
            with os.scandir(self._folder) as scan:
                named = (entry for entry in scan if not entry.name.startswith("."))
                entries = sorted(itertools.islice(named, MAX_BUSY_FILES), key=lambda entry: entry.name)
        except OSError:
            entries = []
        for entry in entries:
            is_lock = entry.name.endswith(LOCK_SUFFIX)
            found[_lock_of(Path(entry.path)) if is_lock else self._age_of(entry)].append(entry.name)
        hold = Hold(why="busy", message=f"busy: {_names(found['busy'])}") if found["busy"] else None
        return hold, tuple(self._concerns(found))

    def _age_of(self, entry: "os.DirEntry[str]") -> str:
        """A time ahead of the clock is as old as it is ahead: else it would hold for years."""
        try:
            age_s = abs(self._clock.wall() - entry.stat(follow_symlinks=False).st_mtime)
        except OSError:
            return "free"  # removed just now
        return "busy" if age_s <= self._max_s else "stale"

    def _concerns(self, found: dict[str, list[str]]) -> Iterator[Concern]:
        if found["stale"]:
            yield Concern(
                id="busy_stale",
                message=f"{_names(found['stale'])} in {self._folder}: not touched for {self._max_s:g} s, "
                "and ignored",
                remedy="if its client has ended, remove it; else let the client touch it more often, or hold "
                "a lock on a name that ends with .lock, or raise [schedule] busy_max_s",
            )
        if found["unreadable"]:
            yield Concern(
                id="busy_unreadable",
                message=f"{_names(found['unreadable'])} in {self._folder} cannot be opened, and is ignored",
                remedy="let its client make it readable for the daemon's user: umask 027",
            )


GUARDS: tuple[type[Guard], ...] = (PauseGuard, DiskGuard, QuietGuard, BusyGuard)
"""Each is asked by the daemon, in this order."""

FINITE_GUARDS: tuple[type[Guard], ...] = (PauseGuard, DiskGuard)
"""Those that ``run --once`` and ``--until-idle`` ask too: they were called to run now, whatever the hour."""


SCHEDULE_ALARMS = frozenset({"pause_unreadable", "disk_low", "busy_stale", "busy_unreadable"})
"""Alarms that guards raise; each is taken back when its guard says so no more."""


class Schedule:
    """Asks every guard.

    Args:
        config: what the guards go by.
        clock: the daemon's; told when the daemon is held back, so that nothing in hand ages meanwhile.
        finite: for a run that ends by itself.

    Attributes:
        holds: why no cycle may begin; () when one may.
        concerns: alarms.
    """

    def __init__(self, config: Config, *, clock: Clock, finite: bool = False) -> None:
        self._clock = clock
        self._guards = [guard(config, clock) for guard in (FINITE_GUARDS if finite else GUARDS)]
        self.holds: tuple[Hold, ...] = ()
        self.concerns: tuple[Concern, ...] = ()

    @property
    def held(self) -> bool:
        """Whether no cycle may begin."""
        return bool(self.holds)

    def look(self) -> bool:
        """Ask; return whether anything is other than before."""
        before = self.holds, self.concerns
        since = {hold.why: hold.since for hold in self.holds}
        answers = [guard.look() for guard in self._guards]
        self.concerns = tuple(concern for _, concerns in answers for concern in concerns)
        self.holds = tuple(
            replace(hold, since=since.get(hold.why) or self._clock.wall()) if hold.since is None else hold
            for hold, _ in answers
            if hold is not None
        )
        self._clock.stop_aging(stopped=self.held)
        return _differ(before[0], self.holds) or _ids(before[1]) != _ids(self.concerns)

    @property
    def disk_is_low(self) -> bool:
        """Whether room is wanted."""
        return any(hold.why == "disk_low" for hold in self.holds)

    def exit_code(self) -> ExitCode:
        """What a run that ends by itself returns when it could not begin."""
        return ExitCode.RETRYABLE if self.disk_is_low else ExitCode.NOTHING_TO_DO


def _ids(concerns: tuple[Concern, ...]) -> list[str]:
    return [concern.id for concern in concerns]


def _differ(before: tuple[Hold, ...], after: tuple[Hold, ...]) -> bool:
    """Whether there is something to tell at once: not each byte that comes free."""
    told = [
        [(hold.why, "" if hold.why == "disk_low" else hold.message) for hold in one]
        for one in (before, after)
    ]
    if told[0] != told[1]:
        return True
    ends = [(one.until or 0.0, other.until or 0.0) for one, other in zip(before, after, strict=True)]
    return any(abs(one - other) > ROUNDING_S for one, other in ends)


def _lock_of(path: Path) -> str:
    """Whether somebody holds it exclusively. Nothing is waited for, no link is followed."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return "free" if error.errno == errno.ENOENT else "unreadable"
    try:
        if stat.S_ISREG(os.fstat(file).st_mode):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go of with the descriptor
    except BlockingIOError:
        return "busy"
    except OSError:
        return "unreadable"
    finally:
        os.close(file)
    return "free"


def _names(names: list[str]) -> str:
    """The first few, as text that no terminal obeys."""
    told = ", ".join(repr(os.fsencode(name).decode("utf-8", "replace")) for name in names[:3])
    return told if len(names) <= 3 else f"{told} and {len(names) - 3} more"  # noqa: PLR2004


def _bytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
