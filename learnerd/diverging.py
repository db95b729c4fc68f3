"""Diverging: which episodes of a batch make its update non-finite, so that the others are learned."""

from collections.abc import Callable, Sequence

from experience.episode import Episode

StaysFinite = Callable[[Sequence[Episode]], bool]
"""Trains on some episodes, and tells whether everything stayed finite."""


def diverging(episodes: Sequence[Episode], stays_finite: StaysFinite) -> list[Episode]:
    """Halve ``episodes``, whose update diverged, until those to blame are found.

    Takes about 2 · log2(n) trials for each of them. Where each half alone stays finite, no single episode is
    to blame, and all of them are.
    """
    if len(episodes) == 1:
        return list(episodes)
    middle = len(episodes) // 2
    halves = [half for half in (episodes[:middle], episodes[middle:]) if not stays_finite(half)]
    return [episode for half in halves for episode in diverging(half, stays_finite)] or list(episodes)
