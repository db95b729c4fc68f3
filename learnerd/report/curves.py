"""Curves as inline SVG, in the look of the dashboard."""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, WIDE, TALL = 560, 150, 1146, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 8, 22

CURVES = (
    ("return_mean", "Return", "mean of each batch; the band is from its smallest to its largest"),
    ("loss", "Policy loss", "of the last update in each cycle"),
    ("value_loss", "Value loss", "how wrong the value network is, for returns of spread 1"),
    ("entropy", "Entropy", "how much the policy still tries, in nats"),
    ("kl", "KL", "how far an update moved the policy, in nats"),
    ("staleness_mean", "Staleness", "updates between acting and learning"),
    ("ess_fraction", "Effective share (ESS)", "of the batch that counts after correction, 0 to 1"),
    ("lag_s", "Lag", "seconds from drop to publish"),
    ("update_s", "Update", "seconds of training in each cycle"),
)

Point = tuple[float, float]


def curve_cards(columns: Mapping[str, Sequence[Any]]) -> str:
    """One card a curve; the first is wide, with its band."""
    cards = []
    for name, title, why in CURVES:
        wide = name == "return_mean"
        line = _points(columns, name)
        band = (_points(columns, "return_min"), _points(columns, "return_max")) if wide else ([], [])
        drawn = (
            curve(line, *band, width=WIDE if wide else WIDTH, height=TALL if wide else HEIGHT)
            if line
            else '<p class="note">no figure in this time</p>'
        )
        newest = number(line[-1][1]) if line else "-"
        cards.append(
            f'<article class="card{" wide" if wide else ""}"><div class="chart-head"><h2>{title}</h2>'
            f'<span class="chart-value">{newest}</span></div><p class="chart-why">{why}</p>{drawn}</article>'
        )
    return "".join(cards)


def curve(
    line: Sequence[Point],
    low_edge: Sequence[Point] = (),
    high_edge: Sequence[Point] = (),
    *,
    width: int,
    height: int,
) -> str:
    """One curve with its axes; ``line`` has at least one point."""
    values = [value for _, value in (*line, *low_edge, *high_edge)]
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low, high = low - pad, high + pad
    first, last = line[0][0], max(line[-1][0], line[0][0] + 1.0)

    def x(at: float) -> float:
        return LEFT + (at - first) / (last - first) * (width - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (height - TOP - BOTTOM)

    def path(points: Sequence[Point]) -> str:
        return "L".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img">']
    for value in ticks(low, high, 5 if height > HEIGHT else 3):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y(value) + 4}" text-anchor="end">{number(value)}</text>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        at = first + share * (last - first)
        label = moment(at, short=last - first)
        parts.append(f'<text x="{x(at)}" y="{height - 6}" text-anchor="{anchor}">{label}</text>')
    if len(low_edge) > 1:
        parts.append(f'<path class="band" d="M{path(high_edge)}L{path(low_edge[::-1])}Z"/>')
    parts.append(f'<path class="line" d="M{path(line)}"/>')
    parts.append(f'<circle class="dot" cx="{x(line[-1][0])}" cy="{y(line[-1][1])}" r="4.5"/></svg>')
    return "".join(parts)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two bounds, about ``most`` of them."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: Any) -> str:
    """A figure for people; "-" when unknown."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) and math.isfinite(value) else "-"


def moment(at: Any, *, short: float | None = None) -> str:
    """A time in UTC; as short as a span of ``short`` seconds allows."""
    if not isinstance(at, int | float):
        return "-"
    form = "%Y-%m-%d %H:%M:%S"
    if short is not None:
        form = "%H:%M:%S" if short < 7200 else "%m-%d %H:%M" if short < 14 * 86_400 else "%Y-%m-%d"  # noqa: PLR2004
    return escape(dt.datetime.fromtimestamp(at, tz=dt.UTC).strftime(form))


def _points(columns: Mapping[str, Sequence[Any]], name: str) -> list[Point]:
    pairs = zip(columns["at"], columns[name], strict=True)
    return [(at, value) for at, value in pairs if isinstance(value, int | float) and math.isfinite(value)]
