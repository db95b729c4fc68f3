"""Behavior: the versions that acted, read from the store when needed; those used last stay in memory."""

from collections import OrderedDict

from policies.checkpoint import ActingVersion
from policies.errors import StoreError
from policies.store import CheckpointStore

MOST_BYTES = 64 * 2**20
"""Of weights: dozens of versions with 500 units a layer."""

MOST_VERSIONS = 512
"""Of small ones, which take 6 kB each, whatever their weights do: more than acted in what comes together."""


class BehaviorCache:
    """Looks up what a version acted with. Belongs to one thread, as its store does.

    Args:
        store: where the versions are.
        most_bytes: of weights in memory; the last one stays whatever its size.
        most_versions: in memory.
    """

    def __init__(
        self,
        store: CheckpointStore,
        *,
        most_bytes: int = MOST_BYTES,
        most_versions: int = MOST_VERSIONS,
    ) -> None:
        self._store = store
        self._most_bytes, self._most_versions = most_bytes, most_versions
        self._bytes = 0
        self._known: OrderedDict[int, ActingVersion] = OrderedDict()

    def __call__(self, version: int) -> ActingVersion | None:
        """Return what ``version`` acts with; None when it is gone, damaged or cannot be read just now."""
        if version in self._known:
            self._known.move_to_end(version)
            return self._known[version]
        try:
            acting = self._store.actor(version)
        except StoreError:
            return None
        self._known[version] = acting
        self._bytes += _size(acting)
        while self._is_full and len(self._known) > 1:
            self._bytes -= _size(self._known.popitem(last=False)[1])
        return acting

    @property
    def _is_full(self) -> bool:
        return self._bytes > self._most_bytes or len(self._known) > self._most_versions


def _size(acting: ActingVersion) -> int:
    return sum(array.nbytes for array in acting.weights.values())
