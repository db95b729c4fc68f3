"""Lineage: how far behind the head each version is, in updates."""

from bisect import bisect_left

from policies.checkpoint import Checkpoint
from policies.store import CheckpointStore


class Lineage:
    """Staleness of versions: updates of the head minus updates of the version that acted.

    Args:
        store: where the versions are.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._updates: dict[int, int] = {}
        self._head = 0
        self._highest = 0

    def refresh(self) -> Checkpoint | None:
        """Look at the store again; return its head."""
        head = self._store.head()
        self._highest = self._store.highest_used()
        if head is None or head.version == self._head:
            return head
        if head.version != self._head + 1:
            self._updates.update(
                {info.version: info.updates_total for info in self._store.versions() if not info.damaged}
            )
        self._updates[head.version] = head.counters.get("updates", 0)
        self._head = head.version
        return head

    def staleness(self, version: int) -> int | None:
        """Updates between ``version`` and the head; None when it was never published.

        The directory of an old version may be gone, and its count of updates with it: then the next younger
        one gives the least that it can be. A number above the head was published too when it was used: its
        files were damaged since, and its episodes are no worse for that.
        """
        if version > self._highest or version < 1:
            return None
        if version > self._head:
            return 0
        known = sorted(self._updates)
        nearest = known[bisect_left(known, version)]
        return self._updates[self._head] - self._updates[nearest]
