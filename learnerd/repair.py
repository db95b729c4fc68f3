"""Repair: what damaged versions had learned is learned again from the archive.

A version whose files are not what its manifest says is one of three things:

- **Off the lineage.** It was the newest, and the next version succeeds the one before it: its episodes are in
  no ledger any more. Its archive shard is then treated as a claimed file whose verdict has been given: its
  rows go through the same cycle as all others, end in the shard of the version that learns them, and only
  then is the old shard removed. After a crash in between both shards are there, and the ledger tells what was
  learned from the old one. A version without a shard, as an online learner's, is brought back by what was
  kept with it (``learnerd.rescue``).
- **Unknown to the store**, which was restored from an older backup (``restored``). What the archive has of it
  is learned again in the same way.
- **Below the head.** Later versions hold what it had learned, so that nothing is learned again. Only its
  episode ids must not be forgotten: where its own files no longer tell them, the archive does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from experience.claims import Claim
from experience.episode import Episode
from experience.errors import ShardDamaged
from experience.spool import Spool
from learnerd.admission import Admission
from learnerd.arrival import Arrival
from learnerd.cycle import Cycle
from learnerd.rescue import Rescue, relearned_claim_id
from policies.acting import Acting
from policies.checkpoint import Checkpoint, Delta, LedgerEntry
from policies.errors import StoreError, VersionDamaged, VersionPruned
from policies.ledger import Lineage
from policies.store import CheckpointStore

if TYPE_CHECKING:
    from experience.archive_reader import ArchiveReader

log = structlog.get_logger(__name__)

CHECK_DISK = "check the disk and its file system"


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """What a look found, and what has to be done about it.

    Attributes:
        again: files to be learned from again, already admitted.
        unfinished: whether there will be more to do once these have been learned.
        message, remedy: for the alarm ``version_damaged``; "" when no damage was ever found.
        lost: whether something cannot be brought back, or is not yet.
    """

    again: tuple[Arrival, ...] = ()
    unfinished: bool = False
    message: str = ""
    remedy: str = ""
    lost: bool = False


class Repair:
    """Finds damaged versions and brings back what they had learned; belongs to the training thread.

    Args:
        state: the store's folder: each look reads it afresh, past everything that is known already.
        store: the cycle's, whose memory may hold what the disk has lost.
        spool: its archive.
        admission, cycle: which episodes are in hand or learned.
        writer: the daemon's name.
        most_episodes: as many as may be handed out at once, or one version's.
    """

    def __init__(
        self,
        state: Path,
        *,
        store: CheckpointStore,
        spool: Spool,
        admission: Admission,
        cycle: Cycle,
        writer: str,
        most_episodes: int,
    ) -> None:
        self._state = state
        self._store = store
        self._spool = spool
        self._admission = admission
        self._cycle = cycle
        self._writer = writer
        self._most_episodes = most_episodes
        self._rescue = Rescue(state, store=store)
        self._in_hand: dict[int, Path] = {}
        self._done: dict[int, str] = {}
        self._lost: dict[int, str] = {}
        self._reader: ArchiveReader | None = None
        self._returned: set[Path] = set()
        self._returned_before = 0
        self._some_wait = True

    def look(self, *, thorough: bool, idle: bool) -> Repairs:
        """Look for damage and begin to repair it.

        Args:
            thorough: read every version; else the newest ones down to one that is whole, and those whose
                ids are not known.
            idle: nothing that was handed out is waiting to be learned any more.
        """
        self._reader = None
        self._close(idle=idle)
        damaged = self._damaged(thorough=thorough)
        head = self._heal(self._store.head(), damaged)
        lineage = Lineage.of(head)
        if any(version > lineage.head for version in damaged):
            self._store.repair_current()
        self._keep_ids(version for version in sorted(damaged) if version in lineage)
        for version in [lost for lost in self._lost if lost in lineage and lost not in damaged]:
            self._take_back(version)
        off = {version for version in damaged if version not in lineage} | self._skipped(lineage)
        if self._in_hand or self._returned:  # bounded memory: the rest once these have been learned
            return self._report([], more=True)
        again, more = self._bring_back(sorted(off), damaged)
        more = more or self._bring_back_unpublished(again)
        return self._report(again, more=more)

    def _damaged(self, *, thorough: bool) -> dict[int, str]:
        """Damaged versions, each with what is wrong, as the disk has them now."""
        fresh = CheckpointStore(self._state)
        head, without_ids = fresh.head(), self._store.versions_without_ids()
        newest = [version for version in fresh.numbers() if head is None or version > head.version]
        candidates = {*newest, *without_ids}
        if thorough:
            candidates.update(fresh.damaged(thorough=True))
        found = {}
        for version in sorted(candidates):
            try:
                fresh.load(version)
            except VersionDamaged as error:
                found[version] = f"{error.file}: {error.reason}"
            except VersionPruned:
                if version in without_ids:  # retention would have kept them
                    found[version] = "its folder is gone"
            except StoreError:
                continue  # it cannot be read just now
        return found

    def _heal(self, head: Checkpoint | None, damaged: dict[int, str]) -> Checkpoint | None:
        """Publish what memory still holds of a head whose files have gone bad; nothing is lost by that."""
        if head is None or head.version not in damaged:
            return head
        self._store.keep_ids(head.version)
        record = {"heals": head.version}
        healed = self._store.publish(
            Delta(weights={}),
            base=head,
            writer=self._writer,
            episodes=[],
            record=record,
            acting=Acting(held=True) if head.manifest.get("acting") == head.version else None,
        )
        message = f"version {head.version} is damaged ({damaged[head.version]})"
        self._settle(head.version, f"{message}; the daemon published it again from memory")
        return healed

    def _keep_ids(self, versions: Iterable[int]) -> None:
        """Make sure of the ids of ancestors of the head; what they had learned is in it."""
        unreadable = self._store.versions_without_ids()
        for version in versions:
            if version in self._done:
                continue
            if version not in unreadable:
                self._settle(version, f"version {version} is damaged; later versions hold what it learned")
                continue
            episodes, problem = self._archived(version)
            if problem:
                self._lose(version, f"version {version} is damaged, and its episode ids are lost: {problem}")
                continue
            self._store.keep_ids(version, [_entry_of(episode) for episode in episodes])
            self._settle(version, f"version {version} is damaged; its episode ids are the archive's")

    def _take_back(self, version: int) -> None:
        """Make sure of the ids of an ancestor whose files are whole again."""
        if version in self._store.versions_without_ids():
            self._store.keep_ids(version, self._store.episodes(version))
        self._settle(version, f"version {version} was damaged; its files have been put back")

    def _skipped(self, lineage: Lineage) -> set[int]:
        """Versions below the head that are no ancestors of it, while something of them is left.

        A damaged CURRENT may have made the numbers jump by millions: only those that are there are looked at.
        """
        if not lineage.skipped:
            return set()
        there = {*self._store.numbers(), *self._archive().versions_within(lineage.skipped)}
        return {version for version in there if version < lineage.head and version not in lineage}

    def _archive(self) -> "ArchiveReader":
        """The archive as it is at this look."""
        from experience.archive_reader import ArchiveReader  # noqa: PLC0415 - loads pyarrow

        if self._reader is None:
            self._reader = ArchiveReader(self._spool.archive_folder)
        return self._reader

    def _bring_back(self, versions: Sequence[int], damaged: dict[int, str]) -> tuple[list[Arrival], bool]:
        """The next arrivals to learn from again, oldest version first; whether there are more."""
        again: list[Arrival] = []
        for version in versions:
            if version in self._in_hand or version in self._done:
                continue
            if sum(len(arrival.episodes) for arrival in again) >= self._most_episodes:
                return again, True
            again += self._again(version, damaged.get(version, "no ancestor of the newest version"))
        return again, False

    def _close(self, *, idle: bool) -> None:
        """Versions in hand whose shards are finished have been learned again."""
        for version, shard in list(self._in_hand.items()):
            if not shard.exists():
                self._settle(version, f"version {version} was damaged; its episodes have been learned again")
                self._store.discard(version)
            if idle or not shard.exists():
                del self._in_hand[version]
        gone = {path for path in self._returned if not path.exists()}
        self._returned_before += len(gone)
        self._returned = set() if idle else self._returned - gone

    def _again(self, version: int, reason: str) -> list[Arrival]:
        episodes, problem = self._archived(version)
        if problem:
            self._without_shard(version, f"version {version} is damaged ({reason})", problem)
            return []
        shard = self._own_shard(version)
        self._in_hand[version] = shard
        log.error("version_damaged", version=version, reason=reason, episodes=len(episodes))
        return self._readmit(_arrival_of(relearned_claim_id(version), shard, episodes))

    def _bring_back_unpublished(self, again: list[Arrival]) -> bool:
        """Add what waits of versions that the store lacks since it was restored; whether there is more."""
        from experience import archive, unpublished  # noqa: PLC0415 - loads pyarrow

        waiting = unpublished.waiting(self._spool.archive_folder) if self._some_wait else []
        self._some_wait = bool(waiting)
        for path in waiting:
            if path in self._returned:
                continue
            if sum(len(arrival.episodes) for arrival in again) >= self._most_episodes:
                return True
            try:
                episodes = archive.read_shard(path)
            except ShardDamaged as error:
                self._lose(int(path.name.split("-")[1]), f"what a lost version learned is lost, too: {error}")
                continue
            self._returned.add(path)
            again += self._readmit(_arrival_of(f"relearn-{path.stem}", path, episodes))
        return False

    def _readmit(self, arrival: Arrival) -> list[Arrival]:
        """Archive what was learned of it already; what is left to be learned."""
        rest = []
        for left in self._cycle.recover([arrival]):
            kept = self._admission.readmit(left)
            if kept.episodes:
                rest.append(kept)
            else:
                self._admission.finish(kept)
        return rest

    def _archived(self, version: int) -> tuple[list[Episode], str]:
        """The episodes of a version's shard; or why there are none."""
        try:
            episodes = self._archive().episodes(version)
        except ShardDamaged as error:
            return [], str(error)
        return episodes, "" if episodes else "the archive has no shard of it"

    def _own_shard(self, version: int) -> Path:
        """The shard of a version alone, which goes when its episodes have been learned again."""
        from experience.compaction import take_out  # noqa: PLC0415 - loads pyarrow

        self._reader = None
        return take_out(self._spool.archive_folder, version)

    def _without_shard(self, version: int, message: str, problem: str) -> None:
        """Bring it back by what was kept with it; or say that it is lost."""
        outcome = self._rescue.bring_back(version)
        if outcome:
            self._settle(version, f"{message}; {outcome}")
            self._store.discard(version)
        else:
            self._lose(version, f"{message}, and what it learned is lost: {problem}")

    def _settle(self, version: int, message: str) -> None:
        self._lost.pop(version, None)
        if self._done.get(version) != message:
            self._done[version] = message
            log.warning("version_repaired", version=version, outcome=message)

    def _lose(self, version: int, message: str) -> None:
        if version not in self._lost:
            log.error("version_lost", version=version, outcome=message)
        self._lost[version] = message

    def _returned_message(self) -> dict[int, str]:
        if not (self._returned or self._returned_before):
            return {}
        what = f"{self._returned_before} of the versions that are in the archive and not in the store"
        left = f"; of {len(self._returned)} they are being learned again" if self._returned else ""
        return {0: f"a backup was restored: the episodes of {what} have been learned again{left}"}

    def _report(self, again: list[Arrival], *, more: bool) -> Repairs:
        pending = {
            version: f"version {version} was damaged; its episodes are being learned again from the archive"
            for version in self._in_hand
        }
        messages = {**self._done, **self._lost, **pending, **self._returned_message()}
        remedy = CHECK_DISK
        if self._lost:
            numbers = ", ".join(f"{version:08d}" for version in sorted(self._lost))
            remedy += f"; put back archive/<day>/<version>.parquet or checkpoints/<version> of {numbers}"
        return Repairs(
            again=tuple(again),
            unfinished=bool(self._in_hand or self._returned or more),
            message="; ".join(messages[version] for version in sorted(messages)),
            remedy=remedy,
            lost=bool(self._lost or self._in_hand or more),
        )


def _arrival_of(claim_id: str, shard: Path, episodes: Sequence[Episode]) -> Arrival:
    """A shard as a file that was claimed when its episodes first came in."""
    claim = Claim(id=claim_id, attempt=0, name=shard.name, location=str(shard))
    came_s = min(episode.ingested_at for episode in episodes)
    return Arrival(claim=claim, episodes=tuple(episodes), claimed_at=came_s, seen_s=None, mtime_s=came_s)


def _entry_of(episode: Episode) -> LedgerEntry:
    return LedgerEntry(key=episode.key, row_sha256=episode.row_sha256)
