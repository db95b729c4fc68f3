"""Figures: what our plots share: colors, a plain frame, versions along the top, and a whole file or none."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

INK, FAINT, GRID = "#22262b", "#8a929c", "#e6e9ec"
MOST_TICKS = 8


def write_png(file: Path, *, title: str, height: float, draw: Callable[[Any], None]) -> None:
    """Write a figure, 9 inches wide.

    Args:
        file: replaced when it exists.
        title: above it.
        height: in inches.
        draw: is given the figure.

    Raises:
        ImportError: matplotlib is not there.
        OSError: the file cannot be written; nothing is left behind.
    """
    import matplotlib as mpl  # noqa: PLC0415 - an extra, and slow to load
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context({"font.size": 10, "text.color": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(9, height), dpi=150, layout="constrained")
        draw(figure)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        aside = file.with_name(f".tmp-{file.name}.{os.getpid()}")
        try:
            figure.savefig(aside, format="png")
            aside.replace(file)
        finally:
            aside.unlink(missing_ok=True)


def plain(axes: Any) -> None:
    """Lines across, and no frame above and to the right."""
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=FAINT, labelcolor=INK)


def mark_versions(axes: Any, first_seen: Mapping[int, float], *, span: float) -> None:
    """Ticks along the top: where a version was first seen to act; so far apart that numbers never overlap.

    Args:
        axes: whose top.
        first_seen: version -> place on the axis below; version 0 is none of ours.
        span: length of that axis.
    """
    chosen: list[int] = []
    for version, place in sorted(first_seen.items(), key=lambda item: item[1]):
        if version and (not chosen or place - first_seen[chosen[-1]] >= span / MOST_TICKS):
            chosen.append(version)
    if not chosen:
        return
    top = axes.secondary_xaxis("top")
    top.set_xticks([first_seen[version] for version in chosen], [str(version) for version in chosen])
    top.set_xlabel("policy version that acted")
    top.tick_params(colors=FAINT, labelcolor=INK)
    top.spines["top"].set_color(FAINT)
