"""Starvation: a client of which nothing is learned any more, and what it can do about that."""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

MOST_CLIENTS = 1024
"""Clients with refused episodes that are remembered; the one refused longest ago is forgotten first."""

SHOWN = 3

REMEDIES = {
    "too_stale": "take up new versions more often, between episodes; or raise [admission] max_staleness",
    "too_old": "deposit sooner, and check the clock and ended_at; or raise [admission] max_age_s",
    "future": "set the clock of the client's machine, and check ended_at",
    "unknown_version": "act with versions of this state folder and note their numbers; 0 when none acted",
    "rejected_version": "take up the newest version: the one that acted was rolled back",
    "logp_mismatch": (
        "log the probability that the noted version gives; a client that acts with a temperature or epsilon "
        "of its own leaves policy_version out; or raise [admission] logp_tolerance (0: not checked)"
    ),
    "observation_width": 'send [policy] observation_shape; or set [admission] width = "padded"',
    "observation_space": "send observations as in [policy] observation; another space needs another state",
    "action_space": "send actions as in [policy] action; another action space needs another state folder",
    "mask": "send one column an action, and allow the action that was taken",
    "out_of_range": "write what is missing as 0 with a flag beside it, not as a huge number",
    "incomplete": "write an end, or at least two observations",
    "conflicting_duplicate": "give each episode an id of its own",
}
"""What to do, by the reason of most refusals."""


@dataclass(frozen=True, kw_only=True)
class Starved:
    """Text for the alarm ``client_starved``."""

    message: str
    remedy: str


class Starvation:
    """Counts refused episodes by client, since the last one that was learned.

    Args:
        episodes: so many refused in a row are starvation; 0: never.
    """

    def __init__(self, episodes: int) -> None:
        self._episodes = episodes
        self._refused: OrderedDict[str, deque[str]] = OrderedDict()

    def refused(self, client_id: str, reason: str) -> None:
        """An episode was refused, for another reason than that it is known already."""
        if not self._episodes:
            return
        self._refused.setdefault(client_id, deque(maxlen=self._episodes)).append(reason)
        self._refused.move_to_end(client_id)
        if len(self._refused) > MOST_CLIENTS:
            self._refused.popitem(last=False)

    def learned(self, client_ids: Iterable[str]) -> None:
        """Episodes of these clients were learned from."""
        for client_id in client_ids:
            self._refused.pop(client_id, None)

    def starved(self, waiting: Iterable[str]) -> Starved | None:
        """Who starves; None when nobody does.

        Args:
            waiting: clients with admitted episodes that are to be learned from.
        """
        found = {
            client_id: Counter(reasons).most_common(1)[0]
            for client_id, reasons in self._refused.items()
            if len(reasons) == self._episodes
        }
        if found:
            for client_id in waiting:
                found.pop(client_id, None)
        if not found:
            return None
        shown = [
            f"{_name(client_id)} ({count} of its last {self._episodes}: {reason})"
            for client_id, (reason, count) in list(found.items())[:SHOWN]
        ]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        reasons = dict.fromkeys(reason for reason, _ in found.values())
        return Starved(
            message=f"every episode is refused of {', '.join(shown)}{more}",
            remedy="; ".join(f"{reason}: {_remedy(reason)}" for reason in reasons),
        )


def _name(client_id: str) -> str:
    return f"client {client_id!r}" if client_id else "clients without a client_id"


def _remedy(reason: str) -> str:
    return REMEDIES.get(
        reason, f"see the rows in refused/{reason}: each names field, value and what is accepted"
    )
