"""What the benchmarks of speed have in common: figures with their targets, and timing side by side."""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured figure.

    Attributes:
        work: what was measured.
        value: the figure.
        unit: "x" for a ratio.
        most, least: the target; one of them is given.
        parts: what it is made of, each with its unit in the name.
    """

    work: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        return (self.most is None or self.value <= self.most) and (
            self.least is None or self.value >= self.least
        )

    @property
    def target(self) -> str:
        sign, bound = ("≥", self.least) if self.most is None else ("≤", self.most)
        return f"{sign} {bound:g} {self.unit}"


def side_by_side(
    works: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> dict[str, float]:
    """Seconds of each work: the median over ``rounds``, in each of which every work is done once.

    A neighbor that slows one of them down slows the others of the same round down too. ``around`` is entered
    for each round, and not timed; one more round goes first, for caches and imports.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        with around():
            for name, work in works.items():
                started = clock()
                work()
                seconds[name].append(clock() - started)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}


def percentile(values: list[float], percent: float) -> float:
    """The value that ``percent`` of ``values`` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
