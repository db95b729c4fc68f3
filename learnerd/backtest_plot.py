"""The backtest as a picture: summed profit with and without costs, drawdown, and which version acted."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np

from learnerd.backtest import Ledger
from learnerd.figures import FAINT, mark_versions, plain, write_png

NET, GROSS, FALL = "#0b4f8a", "#9cb8cf", "#c2571a"


def write_plot(file: Path, found: Ledger, *, title: str, unit: str) -> None:
    """Write a PNG.

    Raises:
        ImportError: matplotlib is not there.
        OSError: the file cannot be written; nothing is left behind.
    """

    def draw(figure: Any) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        _draw_profit(top, found, unit)
        _draw_drawdown(bottom, found, unit)
        versions, first = np.unique(found.version, return_index=True)
        first_seen = dict(zip(versions.tolist(), first.tolist(), strict=True))
        mark_versions(top, first_seen, span=len(found.version))

    write_png(file, title=title, height=6, draw=draw)


def _draw_profit(axes: Any, found: Ledger, unit: str) -> None:
    steps = np.arange(len(found.gross) + 1)
    if found.cost.any():
        axes.plot(steps, _summed(found.gross), color=GROSS, linewidth=1.4, label="before costs")
    axes.plot(steps, _summed(found.net), color=NET, linewidth=2.0, label="after costs")
    axes.axhline(0.0, color=FAINT, linewidth=0.8)
    axes.set_ylabel(f"profit, {unit}")
    axes.legend(loc="upper left", frameon=False)
    plain(axes)


def _draw_drawdown(axes: Any, found: Ledger, unit: str) -> None:
    summed = _summed(found.net)
    below = summed - np.maximum.accumulate(summed)
    axes.fill_between(np.arange(len(summed)), below, 0.0, color=FALL, alpha=0.35, linewidth=0)
    axes.plot(np.arange(len(summed)), below, color=FALL, linewidth=1.0)
    first, last = (dt.datetime.fromtimestamp(at, tz=dt.UTC) for at in found.ended_at[[0, -1]])
    axes.set(ylabel=f"drawdown, {unit}", xlabel=f"steps, {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC")
    axes.set_xlim(0, len(summed) - 1)
    plain(axes)


def _summed(values: Any) -> Any:
    return np.concatenate([[0.0], np.cumsum(values)])
