"""Stretches: whether versions earn less than those before them did, without crying wolf.

A version often acts in too few episodes to be judged alone. A *stretch* is the shortest run of consecutive
versions that earned ``min_episodes`` returns together; one version, where it acts for long. Each stretch is
compared with the one before it.

Looking again and again finds a drop where there is none (Armitage, McPherson & Rowe 1969, "Repeated
significance tests on accumulating data", Journal of the Royal Statistical Society A 132). So there are four
looks at a stretch, after 1, 2, 4 and 8 times ``min_episodes`` returns, each at a quarter of ``level``: by
Bonferroni's inequality (Dunn 1961, "Multiple comparisons among means", Journal of the American Statistical
Association 56) the chance that a stretch no worse than the one before is ever called worse stays below it.
"""

from dataclasses import dataclass, field
from typing import Any, Self

from learnerd.comparison import TESTS, effect, mean, spread

LOOKS = 4
"""At one stretch; the last one is after 2^3 times ``min_episodes`` returns, and further ones are not kept."""

KEPT = 4
"""Stretches in memory: returns of older versions come too late to be judged."""


@dataclass(kw_only=True)
class Stretch:
    """Consecutive versions and what they earned.

    Attributes:
        first, last: the lowest and the highest of them that acted.
        returns: in the order of arrival.
        looks: how often it was compared.
    """

    first: int
    last: int
    returns: list[float] = field(default_factory=list)
    looks: int = 0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A stretch that is worse than the one before.

    Attributes:
        worse, better: (first, last) version of both.
        after, before: mean return of both.
        episodes: returns of each that were compared.
        p: the chance of such a drop among equals, at one look.
        enough: a mean return that counts as a recovery.
    """

    worse: tuple[int, int]
    better: tuple[int, int]
    after: float
    before: float
    episodes: int
    p: float
    enough: float

    def __str__(self) -> str:
        """One clause, for people."""
        return (
            f"{numbers(*self.worse)} returned {self.after:.4g}, {numbers(*self.better)} before that "
            f"{self.before:.4g} ({self.episodes} episodes each, p = {self.p:.1g})"
        )

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what ``asdict`` gave; raises TypeError, KeyError or ValueError when it is something else."""
        return cls(
            worse=(int(data["worse"][0]), int(data["worse"][1])),
            better=(int(data["better"][0]), int(data["better"][1])),
            after=float(data["after"]),
            before=float(data["before"]),
            episodes=int(data["episodes"]),
            p=float(data["p"]),
            enough=float(data["enough"]),
        )


class Stretches:
    """Assigns returns to stretches and compares these.

    Args:
        min_episodes: returns that make a stretch, and more for each further look.
        level: chance that a stretch no worse than the one before is called worse.
        min_effect: smaller drops do not count, in standard deviations.
        test: one of ``comparison.TESTS``.
    """

    def __init__(self, *, min_episodes: int, level: float, min_effect: float, test: str) -> None:
        self._min_episodes = min_episodes
        self._level = level
        self._min_effect = min_effect
        self._test = TESTS[test]
        self._since = 1
        self._stretches: list[Stretch] = []

    @property
    def since(self) -> int:
        """The first version that is judged, and the reference of those after it."""
        return self._since

    @property
    def full(self) -> int:
        """How many stretches after ``since`` have all the returns that a first look needs."""
        return sum(len(stretch.returns) >= self._min_episodes for stretch in self._stretches)

    def begin(self, version: int) -> None:
        """Start afresh at a version: what came before it is no measure of what follows."""
        self._since, self._stretches = version, []

    def add(self, version: int, value: float) -> Finding | None:
        """Take in a return; the finding, when a stretch is found to be worse by it."""
        stretch = self._find(version)
        if stretch is None or len(stretch.returns) >= self._min_episodes << (LOOKS - 1):
            return None
        stretch.last = max(stretch.last, version)
        stretch.returns.append(value)
        if len(stretch.returns) < self._min_episodes << stretch.looks:
            return None
        stretch.looks += 1
        at = self._stretches.index(stretch)
        return self._compare(self._stretches[at - 1], stretch) if at else None

    def recovered(self, finding: Finding) -> bool:
        """Whether a later stretch is as good as the better one was."""
        return any(
            stretch.first > finding.worse[0]
            and len(stretch.returns) >= self._min_episodes
            and mean(stretch.returns) >= finding.enough
            for stretch in self._stretches
        )

    def state(self) -> dict[str, Any]:
        """Return everything but the settings, as plain JSON."""
        return {"since": self._since, "stretches": [dict(vars(stretch)) for stretch in self._stretches]}

    def restore(self, state: Any) -> None:
        """Take up what ``state`` gave; what is no such thing leaves all as it is."""
        try:
            since = int(state["since"])
            stretches = [
                Stretch(
                    first=int(one["first"]),
                    last=int(one["last"]),
                    returns=[float(value) for value in one["returns"]],
                    looks=int(one["looks"]),
                )
                for one in state["stretches"]
            ]
        except (TypeError, KeyError, ValueError):
            return
        self._since, self._stretches = since, stretches[-KEPT:]

    def _find(self, version: int) -> Stretch | None:
        """The stretch that a version belongs to, a new one after a full one; None when it is too old."""
        if version < self._since:
            return None
        if not self._stretches:
            self._stretches.append(Stretch(first=version, last=version))
        newest = self._stretches[-1]
        if version > newest.last and len(newest.returns) >= self._min_episodes:
            self._stretches = [*self._stretches[1 - KEPT :], Stretch(first=version, last=version)]
        return next((one for one in reversed(self._stretches) if one.first <= version), None)

    def _compare(self, before: Stretch, after: Stretch) -> Finding | None:
        size = min(len(before.returns), len(after.returns))
        old, new = before.returns[-size:], after.returns[-size:]
        if size < self._min_episodes or effect(old, new) < self._min_effect:
            return None
        p = self._test(old, new)
        if p >= self._level / LOOKS:
            return None
        return Finding(
            worse=(after.first, after.last),
            better=(before.first, before.last),
            after=mean(new),
            before=mean(old),
            episodes=size,
            p=p,
            enough=mean(old) - self._min_effect * spread(old),
        )


def numbers(first: int, last: int) -> str:
    """Versions for people."""
    return f"version {first}" if first == last else f"versions {first} to {last}"
