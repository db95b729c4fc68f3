"""Trend: the last day's returns on one line, for people. Loads no NumPy."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from learnerd.history import DAY_S, read_points

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = ".:-=+*#@"
WIDTH = 40


@dataclass(frozen=True, kw_only=True)
class Trend:
    """Mean returns over spans of equal length, oldest first.

    Attributes:
        returns: at most ``WIDTH``.
        span_s: from the first to the last.
    """

    returns: Sequence[float]
    span_s: float


def read_trend(state: Path) -> Trend | None:
    """The trend up to the last cycle; None when there is none, or it cannot be read: it is an extra."""
    try:
        found = read_points(state, last_s=DAY_S, points=WIDTH, names=("at", "return_mean"))
    except sqlite3.Error:
        return None
    points = [
        (at, value) for at, value in zip(found["at"], found["return_mean"], strict=True) if value is not None
    ]
    if len(points) < 2:  # noqa: PLR2004 - one point is no trend
        return None
    return Trend(returns=[value for _, value in points], span_s=points[-1][0] - points[0][0])


def sparkline(values: Sequence[float], encoding: str | None = "utf-8") -> str:
    """One character a value, by its height between the lowest and the highest; ASCII where need be."""
    try:
        BLOCKS.encode(encoding or "ascii")
    except UnicodeEncodeError:
        blocks = PLAIN
    else:
        blocks = BLOCKS
    low, high = min(values), max(values)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    middle = len(blocks) // 2 if scale == 0.0 else 0
    return "".join(blocks[middle + round((value - low) * scale)] for value in values)
