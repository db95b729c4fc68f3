"""What is done to a site, and when: it follows from the seed and the length alone."""

import random
from dataclasses import dataclass

STORM, CALM, END = 0.05, 0.55, 0.92
"""Shares of the run: from STORM on everything happens, from CALM on nothing ends the daemon any more, so
that its memory can be watched; at END clients stop, and what is left is worked off."""

PER_HOUR = {
    "kill": 70,
    "kill_online": 40,
    "stop": 12,
    "reload": 12,
    "freeze": 20,
    "pause": 12,
    "burst": 24,
    "step": 30,
    "fill": 24,
}
"""How often each thing happens in an hour of which it may happen all the time."""

AT_LEAST = {"kill": 3, "burst": 2, "step": 2, "fill": 2}
IN_CALM = ("burst", "step", "fill", "kill_online")
"""What goes on in the second half."""

SMALL_BURST, BURST = (300, 600), (2000, 4000)
FAR_S = 3 * 3600.0
"""The wall clock stays this close to where it was at first."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happens.

    Attributes:
        at_s: since the beginning.
        kind: a key of ``PER_HOUR``.
        value: files of a burst; seconds by which the clock is off from then on; seconds of the others.
        inodes: of ``fill``: it is they that run out.
        leave: of ``fill``: so many blocks or inodes stay free.
    """

    at_s: float
    kind: str
    value: float = 0.0
    inodes: bool = False
    leave: int = 0


def plan(seed: int, minutes: float) -> list[Event]:
    """Everything that will happen in a run of so many minutes, in order of time."""
    rng = random.Random(f"soak-{seed}")
    seconds = 60.0 * minutes
    events = []
    for kind, per_hour in PER_HOUR.items():
        last = END - 0.04 if kind in IN_CALM else CALM
        count = max(AT_LEAST.get(kind, 1), round(per_hour * minutes / 60.0 * (last - STORM)))
        slot = (last - STORM) / count  # one in each: they are spread, but never regular
        events += [
            _event(kind, seconds * (STORM + slot * (i + rng.random())), rng, number=i, minutes=minutes)
            for i in range(count)
        ]
    return sorted(events, key=lambda event: event.at_s)


def _event(kind: str, at_s: float, rng: random.Random, *, number: int, minutes: float) -> Event:
    if kind == "burst":
        return Event(at_s=at_s, kind=kind, value=rng.randint(*(BURST if minutes >= 10 else SMALL_BURST)))
    if kind == "step":
        return Event(at_s=at_s, kind=kind, value=rng.uniform(-FAR_S, FAR_S))
    if kind == "fill":
        leave = rng.choice([0, 0, 1, 4, 16])
        return Event(at_s=at_s, kind=kind, value=rng.uniform(1.0, 6.0), inodes=number % 2 == 1, leave=leave)
    if kind in ("freeze", "pause"):
        return Event(at_s=at_s, kind=kind, value=rng.uniform(0.5, 5.0))
    return Event(at_s=at_s, kind=kind)
