"""CheckpointStore: versions of one policy in a folder, published by several writers without a lost update.

A version is written whole into a scratch folder and becomes visible by one rename onto the next number. That
rename is the compare-and-swap; the lock only makes losing it rare. Everything else can be done again.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from experience.episode import EpisodeKey
from policies import retention
from policies.acting import Acting, Promotion
from policies.checkpoint import Checkpoint, Delta, LedgerEntry
from policies.errors import NotAVersion, VersionPruned, as_store_error
from policies.ledger import LedgerHit, Lineage
from policies.manifest import read_current, version_folder
from policies.pins import Pins
from policies.pruning import Pruner
from policies.publishing import Publisher
from policies.records import Records
from policies.rollback import Rollback
from policies.scratch import sweep_files, sweep_folders
from policies.stored_versions import StoredVersions
from policies.successor import Save
from policies.version_info import VersionInfo, with_manifest


class CheckpointStore(StoredVersions):
    """The versions of one policy; the daemon and an online learner both publish through this class.

    An online learner inside a client's process trains on its own and adds what it learned to whatever the
    policy is by then::

        store = CheckpointStore("state")
        base = store.head()
        while base is not None:
            batch, entries = play(base)  # entries: one LedgerEntry an episode
            trained, counters = my_update(base.weights, batch)  # counters: {"updates": 1, "steps": …}
            change = {n: trained[n].astype("f8") - base.weights[n] for n in trained}
            delta = Delta(weights=change, counters=counters)
            base = store.publish(delta, base=base, writer="online", episodes=entries)

    Several processes may use one folder. A store object belongs to one thread; open one a thread.

    Args:
        state_dir: the folder, as in ``[paths] state``; created by the first publish.
        lock_timeout_s: how long to wait for another process's publish, which takes milliseconds.
        clock: UTC seconds; a timestamp in manifests, never an order.
    """

    def __init__(
        self,
        state_dir: str | os.PathLike[str],
        *,
        lock_timeout_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(state_dir)
        self._checkpoints = self._state_dir / "checkpoints"
        self._clock = clock
        self._publisher = Publisher(
            self._state_dir,
            catalog=self._catalog,
            ledger=self._ledger,
            lock_timeout_s=lock_timeout_s,
            clock=clock,
        )
        self._pins = Pins(self._state_dir)
        self._records = Records(self._state_dir)
        self._pruner = Pruner(
            self._state_dir,
            catalog=self._catalog,
            ledger=self._ledger,
            actors=self._actors,
            records=self._records,
        )

    def forget_records(self, *, archived_from: int | None, keep_bytes: int) -> None:
        """Remove records of pruned versions; as ``Records.forget``.

        Raises:
            StoreError: nothing was removed.
        """
        with as_store_error("records cannot be removed"), self._publisher.locked("retention"):
            self._records.forget(archived_from=archived_from, keep_bytes=keep_bytes)

    def versions(self) -> list[VersionInfo]:
        """Every version that is there, ascending, from the manifests alone."""
        with as_store_error("the versions cannot be listed"):
            current, pins = read_current(self._state_dir), self._pins.versions()
            infos = (self._describe(n, current=current, pins=pins) for n in self._catalog.scan())
            return [info for info in infos if info is not None]

    def keep_ids(self, version: int, entries: Sequence[LedgerEntry] | None = None) -> None:
        """Make the ids of an ancestor of the head, and of those before it, durable apart from their files.

        As far as they are known: those of versions after one whose ids are not wait in memory.

        Args:
            version: the ancestor.
            entries: what it added, where its own files no longer tell; None: they do, or did.
        """
        with as_store_error("the ledger cannot be written"), self._publisher.locked("retention"):
            lineage = Lineage.of(self._catalog.head())
            self._ledger.refresh(lineage)
            if entries is not None:
                self._ledger.restore(version, entries)
            self._ledger.compact_readable(lineage)

    def discard(self, version: int) -> None:
        """Remove a damaged version that is no ancestor of the head, and that a newer number follows."""
        with as_store_error(f"version {version} cannot be removed"):
            head = self._catalog.head()
            if head is None or version > head.version or version in Lineage.of(head):
                return
            with self._publisher.locked("retention"):
                self._pruner.discard(version)

    def confirm(self) -> None:
        """Make durable what an error left in doubt in ``publish`` (``NotDurable``); else do nothing.

        Raises:
            StoreError: it is still in doubt.
        """
        with as_store_error("versions are not durable yet"):
            self._publisher.confirm()

    def lookup(self, keys: Iterable[EpisodeKey], *, look_again: bool = True) -> dict[EpisodeKey, LedgerHit]:
        """Which of the keys the head has learned, and from which row.

        Args:
            keys: of episodes.
            look_again: False answers by the head that the last call saw, in a tenth of the time; what was
                published since, ``publish`` finds out.

        Raises:
            LedgerDamaged: the ids of compacted versions cannot be trusted.
            StoreError: a version of this store object is not durable yet; see ``confirm``.
        """
        self.confirm()
        with as_store_error("the ledger cannot be read"):
            if look_again:
                self._ledger.refresh(Lineage.of(self._catalog.head()))
            return self._ledger.find(keys)

    def note(self, published: Checkpoint, episodes: Iterable[LedgerEntry]) -> None:
        """Take in what another store object of this process has just published: nothing is read again.

        Args:
            published: the version, as ``publish`` returned it.
            episodes: what it was published with.
        """
        with as_store_error(f"version {published.version} cannot be looked at"):
            self._catalog.note(published)
            self._ledger.add(published.version, episodes)

    def publish(
        self,
        delta: Delta,
        *,
        base: Checkpoint,
        writer: str,
        episodes: Sequence[LedgerEntry],
        saved_at: float | None = None,
        record: Mapping[str, Any] | None = None,
        acting: Acting | None = None,
    ) -> Checkpoint:
        """Add a change to the head and make the sum the next version: durable, and all or nothing.

        Args:
            delta: what the writer did since ``base``.
            base: what it began with: a version of this store, pruned by now or not, or initial weights that
                nobody published (version 0).
            writer: who publishes.
            episodes: what it learned from, in the order of learning.
            saved_at: when the writer finished, UTC seconds; None: now.
            record: what a replay needs, as JSON values; goes into the manifest.
            acting: what clients are to act with from now on; None: the new version, or what acts already
                while versions are held back (see ``policies.acting``).

        Returns:
            The new version. When the head moved since ``base`` it holds the head's changes too.

        Raises:
            AlreadyLearned: the head has learned some of the episodes; train again without them.
            BadDelta: the delta fits neither base nor head, or the episodes or the record are not usable.
            TrainAgain: the head moved further than the merge settings allow (``DriftTooLarge``), or the base
                was rolled back (``BaseRejected``); train again on the head.
            NotDurable: it is published, but a power cut may take it back; see ``confirm``.
            NotAVersion: the base is no version of this store.
            StoreBusy: another process held the lock for too long.
            StoreError: it could not be written; nothing was published.
        """
        save = Save(
            delta=delta,
            base=base,
            writer=writer,
            episodes=tuple(episodes),
            saved_at=self._clock() if saved_at is None else saved_at,
            record={} if record is None else record,
            acting=acting,
        )
        save.check()
        return self._publisher.publish(save)

    def rollback(
        self,
        to: int,
        *,
        writer: str,
        reason: str,
        worse: int | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """Publish an old version's weights as the next version: durable, and all or nothing.

        Ledger and counts are the head's, so that no episode is learned twice. The versions in between are
        rejected: see ``policies.rollback``.

        Args:
            to: an ancestor of the head.
            writer: who publishes.
            reason: for the manifest.
            worse: do it only while this version is not rejected.
            record: as in ``publish``.

        Raises:
            NothingToRollBack: the head has these weights, or ``worse`` is rejected already.
            StoreError: as ``load`` and ``publish``.
        """
        how, old, now = Rollback(reason=reason, worse=worse), self.load(to), self._clock()
        save = Save(
            delta=Delta(weights={}),
            base=old,
            writer=writer,
            saved_at=now,
            rollback=how,
            record={} if record is None else record,
        )
        save.check()
        return self._publisher.publish(save)

    def promote(self, version: int | None = None, *, writer: str, reason: str) -> Checkpoint:
        """Let clients act with a version that was held back: durable, and all or nothing.

        Args:
            version: newer than the one that acts; None: the newest one's weights.
            writer: who publishes; the new version has the head's weights.
            reason: for the manifest.

        Raises:
            NothingToPromote: it acts already, or may not.
            StoreError: as ``load`` and ``publish``.
        """
        head = self.head()
        if head is None:
            raise NotAVersion(version=version or 1)
        if version is not None:
            self.load(version)
        asked = {"version": head.version if version is None else version, "reason": reason}
        save = Save(
            delta=Delta(weights={}),
            base=head,
            writer=writer,
            saved_at=self._clock(),
            record={"promoted": asked},
            promotion=Promotion(version=version),
        )
        save.check()
        return self._publisher.publish(save)

    def pin(self, version: int) -> None:
        """Keep a version until it is unpinned, whatever retention says. Raises as ``load``."""
        with as_store_error(f"version {version} cannot be pinned"), self._publisher.locked("retention"):
            self._check_was_used(version)
            if not version_folder(self._state_dir, version).is_dir():
                raise VersionPruned(version=version)
            self._pins.add(version)

    def unpin(self, version: int) -> bool:
        """Leave a version to retention again; False when it was not pinned."""
        with as_store_error(f"version {version} cannot be unpinned"), self._publisher.locked("retention"):
            return self._pins.remove(version)

    def prune(
        self,
        *,
        keep_last: int,
        keep_every: int,
        keep_minutes: float,
        keep_bytes: int,
        now_s: float,
        max_staleness: int | None = None,
        keep: Iterable[int] = (),
    ) -> list[int]:
        """Remove versions by retention; their ids are kept for ever.

        The head, ``CURRENT``'s version and the last two numbers always stay, as do pinned versions and those
        whose ids cannot be read. What a rollback names goes for ``keep_bytes`` alone, and last of all. The
        records of what is removed stay (``policies.records``), until ``forget_records``.

        Args:
            keep_last: keep this many of the highest numbers.
            keep_every: keep the numbers that it divides; 0: none.
            keep_minutes: keep what is younger.
            keep_bytes: all versions together may not exceed it; wins over the others.
            now_s: UTC seconds.
            max_staleness: keep the ``actor`` of what is removed until it is more updates behind the head than
                this; None: as many as ``actor_archive`` allows.
            keep: versions that stay whatever the rest says, such as one that is being judged.

        Returns:
            What was removed, ascending.
        """
        policy = retention.Policy(
            keep_last=keep_last, keep_every=keep_every, keep_minutes=keep_minutes, keep_bytes=keep_bytes
        )
        with as_store_error("versions cannot be pruned"):
            if self._catalog.head() is None:
                return []
            with self._publisher.locked("retention"):
                return self._pruner.prune(policy, max_staleness=max_staleness, now_s=now_s, keep=keep)

    def repair_current(self) -> int | None:
        """Point ``CURRENT`` to what is to act where it is missing, torn, behind or names no whole version.

        It is behind when a writer was killed between publishing and pointing. One killed a moment earlier has
        left a version whose name is not durable; that is mended too.

        Returns:
            The version that it names now.
        """
        with as_store_error("CURRENT cannot be repaired"):
            if self._checkpoints.is_dir():
                self._publisher.renew_names()
            acting = self._catalog.acting()
            if acting is not None and read_current(self._state_dir) != acting:
                with self._publisher.locked("retention"):
                    self._keep_used()
                with self._publisher.locked("publish"):
                    self._publisher.point(backwards=True)
            return read_current(self._state_dir)

    def sweep(self) -> None:
        """Remove what killed writers left behind."""
        now_s = self._clock()
        with as_store_error("leftovers cannot be removed"):
            if not self._checkpoints.is_dir():
                return
            with self._publisher.locked("retention"):
                sweep_folders(self._checkpoints, now_s)
                sweep_files(self._state_dir, now_s)
                sweep_files(self._state_dir / "ledger", now_s)
                self._actors.sweep(now_s)
                self._ledger.runs.sweep()

    def _keep_used(self) -> None:
        """Note the number that CURRENT names as used, where its directory is gone."""
        named = read_current(self._state_dir)
        if named is not None and named > max(self._catalog.scan(), default=0):
            self._ledger.compact(named, Lineage.of(self._catalog.head()))

    def _describe(self, version: int, *, current: int | None, pins: set[int]) -> VersionInfo | None:
        stored = self._pruner.measure(version)
        if stored is None:
            return None
        plain = VersionInfo(
            version=version,
            size_bytes=stored.size_bytes,
            current=version == current,
            pinned=version in pins,
        )
        return with_manifest(self._state_dir, plain)
