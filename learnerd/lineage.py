"""Lineage: how far behind the head each version is, in updates, and which ones were rolled back."""

from bisect import bisect_left

from policies.checkpoint import Checkpoint
from policies.rollback import Rejected
from policies.store import CheckpointStore


class Lineage:
    """Staleness of versions: updates of the head minus updates of the version that acted.

    Counts of updates never fall from a version to the next, so that it is enough to know, for each count, the
    last version that has it; and no more of them than ``max_staleness`` reaches back.

    Args:
        store: where the versions are.
        max_staleness: up to here staleness is exact; beyond, at least that it is larger is known.
    """

    def __init__(self, store: CheckpointStore, max_staleness: int) -> None:
        self._store = store
        self._max_staleness = max_staleness
        self._versions: list[int] = []
        self._updates: list[int] = []
        self._head = 0
        self._highest = 0
        self._rejected = Rejected()

    def refresh(self) -> Checkpoint | None:
        """Look at the store again; return its head."""
        head = self._store.head()
        self._highest = self._store.highest_used()
        if head is None or head.version == self._head:
            return head
        self._rejected = Rejected.of(head)
        if head.version < self._head:  # newer ones were damaged since
            self._versions, self._updates, self._head = [], [], 0
        updates = head.counters.get("updates", 0)
        for version, count in reversed(self._between(head.version, updates - self._max_staleness)):
            self._note(version, count)
        self._note(head.version, updates)
        self._forget(updates - self._max_staleness)
        self._head = head.version
        return head

    def staleness(self, version: int) -> int | None:
        """Updates between ``version`` and the head; None when it was never published.

        The least that it can be, where the version is gone without a trace or more than ``max_staleness``
        behind. A number above the head was published too when it was used: its files were damaged since, and
        its episodes are no worse for that.
        """
        if version > self._highest or version < 1:
            return None
        if version >= self._head:
            return 0
        return self._updates[-1] - self._updates[bisect_left(self._versions, version)]

    def rejected(self, version: int) -> tuple[int, int] | None:
        """By which rollback ``version`` was rejected: (to, by); None when it was not."""
        found = self._rejected.find(version)
        return None if found is None else (found.to, found.by)

    def _between(self, head: int, oldest: int) -> list[tuple[int, int]]:
        """(version, updates) of what came since the last look, newest first, down to the first too old."""
        found: list[tuple[int, int]] = []
        if head == self._head + 1:
            return found
        for version, updates in self._store.updates_above(self._head):
            if version < head:
                found.append((version, updates))
                if updates < oldest:
                    break
        return found

    def _note(self, version: int, updates: int) -> None:
        while self._updates and self._updates[-1] >= updates:
            self._versions.pop()
            self._updates.pop()
        self._versions.append(version)
        self._updates.append(updates)

    def _forget(self, oldest: int) -> None:
        """Drop what is too old to matter, but for the youngest of it: it bounds those before."""
        gone = max(0, bisect_left(self._updates, oldest) - 1)
        del self._versions[:gone], self._updates[:gone]
