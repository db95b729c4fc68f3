"""Durations as people write them: 90m, 24h, 1h30m, 2.5d."""

import re

UNITS_S = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
ACCEPTED = "a length of time such as 90s, 30m, 2h, 1h30m or 7d"

_PART = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(s|min|m|h|d|w)"


def seconds_of(text: str) -> float:
    """Seconds of ``text``, > 0.

    Raises:
        ValueError: it is no length of time.
    """
    seconds = sum(float(number) * UNITS_S[unit] for number, unit in re.findall(_PART, text))
    if not re.fullmatch(f"({_PART})+", text) or seconds <= 0:
        raise ValueError(f"{text!r} is not {ACCEPTED}")
    return seconds
