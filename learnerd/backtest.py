"""Backtest: what trading logs earned: profit, Sharpe ratio, drawdown, tail, wins, turnover. Loads no torch.

A step's reward is its profit before costs, in the client's unit (pips, money, or a fraction of the
capital). The position that a step holds follows from its action; a change of it costs ``cost`` a unit.
Segments of one session
follow each other: the position is carried over. A session, or a piece whose predecessor is not in the
archive, begins flat.
"""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.episode import Episode
from learnerd.errors import LearnerdError

Float64 = NDArray[np.float64]

TAIL = 0.05
"""Share of the steps that CVaR looks at, the worst ones."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Every step of every session, sorted by the time at which its segment ended (UTC).

    Attributes:
        ended_at: [N] seconds since 1970.
        version: [N] that acted; 0: none of ours.
        gross: [N] profit before costs.
        traded: [N] units of position bought or sold.
        cost: [N] of that.
        position: [N] held after the action.
    """

    ended_at: Float64
    version: NDArray[np.int64]
    gross: Float64
    traded: Float64
    cost: Float64
    position: Float64

    @property
    def net(self) -> Float64:
        """[N] profit after costs."""
        return self.gross - self.cost


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures of one group of steps; money in the rewards' unit.

    Attributes:
        group: a version, a day or week, or "all".
        steps: how many.
        profit: after costs.
        costs: of trading.
        sharpe: mean / standard deviation (n - 1) of the steps' profits after costs, times √(steps a year) if
            that is known; None where they do not vary.
        max_drawdown: largest fall of the summed profit below its highest value before, which is at least 0.
        cvar: mean profit of the worst 5 % of the steps, rounded up to whole ones (Rockafellar & Uryasev
            2000).
        win_rate: share of steps that gained among those that gained or lost; None where none did.
        turnover: units bought or sold.
    """

    group: str
    steps: int
    profit: float
    costs: float
    sharpe: float | None
    max_drawdown: float
    cvar: float
    win_rate: float | None
    turnover: float


def ledger(episodes: Sequence[Episode], positions: Mapping[int, float] | None, *, cost: float) -> Ledger:
    """Lay the segments of all sessions out as steps.

    Args:
        episodes: archived segments, in any order, each once.
        positions: action -> position; None: the action is the position, of several numbers the first.
        cost: of one unit bought or sold, in the rewards' unit.

    Raises:
        LearnerdError: an action has no position.
    """
    pieces = []
    held: dict[tuple[str, str, str], tuple[int, float]] = {}
    for episode in sorted(episodes, key=lambda e: (e.client_id, e.episode_id, e.agent_id, e.segment)):
        name = (episode.client_id, episode.episode_id, episode.agent_id)
        before, position = held.get(name, (-1, 0.0))
        start = position if episode.segment == before + 1 else 0.0
        held_after = _positions(episode, positions)
        traded = np.abs(np.diff(held_after, prepend=start))
        held[name] = (episode.segment, float(held_after[-1]))
        pieces.append((episode, held_after, traded))
    pieces.sort(key=lambda piece: (_ended_at(piece[0]), piece[0].segment))
    traded = np.concatenate([piece[2] for piece in pieces])
    return Ledger(
        ended_at=np.concatenate([np.full(e.n_steps, _ended_at(e)) for e, _, _ in pieces]),
        version=np.concatenate([_versions(e) for e, _, _ in pieces]),
        gross=np.concatenate([e.reward for e, _, _ in pieces]),
        traded=traded,
        cost=traded * cost,
        position=np.concatenate([piece[1] for piece in pieces]),
    )


def rows(found: Ledger, *, per: str, steps_per_year: float | None = None) -> list[Row]:
    """Figures a group and of all, groups in the order of their first step.

    Args:
        found: at least one step.
        per: "version", "day" or "week" (UTC, of the segment's end; weeks by ISO 8601).
        steps_per_year: annualizes the Sharpe ratio; None: it is per step.
    """
    names = _groups(found, per)
    order = list(dict.fromkeys(names.tolist()))
    if per == "version":
        order.sort(key=int)
    groups = [(name, names == name) for name in order]
    every = np.ones(len(names), bool)
    return [_row(name, found, chosen, steps_per_year) for name, chosen in [*groups, ("all", every)]]


def sharpe(net: Float64, steps_per_year: float | None) -> float | None:
    """Sharpe 1994: mean over standard deviation of the profits, no riskless rate taken off."""
    if len(net) < 2 or not net.std(ddof=1) > 0.0:  # noqa: PLR2004 - a deviation needs two
        return None
    return float(net.mean() / net.std(ddof=1) * math.sqrt(steps_per_year or 1.0))


def max_drawdown(net: Float64) -> float:
    """Largest fall of the summed profit below its highest value before, which is at least 0."""
    summed = np.concatenate([[0.0], np.cumsum(net)])
    return float((np.maximum.accumulate(summed) - summed).max())


def cvar(net: Float64, tail: float = TAIL) -> float:
    """Mean of the worst ``tail`` of the profits, rounded up to whole steps."""
    worst = math.ceil(tail * len(net))
    return float(np.sort(net)[:worst].mean())


def _row(name: str, found: Ledger, chosen: NDArray[np.bool_], steps_per_year: float | None) -> Row:
    net = found.net[chosen]
    decided = int((net != 0.0).sum())
    return Row(
        group=name,
        steps=len(net),
        profit=float(net.sum()),
        costs=float(found.cost[chosen].sum()),
        sharpe=sharpe(net, steps_per_year),
        max_drawdown=max_drawdown(net),
        cvar=cvar(net),
        win_rate=float((net > 0.0).sum()) / decided if decided else None,
        turnover=float(found.traded[chosen].sum()),
    )


def _groups(found: Ledger, per: str) -> NDArray[Any]:
    if per == "version":
        return found.version.astype(str)
    days = {at: _period(at, per) for at in np.unique(found.ended_at).tolist()}
    return np.array([days[at] for at in found.ended_at.tolist()])


def _period(at: float, per: str) -> str:
    date = dt.datetime.fromtimestamp(at, tz=dt.UTC).date()
    if per == "day":
        return date.isoformat()
    year, week, _ = date.isocalendar()
    return f"{year}-W{week:02d}"


def _positions(episode: Episode, positions: Mapping[int, float] | None) -> Float64:
    action = episode.action if episode.action.ndim == 1 else episode.action[:, 0]
    if positions is None:
        return action.astype(np.float64)
    unknown = set(np.unique(action).tolist()) - set(positions)
    if unknown:
        accepted = ", ".join(f"{action}={position:g}" for action, position in positions.items())
        raise LearnerdError(
            f"--position: episode {episode.episode_id} has action {min(unknown)}; named: {accepted}"
        )
    return np.array([positions[one] for one in action.tolist()])


def _versions(episode: Episode) -> NDArray[np.int64]:
    if episode.policy_version_step is not None:
        return episode.policy_version_step
    return np.full(episode.n_steps, episode.policy_version or 0, np.int64)


def _ended_at(episode: Episode) -> float:
    return episode.ingested_at if episode.ended_at is None else episode.ended_at
