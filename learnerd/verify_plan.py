"""Verify plan: from which version on a history can be rebuilt, and which versions are judged."""

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from experience.archive_folder import first_version
from policies.checkpoint import Checkpoint
from policies.errors import StoreError
from policies.ledger import Lineage
from policies.manifest import version_folder
from policies.pruning import is_from_rows
from policies.rebuilding import base_of, needs_of
from policies.recorded import RecordedVersions


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is rebuilt, in order.

    Attributes:
        versions: ancestors of the head, ascending, without a gap.
        judged_from: the first of them that is judged; those before are rebuilt to get there.
        out_of_reach: versions that are known, and that nothing to begin with is left of.
        last_use: version -> the last one that is made from it.
    """

    versions: tuple[int, ...]
    judged_from: int
    out_of_reach: tuple[int, ...]
    last_use: dict[int, int]

    @property
    def judged(self) -> list[int]:
        """Those that are judged."""
        return [version for version in self.versions if version >= self.judged_from]


class Planner:
    """Looks for what can be rebuilt.

    Args:
        state: the store's folder.
        archive: the archive's folder.
        head: the newest version.
    """

    def __init__(self, state: Path, archive: Path, head: Checkpoint) -> None:
        self._state = state
        self._recorded = RecordedVersions(state)
        self._lineage = sorted(Lineage.of(head).numbers(1))
        self._first_rows = first_version(archive) or 0

    def plan(self, first: int | None = None, last: int | None = None) -> Plan:
        """Plan to judge the versions from ``first`` to ``last``; None: as far as the records reach."""
        upto = self._lineage[: len(self._lineage) if last is None else bisect_right(self._lineage, last)]
        run = self._run(upto, set(self._recorded.versions()), first)
        wanted = run if first is None else [version for version in run if version >= first]
        if not wanted:
            return Plan(versions=(), judged_from=first or 0, out_of_reach=(), last_use={})
        begin = self._begin(run, None if first is None else wanted[0])
        if begin is None:
            return Plan(versions=(), judged_from=0, out_of_reach=tuple(run), last_use={})
        judged_from = begin if first is None else wanted[0]
        versions = tuple(version for version in run if version >= begin)
        return Plan(
            versions=versions,
            judged_from=judged_from,
            out_of_reach=tuple(version for version in run if version < begin) if first is None else (),
            last_use=self._last_use(versions),
        )

    def _run(self, upto: list[int], known: Collection[int], first: int | None) -> list[int]:
        """The newest versions without a gap, ascending; with ``first`` also unknown ones from there on."""
        run: list[int] = []
        for version in reversed(upto):
            wanted = first is not None and version >= first
            if not wanted and (version not in known or self._is_gone(version)):
                break
            run.append(version)
        return run[::-1]

    def _is_gone(self, version: int) -> bool:
        """Whether the archive's retention has taken the rows that it was learned from."""
        if version >= self._first_rows:
            return False
        try:
            return is_from_rows(self._recorded.manifest(version))
        except StoreError:
            return True

    def _begin(self, run: list[int], first: int | None) -> int | None:
        """The first version that can be made from what is there; with ``first`` the last one up to there.

        None: nothing to begin with is left; a version whose manifest is damaged is judged all the same.
        """
        if first is None:
            found = next((version for version in run if self._can_begin(version)), None)
            return run[-1] if found is None and not self._is_readable(run[-1]) else found
        before = (version for version in reversed(run) if version <= first and self._can_begin(version))
        return next(before, first)

    def _can_begin(self, version: int) -> bool:
        try:
            manifest = self._recorded.manifest(version)
        except StoreError:
            return False
        if not base_of(manifest) and "seed" not in manifest["record"]:
            return False
        return all(version_folder(self._state, need).is_dir() for need in needs_of(manifest))

    def _is_readable(self, version: int) -> bool:
        try:
            self._recorded.manifest(version)
        except StoreError:
            return False
        return True

    def _last_use(self, versions: tuple[int, ...]) -> dict[int, int]:
        found: dict[int, int] = {}
        for version in versions:
            try:
                found |= dict.fromkeys(needs_of(self._recorded.manifest(version)), version)
            except StoreError:
                continue
        return found
