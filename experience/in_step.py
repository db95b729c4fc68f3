"""In step: the same work on many small files, one step on each of them and then the next.

A file of 15 kB is read in some hundred microseconds, by code that does not fit into the processor's first
caches together. Where many files wait, each step done on all of them costs a fifth less than all steps on
each.
"""

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

Result = TypeVar("Result")
Steps = Generator[None, None, Result]
"""Work that yields between its steps and returns its result."""


def finish(work: Steps[Result]) -> Result:
    """Do all that is left of one work; raises as it does."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result


def in_step(
    works: Sequence[Steps[Result]],
    *,
    begin: Callable[[int], object] = lambda _: None,
    go_on: Callable[[], bool] = lambda: True,
) -> list[Result | None]:
    """Do all works to their end, a step of each in turn; the first that raises ends it.

    Args:
        works: as many as fit into memory together.
        begin: told the position of the work whose next step begins.
        go_on: asked before each step; once it says no, works that have not ended stay so.

    Returns:
        One result a work, in order; None for one that has not ended.
    """
    results: list[Result | None] = [None] * len(works)
    left = list(enumerate(works))
    while left:
        going = []
        for place, work in left:
            if not go_on():
                return results
            begin(place)
            try:
                next(work)
            except StopIteration as end:
                results[place] = end.value
            else:
                going.append((place, work))
        left = going
    return results
