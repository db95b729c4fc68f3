"""Foresight: what the rules of admission say of files that came together, found for all of them at once.

Most of it is a forward pass of the version that acted: over sixteen episodes it takes two thirds of what
sixteen passes take.
"""

from collections.abc import Callable, Sequence

from experience.admission import Rules, Sight, admit_all
from experience.episode import Episode
from experience.errors import Problem

Sights = Callable[[], Sequence[Sight]]
"""When and beside which versions each episode is looked at; asked for only where it is needed."""


class Foresight:
    """Verdicts on the episodes that were looked at last. Belongs to who locks it."""

    def __init__(self) -> None:
        self._rules: Rules | None = None
        self._verdicts: dict[int, tuple[Episode, Problem | None]] = {}

    def look_ahead(self, episodes: Sequence[Episode], rules: Rules, sights: Sights) -> None:
        """Judge ``episodes`` together; kept until the next call, or ``forget``."""
        verdicts = admit_all(episodes, rules, sights())
        self._verdicts = {id(e): (e, problem) for e, problem in zip(episodes, verdicts, strict=True)}
        self._rules = rules

    def verdicts(self, episodes: Sequence[Episode], rules: Rules, sights: Sights) -> list[Problem | None]:
        """What ``admit_all`` says of ``episodes``, known before or not."""
        if rules is self._rules:
            found = [known[1] for e in episodes if (known := self._verdicts.get(id(e))) is not None]
            if len(found) == len(episodes):
                return found
        return admit_all(episodes, rules, sights())

    def forget(self) -> None:
        """What was found does not hold any longer: there are other versions by now."""
        self._rules, self._verdicts = None, {}
