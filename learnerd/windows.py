"""Windows: times of the week, each a cron line and a length; whether now is inside, and until when.

A window begins when the wall clock shows its cron line, and lasts as long as it says by any clock. So where
summer time begins or ends within it, it ends an hour later or earlier by the wall clock. A beginning that the
change leaves out (02:30 in spring) comes as long after midnight as always, which the wall clock then calls
03:30; one that comes twice (02:30 in autumn) counts the first time.
"""

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from learnerd.cron import Cron
from learnerd.durations import UNITS_S, seconds_of

ACCEPTED = 'a cron line, "for" and a length, such as "0 18 * * mon-fri for 6h"'
MAX_LENGTH_S = 7 * UNITS_S["d"]
HORIZON_DAYS = 8
"""So far ahead windows that touch are put together; beyond, no end is told."""
SEARCH_DAYS = 8 * 366 + 1
"""So far ahead the next beginning is looked for: 29 February can be eight years away."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Begins at ``cron``, local time, and lasts ``length_s``."""

    cron: Cron
    length_s: float

    @classmethod
    def parse(cls, text: str) -> "Window":
        """Read a window such as "0 18 * * mon-fri for 6h".

        Raises:
            ValueError: naming the part that is wrong.
        """
        parts = re.split(r"\s+for\s+", text.strip())
        if len(parts) != 2:  # noqa: PLR2004 - beginning and length
            raise ValueError(f"a window is {ACCEPTED}")
        length_s = seconds_of(parts[1])
        if length_s > MAX_LENGTH_S:
            raise ValueError(f"{parts[1]!r} is longer than 7d")
        return cls(cron=Cron.parse(parts[0]), length_s=length_s)

    def beginnings(self, first: dt.date, days: int, zone: dt.tzinfo | None) -> Iterator[float]:
        """UTC seconds of those on ``days`` days from ``first`` on."""
        for number in range(days):
            day = first + dt.timedelta(days=number)
            if not self._is_on(day):
                continue
            for hour in sorted(self.cron.hours):
                for minute in sorted(self.cron.minutes):
                    # fold=0: the first of two, and a time that is left out is taken by the offset before it.
                    yield dt.datetime.combine(day, dt.time(hour, minute), tzinfo=zone).timestamp()

    def _is_on(self, day: dt.date) -> bool:
        cron = self.cron
        return day.day in cron.days and day.month in cron.months and day.isoweekday() % 7 in cron.weekdays


@dataclass(frozen=True, kw_only=True)
class Spell:
    """A time during which the answer is the same.

    Attributes:
        inside: whether it is inside of a window.
        since: UTC seconds of its beginning; None: longer ago than windows are looked at.
        until: of its end; None: none is in sight.
        valid_until: until when this may be kept.
    """

    inside: bool
    since: float | None
    until: float | None
    valid_until: float


class Calendar:
    """Says whether a moment is inside of one of ``windows``. Holds no state.

    Args:
        windows: they may overlap.
        zone: whose wall clock; None: this machine's.
    """

    def __init__(self, windows: Sequence[Window], zone: dt.tzinfo | None = None) -> None:
        self._windows = windows
        self._zone = zone

    def spell(self, now: float) -> Spell:
        """Tell the spell that ``now``, UTC seconds, is in."""
        today = dt.datetime.fromtimestamp(now, self._zone).date()
        horizon = now + HORIZON_DAYS * UNITS_S["d"]
        merged = self._merged(today)
        for begin, end in merged:
            if begin <= now < end:
                until = end if end < horizon else None
                return Spell(inside=True, since=begin, until=until, valid_until=min(end, horizon))
        later = [begin for begin, _ in merged if begin > now]
        until = later[0] if later else self._next(today, now)
        since = max((end for _, end in merged if end <= now), default=None)
        return Spell(inside=False, since=since, until=until, valid_until=until or horizon)

    def _merged(self, today: dt.date) -> list[tuple[float, float]]:
        """(begin, end) of the windows around ``today``; those that touch are one."""
        spans = []
        for window in self._windows:
            back = 2 + int(window.length_s // UNITS_S["d"])  # began before, or is moved by summer time
            first = today - dt.timedelta(days=back)
            begins = window.beginnings(first, back + 1 + HORIZON_DAYS + 1, self._zone)
            spans += [(begin, begin + window.length_s) for begin in begins]
        merged: list[tuple[float, float]] = []
        for begin, end in sorted(spans):
            if merged and begin <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        return merged

    def _next(self, today: dt.date, now: float) -> float | None:
        found = (
            next((begin for begin in window.beginnings(today, SEARCH_DAYS, self._zone) if begin > now), None)
            for window in self._windows
        )
        return min((begin for begin in found if begin is not None), default=None)


class QuietHours:
    """Says when nothing is learned: inside of ``quiet`` windows, and outside of ``train`` windows.

    Args:
        quiet: none: no quiet hours.
        train: None: always.
        zone: whose wall clock; None: this machine's.
    """

    def __init__(
        self, quiet: Sequence[Window], train: Sequence[Window] | None, zone: dt.tzinfo | None = None
    ) -> None:
        self._quiet = Calendar(quiet, zone)
        self._train = None if train is None else Calendar(train, zone)

    def spell(self, now: float) -> Spell:
        """Tell the spell that ``now``, UTC seconds, is in; ``inside``: it is quiet."""
        first = last = self._one(now)
        for _ in range(2 * HORIZON_DAYS):  # quiet hours may touch the end of a training window, and so on
            if not first.inside or last.until is None:
                break
            after = self._one(last.until)
            if not after.inside:
                break
            last = after
        else:
            last = replace(last, until=None)
        return replace(first, until=last.until)

    def _one(self, now: float) -> Spell:
        quiet = self._quiet.spell(now)
        if self._train is None:
            return quiet
        train = self._train.spell(now)
        valid_until = min(quiet.valid_until, train.valid_until)
        if quiet.inside:
            return replace(quiet, valid_until=valid_until)
        if not train.inside:
            return replace(train, inside=True, valid_until=valid_until)
        ends = [end for end in (quiet.until, train.until) if end is not None]
        return replace(train, inside=False, until=min(ends, default=None), valid_until=valid_until)
