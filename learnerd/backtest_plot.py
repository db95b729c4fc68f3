"""The backtest as a picture: summed profit with and without costs, drawdown, and which version acted."""

import datetime as dt
import os
from pathlib import Path
from typing import Any

import numpy as np

from learnerd.backtest import Ledger

INK, FAINT, NET, GROSS, FALL, GRID = "#22262b", "#8a929c", "#0b4f8a", "#9cb8cf", "#c2571a", "#e6e9ec"
MOST_TICKS = 8


def write_plot(file: Path, found: Ledger, *, title: str, unit: str) -> None:
    """Write a PNG.

    Raises:
        ImportError: matplotlib is not there. OSError: the file cannot be written; nothing is left behind.
    """
    import matplotlib as mpl  # noqa: PLC0415 - an extra, and slow to load
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context({"font.size": 10, "text.color": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(9, 6), dpi=150, layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        _draw_profit(top, found, unit)
        _draw_drawdown(bottom, found, unit)
        _mark_versions(top, found)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        aside = file.with_name(f".tmp-{file.name}.{os.getpid()}")
        try:
            figure.savefig(aside, format="png")
            aside.replace(file)
        finally:
            aside.unlink(missing_ok=True)


def _draw_profit(axes: Any, found: Ledger, unit: str) -> None:
    steps = np.arange(len(found.gross) + 1)
    if found.cost.any():
        axes.plot(steps, _summed(found.gross), color=GROSS, linewidth=1.4, label="before costs")
    axes.plot(steps, _summed(found.net), color=NET, linewidth=2.0, label="after costs")
    axes.axhline(0.0, color=FAINT, linewidth=0.8)
    axes.set_ylabel(f"profit, {unit}")
    axes.legend(loc="upper left", frameon=False)
    _plain(axes)


def _draw_drawdown(axes: Any, found: Ledger, unit: str) -> None:
    summed = _summed(found.net)
    below = summed - np.maximum.accumulate(summed)
    axes.fill_between(np.arange(len(summed)), below, 0.0, color=FALL, alpha=0.35, linewidth=0)
    axes.plot(np.arange(len(summed)), below, color=FALL, linewidth=1.0)
    first, last = (dt.datetime.fromtimestamp(at, tz=dt.UTC) for at in found.ended_at[[0, -1]])
    axes.set(ylabel=f"drawdown, {unit}", xlabel=f"steps, {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC")
    axes.set_xlim(0, len(summed) - 1)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=FAINT, labelcolor=INK)


def _mark_versions(axes: Any, found: Ledger) -> None:
    """Ticks along the top: when a version was first seen to act."""
    versions, first = np.unique(found.version, return_index=True)
    chosen: list[int] = []
    for i in np.argsort(first):  # evenly, so that the numbers never overlap
        if versions[i] and (not chosen or first[i] - first[chosen[-1]] >= len(found.version) / MOST_TICKS):
            chosen.append(int(i))
    if not chosen:
        return
    top = axes.secondary_xaxis("top")
    top.set_xticks([int(first[i]) for i in chosen], [str(versions[i]) for i in chosen])
    top.set_xlabel("policy version that acted")
    top.tick_params(colors=FAINT, labelcolor=INK)
    top.spines["top"].set_color(FAINT)


def _summed(values: Any) -> Any:
    return np.concatenate([[0.0], np.cumsum(values)])
