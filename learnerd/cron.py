"""Cron: the five fields of a cron line as sets of numbers. Weekdays are cron's: 0 and 7 are Sunday.

APScheduler counts weekdays from Monday, so it is given names. Where both day of month and weekday are
restricted, both must match, as there.
"""

import re
from dataclasses import dataclass

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

_PART = re.compile(r"(?:(\*)|([0-9]{1,2}|[a-z]{3})(?:-([0-9]{1,2}|[a-z]{3}))?)(?:/([1-9][0-9]{0,2}))?")


@dataclass(frozen=True, kw_only=True)
class Cron:
    """When a cron line matches; weekdays are 0 (Sunday) to 6."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    @classmethod
    def parse(cls, line: str) -> "Cron":
        """Read a line such as "30 3 * * mon-fri".

        Raises:
            ValueError: naming the part that is wrong.
        """
        fields = line.lower().split()
        if len(fields) != 5:  # noqa: PLR2004 - minute hour day month weekday
            raise ValueError("a cron line has five fields: minute hour day month weekday")
        minute, hour, day, month, weekday = fields
        return cls(
            minutes=_numbers(minute, 0, 59),
            hours=_numbers(hour, 0, 23),
            days=_numbers(day, 1, 31),
            months=_numbers(month, 1, 12, dict(zip(MONTHS, range(1, 13), strict=True))),
            weekdays=_weekdays(weekday),
        )

    def apscheduler(self) -> dict[str, str]:
        """Arguments of APScheduler's CronTrigger."""
        found = {"minute": self.minutes, "hour": self.hours, "day": self.days, "month": self.months}
        fields = {name: ",".join(map(str, sorted(numbers))) for name, numbers in found.items()}
        return {**fields, "day_of_week": ",".join(WEEKDAYS[number] for number in sorted(self.weekdays))}


def _weekdays(field: str) -> frozenset[int]:
    """A range may go over the week's end: fri-mon."""
    names = dict(zip(WEEKDAYS, range(7), strict=True))
    found: set[int] = set()
    for part in field.split(","):
        first, _, last = part.partition("-")
        low, high = names.get(first, -1), names.get(last, -1)
        if low > high >= 0:
            found.update(number % 7 for number in range(low, high + 8))
        else:
            found.update(number % 7 for number in _numbers(part, 0, 6 if "*" in part else 7, names))
    return frozenset(found)


def _numbers(field: str, low: int, high: int, names: dict[str, int] | None = None) -> frozenset[int]:
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is no cron field")
        star, first, last, step = match.groups()
        begin = low if star else _number(first, names)
        end = high if star or (step and last is None) else _number(last or first, names)
        if not low <= begin <= end <= high:
            raise ValueError(f"{part!r} is outside {low}-{high}")
        found.update(range(begin, end + 1, int(step or 1)))
    return frozenset(found)


def _number(text: str, names: dict[str, int] | None) -> int:
    if text.isdecimal():
        return int(text)
    if text not in (names or {}):
        raise ValueError(f"{text!r} is no name here")
    assert names is not None
    return names[text]
