"""Pending: episodes whose fields are read and not converted yet, those of several files at once.

Files of one client are alike: their steps are laid end to end, converted and checked in one pass, and cut
apart again. Where one of them is wrong, each is made alone, which says which and how.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Self

import numpy as np

from experience.alike import Alike, Laid
from experience.codec.arrays import Array, to_obs
from experience.codec.assemble import build, canonical_steps
from experience.codec.contract import Source
from experience.episode import Episode
from experience.errors import InputError
from experience.in_step import Request

_DECLARED = frozenset({"action_space", "observation_space", "observation_shape"})
"""What says how the others are read."""


class Pending(Request):
    """One episode.

    Args:
        columns: as for ``build``.
        values: as for ``build``.
        source: where it came from.
        data: the file's bytes.
    """

    def __init__(
        self, columns: Mapping[str, Array], values: dict[str, Any], *, source: Source, data: bytes
    ) -> None:
        self.columns, self.values, self.source, self.data = columns, values, source, data

    def alone(self) -> Episode:
        """Make the episode.

        Raises:
            InputError: naming the field, its value and what would be accepted.
        """
        return build(self.columns, dict(self.values), source=self.source, data=self.data)

    @classmethod
    def together(cls, requests: Sequence[Self]) -> list[Episode | InputError]:
        """Make all of them, those of one kind in one pass."""
        kinds: dict[Any, list[int]] = {}
        for place, request in enumerate(requests):
            kinds.setdefault(request._kind(), []).append(place)  # noqa: SLF001 - of the same class
        made: dict[int, Episode | InputError] = {}
        for places in kinds.values():
            some = [requests[place] for place in places]
            episodes: Sequence[Episode | InputError] | None = _alike(some)
            made |= zip(places, episodes or [_made(request) for request in some], strict=True)
        return [made[place] for place in range(len(requests))]

    def _kind(self) -> Any:
        """Those with the same have columns that fit together, and the same fields."""
        arrays = tuple([(name, array.dtype, array.shape[1:]) for name, array in self.columns.items()])
        return arrays, tuple(self.values)


def _made(pending: Pending) -> Episode | InputError:
    try:
        return pending.alone()
    except InputError as error:
        return error


def _alike(some: Sequence[Pending]) -> Sequence[Episode] | None:
    """The episodes of files of one kind; None where they have to be made one by one."""
    first = some[0]
    if len(some) == 1 or "episode_id" not in first.values or not _DECLARED.isdisjoint(first.values):
        return None
    try:
        return _in_one_pass(some)
    except (InputError, TypeError, ValueError):
        return None


def _in_one_pass(some: Sequence[Pending]) -> Sequence[Episode] | None:
    columns = {name: np.concatenate([each.columns[name] for each in some]) for name in some[0].columns}
    steps = {"obs": to_obs(columns["obs"], None), **canonical_steps(columns, {})}
    if sum([array.nbytes for array in steps.values()]) > some[0].source.limits.max_decoded_bytes:
        return None  # one of them alone may have too many
    laid = {
        name: Laid(array, [*accumulate([len(each.columns[name]) for each in some], initial=0)])
        for name, array in steps.items()
    }
    varying = {name: [each.values[name] for each in some] for name in some[0].values}
    alike = [name for name, values in varying.items() if values.count(values[0]) == len(values)]
    common = {
        name: varying.pop(name)[0] for name in alike if name != "extensions"
    }  # where 1 is 1.0, and true
    varying["source_sha256"] = [each.source.sha256 for each in some]
    varying["source_name"] = [each.source.name for each in some]
    varying["ingested_at"] = [each.source.ingested_at for each in some]
    return Alike(common=common, varying=varying, steps=laid).episodes()
