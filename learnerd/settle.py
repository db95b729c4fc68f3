"""Settling: which files in the inbox are finished, when no event said so."""

from collections.abc import Collection, Sequence

from experience.claims import Waiting


class Settling:
    """A file counts as finished when it was closed, or its size has not changed for ``settle_s``.

    Args:
        settle_s: seconds without a change.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._seen: dict[str, tuple[int, float, float]] = {}

    def ready(
        self,
        waiting: Sequence[Waiting],
        *,
        complete: Collection[str],
        wall_s: float,
        monotonic_s: float,
    ) -> list[Waiting]:
        """Return the finished ones of ``waiting``, in its order.

        Args:
            waiting: everything in the inbox, oldest first.
            complete: names known to be closed or renamed into place.
            wall_s: now, UTC.
            monotonic_s: now.
        """
        seen: dict[str, tuple[int, float, float]] = {}
        finished = []
        for file in waiting:
            size, mtime, since = self._seen.get(file.name, (-1, 0.0, monotonic_s))
            if (size, mtime) != (file.size_bytes, file.mtime_s):
                since = monotonic_s
            # A change time long past needs no second look; one ahead of the clock says nothing.
            quiet_s = max(monotonic_s - since, wall_s - file.mtime_s)
            if file.name in complete or quiet_s >= self._settle_s:
                finished.append(file)
            else:
                seen[file.name] = (file.size_bytes, file.mtime_s, since)
        self._seen = seen
        return finished

    @property
    def unsettled(self) -> int:
        """How many files the last call left to settle."""
        return len(self._seen)
