"""Alike: many episodes with the same fields, their steps end to end, checked in one pass and then cut apart.

What ``Episode`` asks of one is asked of all of them together, for about what one costs. An error says that
one of them is wrong, but neither which nor how: each made alone does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from numpy.typing import NDArray

from experience.episode import (
    ARRAYS,
    DEFAULTS,
    REQUIRED,
    Episode,
    check_identity,
    check_values,
    checked_norms,
    to_microseconds,
)
from experience.errors import reject

_TIMES = ("started_at", "ended_at", "ingested_at")
_STEPS = frozenset(ARRAYS)
_CELLS = Episode.__dataclass_fields__.keys() - _STEPS


class Laid(NamedTuple):
    """The steps of one field, of all episodes end to end.

    Attributes:
        values: [rows, ...].
        offsets: episode i has the rows from offsets[i] to offsets[i + 1]; ascending from 0 to ``rows``.
    """

    values: NDArray[Any]
    offsets: Sequence[int]

    def lengths(self) -> list[int]:
        """Rows of each episode."""
        return [end - start for start, end in pairwise(self.offsets)]

    def cut(self) -> list[NDArray[Any]]:
        """The array of each episode, read-only."""
        values = self.values
        if values.flags.writeable:
            values.setflags(write=False)
        return [values[start:end] for start, end in pairwise(self.offsets)]


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Episodes as columns; a field stands in one of the three, or has its default.

    Attributes:
        common: field -> the value that all of them have.
        varying: field -> one value an episode.
        steps: field -> its arrays, canonical as in ``Episode``.
    """

    common: Mapping[str, Any]
    varying: Mapping[str, Sequence[Any]]
    steps: Mapping[str, Laid]

    def episodes(self) -> tuple[Episode, ...]:
        """Check them, and return them; their arrays are views.

        Raises:
            InputError: one of them is none that ``Episode`` accepts.
            TypeError, ValueError: fields that are not known, missing, or not one an episode.
        """
        self._check_names()
        self._check_lengths()
        shared = {**DEFAULTS, "extensions": {}, **self.common}
        shared |= {name: laid.values for name, laid in self.steps.items()}
        shared["_norms"] = checked_norms(shared)
        check_values(_made(shared))
        shared |= {name: _rounded(shared[name]) for name in _TIMES}
        cells = [
            [_rounded(value) for value in values] if name in _TIMES else values
            for name, values in self.varying.items()
        ]
        rows = zip(*cells, *(laid.cut() for laid in self.steps.values()), strict=True)
        names = (*self.varying, *self.steps)
        episodes = tuple([_made(shared, zip(names, row, strict=True)) for row in rows])
        for episode in episodes:
            check_identity(episode)
        return episodes

    def _check_names(self) -> None:
        cells = self.common.keys() | self.varying.keys()
        twice = self.common.keys() & self.varying.keys()
        if twice or not (
            cells <= _CELLS and self.steps.keys() <= _STEPS and cells | self.steps.keys() >= REQUIRED
        ):
            raise TypeError(
                f"fields {sorted(cells)}, {sorted(self.steps)}; accepted: those of Episode, each once"
            )

    def _check_lengths(self) -> None:
        """The rules of ``Episode`` for shapes and lengths."""
        steps = self.steps["reward"].lengths()
        if not {len(steps)} >= {len(values) for values in self.varying.values()}:
            raise ValueError(f"other than one value for each of {len(steps)} episodes")
        dimensions = self.steps["reward"].values.ndim, self.steps["action"].values.ndim
        fits = min(steps, default=0) > 0 and dimensions in ((1, 1), (1, 2))
        for name, laid in self.steps.items():
            ends = laid.offsets[0], laid.offsets[-1]
            fits &= ends == (0, len(laid.values)) and (name == "obs" or laid.lengths() == steps)
        if not (fits and all(map(self._rows_fit, range(len(steps)), steps, self.steps["obs"].lengths()))):
            raise reject("bad_shape", "steps", "of another length in one field", "as many in each")

    def _rows_fit(self, place: int, steps: int, rows: int) -> bool:
        if rows == steps + 1:
            return True
        return rows == steps and any(self._value(name, place) for name in ("terminated", "incomplete"))

    def _value(self, name: str, place: int) -> Any:
        return self.varying[name][place] if name in self.varying else self.common.get(name, False)


def _made(shared: Mapping[str, Any], own: Any = ()) -> Episode:
    episode = object.__new__(Episode)
    fields = vars(episode)
    fields.update(shared)
    fields.update(own)
    return episode


def _rounded(time_s: Any) -> float | None:
    return None if time_s is None else to_microseconds(float(time_s))
