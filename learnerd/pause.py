"""state/pause.json: that somebody wants the daemon to pause, since when, for how long and why.

Loads no NumPy. ``learnerd pause`` writes it and ``learnerd resume`` removes it, whether a daemon runs or
not; a daemon looks at it about once a second. One whose time is over means nothing.
"""

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE_NAME = "pause.json"
MAX_BYTES = 4096
MAX_REASON_CHARACTERS = 200


class BadPauseError(ValueError):
    """The file is no pause; its text says what is wrong with it."""


def boot_id() -> str:
    """Which boot this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def boot_s() -> float:
    """Seconds since the boot, with those in which the machine slept; nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, kw_only=True)
class Pause:
    """A pause that was asked for.

    Attributes:
        since: UTC seconds.
        for_s: how long; None: until ``resume``.
        reason: why, for people; "" when nobody said.
        boot, began_s: which boot it was asked for in, and its seconds then: a step of the clock neither
            ends a pause nor prolongs it, but by a boot.
    """

    since: float
    for_s: float | None
    reason: str
    boot: str
    began_s: float

    @classmethod
    def now(cls, *, for_s: float | None, reason: str) -> "Pause":
        """One that begins at this moment."""
        return cls(since=time.time(), for_s=for_s, reason=reason, boot=boot_id(), began_s=boot_s())

    @property
    def message(self) -> str:
        """For people."""
        return f"paused: {self.reason}" if self.reason else "paused"

    def left_s(self, *, wall_s: float, boot: str, boot_s: float) -> float:
        """Seconds until it is over; 0.0: it is; infinite: only ``resume`` ends it.

        Args:
            wall_s: now, UTC; what counts when the machine was booted since.
            boot: ``boot_id()``.
            boot_s: ``boot_s()``.
        """
        if self.for_s is None:
            return math.inf
        passed_s = boot_s - self.began_s if boot == self.boot else wall_s - self.since
        return min(self.for_s, max(0.0, self.for_s - passed_s))


def write_pause(state: Path, pause: Pause) -> None:
    """Make ``pause`` the one in force, durably.

    Raises:
        OSError: it could not be written; what was in force before is.
    """
    from experience.durable import write_atomic  # noqa: PLC0415 - loads NumPy

    state.mkdir(parents=True, exist_ok=True)
    write_atomic(state / FILE_NAME, json.dumps(asdict(pause)).encode() + b"\n")
    (state / FILE_NAME).chmod(0o644)  # root may have written it, under any umask: the daemon must read it


def read_pause(state: Path) -> Pause | None:
    """The pause that was asked for last, over or not; None when there is none.

    Raises:
        BadPauseError: the file holds something else.
        OSError: it cannot be read.
    """
    try:
        file = os.open(state / FILE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        data = os.read(file, MAX_BYTES + 1)
    finally:
        os.close(file)
    if len(data) > MAX_BYTES:
        raise BadPauseError(f"longer than {MAX_BYTES} bytes")
    try:
        return _checked(json.loads(data))
    except (ValueError, RecursionError, TypeError) as error:
        raise BadPauseError(str(error)) from None


def remove_pause(state: Path) -> bool:
    """End a pause; False when there is no file.

    Raises:
        OSError: it could not be removed.
    """
    try:
        (state / FILE_NAME).unlink()
    except FileNotFoundError:
        return False
    _fsync_folder(state)
    return True


def shown(reason: str) -> str:
    """``reason`` on one line, without control characters, cut to a length."""
    text = " ".join(reason.split())
    return "".join(c for c in text if c.isprintable())[:MAX_REASON_CHARACTERS]


def _checked(found: Any) -> Pause:
    if not isinstance(found, dict) or found.keys() != Pause.__dataclass_fields__.keys():
        raise BadPauseError(f"not an object of {', '.join(Pause.__dataclass_fields__)}")
    for name in ("since", "began_s", "for_s"):
        value = found[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15  # noqa: PLR2004
        if not is_number and not (name == "for_s" and value is None):
            raise BadPauseError(f"{name} is no number of seconds")
    if not isinstance(found["reason"], str) or not isinstance(found["boot"], str):
        raise BadPauseError("reason or boot is no text")
    return Pause(**{**found, "reason": shown(found["reason"])})


def _fsync_folder(folder: Path) -> None:
    from experience.durable import fsync_folder  # noqa: PLC0415 - loads NumPy

    fsync_folder(folder)
