"""Diverging: which episodes of a batch make its update go wrong, so that the others are learned."""

from collections.abc import Callable, Sequence

from experience.episode import Episode

GoesWell = Callable[[Sequence[Episode]], bool]
"""Trains on some episodes, and tells whether everything stayed finite and within its limits."""


def diverging(episodes: Sequence[Episode], goes_well: GoesWell) -> list[Episode]:
    """Halve ``episodes``, whose update went wrong, until those to blame are found.

    Takes about 2 · log2(n) trials for each of them. Where each half alone goes well, no single episode is
    to blame, and all of them are.
    """
    if len(episodes) == 1:
        return list(episodes)
    middle = len(episodes) // 2
    halves = [half for half in (episodes[:middle], episodes[middle:]) if not goes_well(half)]
    return [episode for half in halves for episode in diverging(half, goes_well)] or list(episodes)
