"""Catalog: which version directories there are, and the highest one that is whole.

Versions are immutable, so that one that was read whole stays whole while its manifest is the same file; and
numbers are consecutive, so that new ones are found by asking for the next number: neither costs more in a
store with many versions.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from policies.acting import acting_version
from policies.checkpoint import Checkpoint
from policies.errors import VersionDamaged, VersionPruned
from policies.manifest import MANIFEST, VERSION_NAME, read_checkpoint, read_current
from policies.runs import Runs

MOST_PROBES = 1000  # beyond this many unknown numbers a scan is quicker

Stamp = tuple[int, int]


class Catalog:
    """The versions in ``state/checkpoints``.

    Args:
        state_dir: the store's folder.
        runs: of the store's ledger; their names tell which numbers were used.
    """

    def __init__(self, state_dir: Path, runs: Runs) -> None:
        self._state_dir = state_dir
        self._folder = f"{state_dir}/checkpoints"
        self._runs = runs
        self._numbers: list[int] = []
        self._highest = 0
        self._scanned_length: int | None = None
        self._whole: dict[int, Stamp] = {}
        self._broken: dict[int, Stamp] = {}
        self._head: Checkpoint | None = None

    def scan(self) -> list[int]:
        """Every version directory's number, ascending, whole or not."""
        try:
            names = [path.name for path in Path(self._folder).iterdir()]
        except FileNotFoundError:
            names = []
        self._numbers = sorted({int(name) for name in names if VERSION_NAME.fullmatch(name)} - {0})
        self._highest = max(self._highest, *self._numbers[-1:], 0)
        self._scanned_length = len(self._numbers)
        for known in (self._whole, self._broken):
            for version in known.keys() - set(self._numbers):
                del known[version]
        return list(self._numbers)

    def highest_used(self) -> int:
        """The highest number ever used: whole, damaged or pruned; 0 before the first."""
        if self._scanned_length is None or len(self._numbers) > 2 * self._scanned_length + MOST_PROBES:
            self.scan()
        known = self._highest
        top = max(known, read_current(self._state_dir) or 0, self._runs.highest_on_disk())
        while os.path.lexists(self.path(top + 1)):
            top += 1
        if top - known > MOST_PROBES:
            self.scan()
        else:
            self._numbers.extend(range(known + 1, top + 1))
        self._highest = max(self._highest, top)
        return self._highest

    def path(self, version: int) -> str:
        """Where a version's files are; ``version_folder`` takes five times as long."""
        return f"{self._folder}/{version:08d}"

    @property
    def highest_known(self) -> int:
        """What ``highest_used`` said the last time; 0 before the first."""
        return self._highest

    def above(self, version: int) -> list[int]:
        """The numbers above one, descending; some may be pruned by now."""
        self.highest_used()
        return sorted((number for number in self._numbers if number > version), reverse=True)

    def head(self) -> Checkpoint | None:
        """The highest version that is whole; None when there is none."""
        return self.view()[0]

    def view(self) -> tuple[Checkpoint | None, int]:
        """The head and the highest number ever used, both as of one moment.

        A successor of this head must get the number after this one: taken at two moments, a version that
        was published in between would be skipped as if it were damaged.
        """
        while True:
            highest = self.highest_used()
            found = (self._try(version) for version in reversed(self._numbers))
            head = next((checkpoint for checkpoint in found if checkpoint is not None), None)
            # While we looked, versions may have been pruned, but not without newer ones being there.
            is_newest = head is not None and head.version == highest
            if is_newest or self.highest_used() == highest:
                self._head = head
                return head, highest

    def acting(self) -> int | None:
        """The version to act with: what the head names, and no older one than ``CURRENT`` has reached.

        Where that is damaged or gone, what the versions before it name. None when none may act, or none of
        those that may is whole.
        """
        head = self.head()
        if head is None:
            return None
        found = self._named_acting(head)
        current = read_current(self._state_dir) or 0
        return current if found < current <= head.version and self._is_there(current) else found or None

    def _named_acting(self, newest: Checkpoint) -> int:
        """The first whole version that ``newest``, or one before what it names, lets act; 0: none."""
        named = acting_version(newest.manifest)
        while named > 0 and named != newest.version and not self._is_there(named):
            below = (self._try(number) for number in reversed(self._numbers) if number < named)
            before = next((checkpoint for checkpoint in below if checkpoint is not None), None)
            named = 0 if before is None else acting_version(before.manifest)
        return named

    def _is_there(self, version: int) -> bool:
        return self._stamp(version) is not None and self._is_whole(version)

    def note(self, checkpoint: Checkpoint) -> None:
        """Remember a version that was just written, by this process, so that it need not be read."""
        version = checkpoint.version
        stamp = self._stamp(version)
        if version == self._highest + 1:
            self._numbers.append(version)
            self._highest = version
        elif version > self._highest:
            self.highest_used()
        if stamp is not None:
            self._whole[version] = stamp
            self._head = checkpoint

    def forget(self, version: int) -> None:
        """A version was pruned."""
        if version in self._numbers:
            self._numbers.remove(version)
        self._whole.pop(version, None)
        self._broken.pop(version, None)

    def damaged(self, versions: list[int]) -> list[int]:
        """Which of the versions are there, but not whole."""
        return [version for version in versions if not self._is_whole(version)]

    def known_damaged(self) -> Iterator[int]:
        """Those that were found damaged so far and have not changed since."""
        return (version for version, stamp in self._broken.items() if self._stamp(version) == stamp)

    def _is_whole(self, version: int) -> bool:
        stamp = self._stamp(version)
        if stamp is None or self._whole.get(version) == stamp:
            return True
        return self._read(version, stamp) is not None or self._stamp(version) is None

    def _try(self, version: int) -> Checkpoint | None:
        stamp = self._stamp(version)
        if stamp is None or self._broken.get(version) == stamp:
            return None
        cached = self._head
        if cached is not None and cached.version == version and self._whole.get(version) == stamp:
            return cached
        return self._read(version, stamp)

    def _read(self, version: int, stamp: Stamp) -> Checkpoint | None:
        try:
            checkpoint = read_checkpoint(self._state_dir, version)
        except VersionPruned:
            return None
        except VersionDamaged:
            self._whole.pop(version, None)
            self._broken[version] = stamp
            return None
        self._broken.pop(version, None)
        self._whole[version] = stamp
        return checkpoint

    def _stamp(self, version: int) -> Stamp | None:
        """Changes when the manifest is replaced; None when nothing of that name is there."""
        folder = self.path(version)
        for path, sign in ((f"{folder}/{MANIFEST}", 1), (folder, -1)):
            try:
                stat = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            return sign * stat.st_ino, stat.st_mtime_ns
        return None
