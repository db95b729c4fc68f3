"""The learning curve of a demo as a picture."""

from pathlib import Path
from typing import Any

from learnerd.demo.returns import TARGET_RETURN, WINDOW_EPISODES, Curve
from learnerd.figures import mark_versions, plain, write_png

DOTS, LINE, TARGET = "#7aa6c8", "#0b4f8a", "#c2571a"


def write_plot(file: Path, curve: Curve, *, started_at_s: float, title: str) -> None:
    """Draw every episode's return, their running mean, and which version acted, as PNG.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    write_png(file, title=title, height=5, draw=lambda figure: _draw(figure.subplots(), curve, started_at_s))


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
    plain(axes)
    legend = axes.legend(loc="lower right", frameon=False)
    legend.legend_handles[0].set(alpha=1.0, markersize=6)
    seen = reversed(list(zip(curve.episodes, seconds, strict=True)))
    first_seen = {episode.version: second for episode, second in seen}
    mark_versions(axes, first_seen, span=max(seconds, default=0.0))
