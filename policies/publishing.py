"""Publishing: the one commit point. Every step may fail or be killed, and two writers may do it at once.

The successor is built and made durable in a scratch folder, outside the lock. Under the lock happen only the
check that its number is free, the rename onto it (which fails when it is not: this is the compare-and-swap),
the fsync of the folder above it, and the rename of ``CURRENT``.
"""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from experience.durable import ASIDE, fsync_folder, make_folder, write_atomic
from policies.acting import acting_version
from policies.catalog import Catalog
from policies.checkpoint import Checkpoint
from policies.errors import AlreadyLearned, NotAVersion, NotDurable, StoreError, VersionDamaged, VersionPruned
from policies.flushing import close_later, write_new
from policies.ledger import Ledger, Lineage
from policies.manifest import (
    HIGHEST_VERSION,
    read_checkpoint,
    read_current,
    read_manifest,
    version_folder,
)
from policies.merge import MergeSettings
from policies.scratch import hold, scratch_folder
from policies.successor import Save, successor

PATIENCE = 8  # after losing so often to quicker writers, build the successor under the lock

Lock = Callable[[], contextlib.AbstractContextManager[None]]


class Publisher:
    """Makes saves into versions of one store.

    Args:
        state_dir: the store's folder; created by the first save.
        catalog: its versions.
        ledger: its ledger.
        lock_timeout_s: how long to wait for a lock.
        clock: UTC seconds.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        catalog: Catalog,
        ledger: Ledger,
        lock_timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._state_dir = state_dir
        self._checkpoints = state_dir / "checkpoints"
        self._current = state_dir / "CURRENT"
        self._catalog = catalog
        self._ledger = ledger
        self._lock_timeout_s = lock_timeout_s
        self._clock = clock
        self._unsynced = self._behind = False

    def publish(self, save: Save) -> Checkpoint:
        """Make a save the next version; raises as ``CheckpointStore.publish``."""
        known = self._catalog.highest_known
        try:
            return self._publish(save)
        except OSError as error:
            return self._settle(save, known, error)

    def locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold one of the store's locks."""
        path = self._state_dir / "lock" / name
        for folder in (self._checkpoints, path.parent):
            if not folder.is_dir():
                make_folder(folder)
        return hold(path, self._lock_timeout_s)

    def point(self, *, backwards: bool = False) -> None:
        """Point ``CURRENT`` to the version that the highest whole one lets act, until it does."""
        while True:
            acting, current = self._catalog.acting(), read_current(self._state_dir) or 0
            if acting is None or current == acting or (current > acting and not backwards):
                return
            write_atomic(self._current, _line(acting))

    def confirm(self) -> None:
        """Make durable what an error left in doubt, and let ``CURRENT`` follow.

        Raises:
            OSError: some version is still in doubt.
        """
        if self._unsynced:
            self.renew_names()
        if self._behind:
            with contextlib.suppress(OSError, StoreError):
                self.point()
                self._behind = False

    def renew_names(self) -> None:
        """Make the names of all versions durable, also those whose fsync failed or never came.

        The failed fsync is not repeated on the same data: the folder is changed first.
        """
        mark = self._checkpoints / f"{ASIDE}{uuid.uuid4().hex}"
        mark.mkdir()
        mark.rmdir()
        fsync_folder(self._checkpoints)
        self._unsynced = False

    def _publish(self, save: Save) -> Checkpoint:
        make_folder(self._checkpoints)
        for _ in range(PATIENCE):
            if published := self._attempt(save, partial(self.locked, "publish")):
                return published
        with self.locked("publish"):
            while not (published := self._attempt(save, contextlib.nullcontext)):
                pass  # only a writer that honors no lock can have been quicker
            return published

    def _attempt(self, save: Save, lock: Lock) -> Checkpoint | None:
        """Build the head's successor and try to make it the next version; None when the head moved."""
        head, number = self._parent(save)
        save.check_against(head)
        learned = self._ledger.lookup((entry.key for entry in save.episodes), Lineage.of(head))
        if learned:
            raise AlreadyLearned(keys=[entry.key for entry in save.episodes if entry.key in learned])
        settings = read_merge_settings(self._state_dir)
        checkpoint, files = successor(save, head, number, settings, published_at=self._clock())
        scratch, acting = scratch_folder(self._checkpoints), acting_version(checkpoint.manifest)
        with scratch as folder, _aside(self._state_dir) as aside, _kept_open(self._current):
            paths = {f"{folder}/{name}": data for name, data in files.items()}
            write_new({**paths, str(aside): _line(acting)}, folder=str(folder))
            with lock():
                if not self._swap(folder, number):
                    return None
                self._advance(aside, number, acting)
            fsync_folder(self._state_dir)
        self._behind = False
        self._catalog.note(checkpoint)
        self._ledger.add(number, save.episodes)
        return checkpoint

    def _parent(self, save: Save) -> tuple[Checkpoint | None, int]:
        """What to succeed, and under which number."""
        head, highest = self._catalog.view()
        number = highest + 1
        if number > HIGHEST_VERSION:
            raise StoreError(f"version {number} has more than eight digits")
        if save.base.version >= number:
            raise NotAVersion(version=save.base.version)
        if head is None and save.base.version > 0:
            return save.base, number  # the last whole copy of the policy is the one in memory
        return head, number

    def _swap(self, folder: Path, number: int) -> bool:
        """Rename onto the number, durably; False when another writer was first."""
        if self._catalog.highest_used() != number - 1:
            return False
        try:
            folder.rename(self._catalog.path(number))
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                return False
            raise
        self._unsynced = self._behind = True
        fsync_folder(self._checkpoints)
        self._unsynced = False
        return True

    def _advance(self, aside: Path, number: int, acting: int) -> None:
        """Point ``CURRENT`` to what acts after ``number``; never backwards, also without the lock."""
        if (read_current(self._state_dir) or 0) < acting:
            aside.replace(self._current)
        if os.path.lexists(self._catalog.path(number + 1)):
            self.point()

    def _settle(self, save: Save, known: int, error: OSError) -> Checkpoint:
        """After an OS error: was it published? Its save_id tells."""
        try:
            published = self._find(save, known)
        except (OSError, StoreError) as second:
            raise StoreError(f"publishing failed: {error}; the store cannot be read: {second}") from error
        if published is None:
            raise StoreError(f"publishing failed: {error}") from error
        try:
            self.confirm()
        except OSError as second:
            raise NotDurable(version=published.version, reason=str(second)) from error
        return published

    def _find(self, save: Save, known: int) -> Checkpoint | None:
        for version in self._catalog.above(known):
            with contextlib.suppress(VersionPruned, VersionDamaged):
                manifest = read_manifest(version_folder(self._state_dir, version), version)
                if manifest["save_id"] == save.save_id:
                    return read_checkpoint(self._state_dir, version)
        return None


def read_merge_settings(state_dir: Path) -> MergeSettings:
    """``state/merge.json``; the defaults when it is not there.

    Raises:
        StoreError: it cannot be used; names file, key, value and what would be accepted.
    """
    path = state_dir / "merge.json"
    try:
        return MergeSettings.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return MergeSettings()
    except ValueError as error:
        raise StoreError(f"{path}: {error}") from error


def write_merge_settings(state_dir: Path, settings: MergeSettings) -> None:
    """Write ``state/merge.json`` for both writers."""
    make_folder(state_dir)
    write_atomic(state_dir / "merge.json", json.dumps(settings.to_json(), indent=2).encode() + b"\n")


def _line(version: int) -> bytes:
    return f"{version:08d}\n".encode()


@contextlib.contextmanager
def _kept_open(path: Path) -> Iterator[None]:
    """Keep a file that is replaced: to free the old one takes half as long as to flush the new one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        yield
    finally:
        close_later(descriptor)


@contextlib.contextmanager
def _aside(state_dir: Path) -> Iterator[Path]:
    """A name for the next ``CURRENT``, so that only its rename happens under the lock; free afterwards."""
    path = state_dir / f"{ASIDE}{uuid.uuid4().hex}"
    try:
        yield path
    finally:
        if os.path.lexists(path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
