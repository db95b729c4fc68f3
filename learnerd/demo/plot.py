"""The learning curve of a demo as a picture."""

import os
from pathlib import Path
from typing import Any

from learnerd.demo.returns import TARGET_RETURN, WINDOW_EPISODES, Curve

INK, FAINT, DOTS, LINE, TARGET = "#22262b", "#8a929c", "#7aa6c8", "#0b4f8a", "#c2571a"
MOST_TICKS = 8


def write_plot(file: Path, curve: Curve, *, started_at_s: float, title: str) -> None:
    """Draw every episode's return, their running mean, and which version acted, as PNG.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    import matplotlib as mpl  # noqa: PLC0415 - an extra, and slow to load
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context({"font.size": 10, "text.color": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
        axes = figure.subplots()
        _draw(axes, curve, started_at_s)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        aside = file.with_name(f".tmp-{file.name}.{os.getpid()}")
        try:
            figure.savefig(aside, format="png")
            aside.replace(file)
        finally:
            aside.unlink(missing_ok=True)


def _draw(axes: Any, curve: Curve, started_at_s: float) -> None:
    seconds = [episode.at_s - started_at_s for episode in curve.episodes]
    returns = [episode.total_reward for episode in curve.episodes]
    axes.plot(
        seconds, returns, ".", color=DOTS, markersize=3.5, alpha=0.5, markeredgewidth=0, label="one episode"
    )
    axes.plot(seconds, curve.means, color=LINE, linewidth=2.2, label=f"mean of the last {WINDOW_EPISODES}")
    axes.axhline(TARGET_RETURN, color=TARGET, linewidth=1.2, linestyle=(0, (5, 3)))
    axes.annotate(
        f"solved at {TARGET_RETURN:.0f}",
        xy=(0, TARGET_RETURN),
        xycoords=axes.get_yaxis_transform(),
        xytext=(4, -4),
        textcoords="offset points",
        va="top",
        color=TARGET,
    )
    axes.set(xlabel="seconds since the start", ylabel="return of an episode (at most 500)", ylim=(0, 515))
    axes.set_xlim(0, max(seconds, default=1.0) * 1.01)
    axes.grid(axis="y", color="#e6e9ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=FAINT, labelcolor=INK)
    legend = axes.legend(loc="lower right", frameon=False)
    legend.legend_handles[0].set(alpha=1.0, markersize=6)
    _mark_versions(axes, curve, seconds)


def _mark_versions(axes: Any, curve: Curve, seconds: list[float]) -> None:
    """Ticks along the top: when a version was first seen to act."""
    first_seen = {
        episode.version: second
        for episode, second in reversed(list(zip(curve.episodes, seconds, strict=True)))
    }
    versions = sorted(version for version in first_seen if version > 0)
    if not versions:
        return
    end_s, chosen = max(seconds), [versions[0]]
    for version in versions[1:]:  # evenly over time, so that the numbers never overlap
        if first_seen[version] - first_seen[chosen[-1]] >= end_s / MOST_TICKS:
            chosen.append(version)
    top = axes.secondary_xaxis("top")
    top.set_xticks([first_seen[version] for version in chosen], [str(version) for version in chosen])
    top.set_xlabel("policy version that acted")
    top.tick_params(colors=FAINT, labelcolor=INK)
    top.spines["top"].set_color(FAINT)
