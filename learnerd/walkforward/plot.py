"""The comparison as a picture: estimates part by part, and differences from the configuration as it is."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from learnerd.figures import FAINT, GRID, INK, plain, write_png
from learnerd.walkforward.results import Standing
from learnerd.walkforward.side_by_side import Comparison

BASELINE = "#22262b"
COLORS = ("#0b4f8a", "#c2571a", "#3b7d4f", "#8a4b9c", "#b8860b", "#5b8fb9")
MOST_LINES = len(COLORS)
"""Alternatives with a line of their own; those that differ most."""

ROW, TOP = 0.42, 3.6
"""Inches: of a difference, and of the rest."""

NAME_WIDTH = 34
"""Characters of a setting on one line."""


def write_plot(file: Path, found: Comparison) -> None:
    """Write a PNG.

    Raises:
        ImportError: matplotlib is not there.
        OSError: the file cannot be written; nothing is left behind.
    """
    rows = max(2.0, len(found.alternatives) + 0.5)

    def draw(figure: Any) -> None:
        top, bottom = figure.subplots(2, 1, height_ratios=[TOP, ROW * rows])
        _draw_parts(top, found)
        _draw_differences(bottom, found)

    write_png(file, title="What other settings would have learned", height=TOP + ROW * rows + 1.4, draw=draw)


def _draw_parts(axes: Any, found: Comparison) -> None:
    sizes = [part.episodes for part in found.history.parts]
    before = np.concatenate([[0], np.cumsum(sizes)])
    x = np.array([before[one.part] for one in found.judged])
    axes.plot(x, [one.played for one in found.judged], color=FAINT, linestyle=":", label="really earned")
    for i, color in _lines(found).items():
        standing = found.standings[i]
        values, lows, highs = (
            [getattr(one, name) for one in standing.by_part] for name in ("value", "low", "high")
        )
        axes.fill_between(x, lows, highs, color=color, alpha=0.10, linewidth=0)
        axes.plot(x, values, color=color, linewidth=1.8, label="" if i else found.alternatives[i].name)
        can_tell = np.array(standing.ess_by_part) >= found.history.config.gate.min_ess
        _mark(axes, x, np.array(values), can_tell, color=color)
    _bound(axes, found)
    axes.set(xlabel="episodes learned from before", ylabel="estimated return of the next part")
    axes.set_xlim(0, None)
    axes.legend(loc="lower right", frameon=False)
    plain(axes)


def _bound(axes: Any, found: Comparison) -> None:
    """The values decide what is shown; an interval may leave the picture."""
    drawn = [found.standings[i] for i in _lines(found)]
    values = [part.value for standing in drawn for part in standing.by_part]
    values += [one.played for one in found.judged]
    low, high = min(values), max(values)
    room = 0.35 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)


def _mark(axes: Any, x: Any, y: Any, can_tell: Any, *, color: str) -> None:
    """A full point where the episodes can tell, a hollow one where the estimate is a guess."""
    axes.plot(x[can_tell], y[can_tell], "o", color=color, markersize=5)
    axes.plot(x[~can_tell], y[~can_tell], "o", color=color, markersize=5, markerfacecolor="white")


def _lines(found: Comparison) -> dict[int, str]:
    """Position of each alternative that has a line -> its color; the configuration as it is comes first."""
    others = range(1, len(found.alternatives))
    by_size = sorted(others, key=lambda i: -abs(_difference(found.standings[i])))
    chosen = sorted(by_size[:MOST_LINES])
    return {0: BASELINE, **dict(zip(chosen, COLORS, strict=False))}


def _difference(standing: Standing) -> float:
    return 0.0 if standing.difference is None else standing.difference.value


def _draw_differences(axes: Any, found: Comparison) -> None:
    """Their colors and names are the legend of the lines above."""
    axes.axvline(0.0, color=INK, linewidth=1.0)
    colors = [_lines(found).get(i, FAINT) for i in range(1, len(found.alternatives))]
    for row, (standing, color) in enumerate(zip(found.standings[1:], colors, strict=True)):
        assert standing.difference is not None
        axes.plot([standing.difference.low, standing.difference.high], [row, row], color=color, linewidth=2.4)
        guess = standing.ess_fraction < found.history.config.gate.min_ess
        face = "white" if guess else color
        axes.plot(standing.difference.value, row, "o", color=color, markersize=7, markerfacecolor=face)
        where = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9}
        axes.annotate(standing.verdict, (1.01, row), **where)
    names = [textwrap.fill(one.name, NAME_WIDTH) for one in found.alternatives[1:]]
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("difference from the configuration as it is (hollow: effective share too small to tell)")
    plain(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for label, color in zip(axes.get_yticklabels(), colors, strict=True):
        label.set_color(color if color != FAINT else INK)
