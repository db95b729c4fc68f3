"""Spool: the folder through which episode files come in, and where each of them ends up.

The disk is the queue. Every step is one rename or one atomic write, so that after a crash at any point the
same call again reaches the same end: nothing is lost, nothing counts twice.
"""

import contextlib
import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from experience import retention
from experience.archive_folder import day_folders, shard_name
from experience.claims import Claim, Waiting, claim_in, parsed, shortened
from experience.durable import fsync_folder, make_folder, write_atomic
from experience.episode import Episode
from experience.errors import REASON, Problem
from experience.folders import FolderSizes, entries, subfolders
from experience.ids import uuid7
from experience.work_folder import WorkFolder

_WRITER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the spool takes on disk: ``spool_bytes`` leaves out the archive."""

    spool_bytes: int
    archive_bytes: int


class Spool:
    """The spool at ``root``, as one writer uses it.

    Holds no state but a cache of sizes, and which claims share a work file: several processes may use one
    spool under different writer names.

    Args:
        root: ``[paths] spool``.
        writer: whose claims these are; one process at a time may use a name.

    Attributes:
        archive_folder: what ``archive_reader`` reads and ``compaction`` compacts.
    """

    def __init__(self, root: Path, *, writer: str = "daemon") -> None:
        if not _WRITER.fullmatch(writer):
            raise ValueError(f"writer is {writer!r}; accepted: up to 64 letters, digits, '.', '_' and '-'")
        self.root = Path(root)
        self.writer = writer
        self._inbox = self.root / "in"
        self._inbox_text = os.fspath(self._inbox)
        self._busy = self.root / "busy"
        self._claimed = self.root / "claimed" / writer
        self._work = self.root / "work"
        self.archive_folder = self.root / "archive"
        self._refused = self.root / "refused"
        self._quarantine = self.root / "quarantine"
        self._folder_sizes = FolderSizes()
        self._copies = WorkFolder(self._work, writer)
        self._access: dict[Path, tuple[int, int]] = {}

    def make_folders(self) -> None:
        """Create the folders that are missing, durably, also after a kill before an earlier call's fsync."""
        for folder in self._folders:
            make_folder(folder)
        for folder in (self.root, *self._folders, self._claimed.parent):
            fsync_folder(folder)
        for folder in (self._inbox, self._busy):  # clients write there: who may is the operator's choice
            status = folder.stat()
            self._access[folder] = stat.S_IMODE(status.st_mode), status.st_gid

    def restore_folders(self) -> list[Path]:
        """Make folders again that somebody removed; none when all are gone: a disk may be unmounted.

        Returns:
            Those that were missing.
        """
        missing = [folder for folder in self._folders if not folder.is_dir()]
        if len(missing) == len(self._folders):
            return []
        for folder in missing:
            make_folder(folder)
            if folder in self._access:
                mode, group = self._access[folder]
                with contextlib.suppress(OSError):
                    os.chown(folder, -1, group)
                    folder.chmod(mode)
        return missing

    def waiting(self) -> list[Waiting]:
        """List the inbox, oldest change first, without names that begin with a dot."""
        found = []
        with os.scandir(self._inbox) as scan:
            for entry in scan:
                if entry.name.startswith("."):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                found.append(Waiting(entry.name, status.st_size, status.st_mtime))
        found.sort(key=lambda waiting: (waiting.mtime_s, waiting.name))
        return found

    def waiting_summary(self) -> tuple[int, float | None]:
        """Count what waits, and give the oldest change in UTC seconds; None when nothing waits."""
        waiting = self.waiting()
        return len(waiting), waiting[0].mtime_s if waiting else None

    def claim(self, name: str, *, attempt: int = 0, claim_id: str | None = None) -> Claim | None:
        """Take ``name`` out of the inbox by one rename, onto a name that cannot exist yet.

        Args:
            name: in the inbox.
            attempt: 1 when it is to be parsed at once: that saves a rename.
            claim_id: a new one; those of ``uuid7_alike`` share a work file.

        Returns:
            None when it is gone, or begins with a dot: such names are not for us.

        Raises:
            OSError: it cannot be moved, as a folder that belongs to another user; it stays where it is.
        """
        if name in ("", ".") or "/" in name:
            raise ValueError(f"{name!r} is not the name of a file")
        if name.startswith("."):
            return None
        claim = claim_in(self._claimed, claim_id or uuid7(), attempt, shortened(name))
        source = f"{self._inbox_text}/{name}"
        try:
            os.rename(source, claim.location)  # noqa: PTH104 - a Path a file costs as much as the rename
        except FileNotFoundError:
            if os.path.lexists(source):
                raise
            return None
        self._copies.note(claim)
        return claim

    def claimed(self, name: str) -> Claim | None:
        """Return the claim whose file has ``name``; None when that is no claim's."""
        return parsed(self._claimed / name)

    def sync_claims(self) -> None:
        """Make claims and their attempts durable before a verdict or a ledger names them by their ids.

        A claim that a power cut undoes comes again under another id: its refusal would count twice, and an
        episode learned from it would be taken for a second deposit.
        """
        _fsync_rename(self._inbox, self._claimed)

    def resume(self) -> list[Claim]:
        """List this writer's claims in the order in which they were made; other names are left alone."""
        with self._copies.noting() as claims:
            found = (parsed(self._claimed / entry.name) for entry in entries(self._claimed))
            claims.extend(sorted((claim for claim in found if claim), key=lambda claim: claim.id))
        return claims

    def attempt(self, claim: Claim) -> Claim:
        """Raise the number of attempts in the name: it holds also when parsing ends the process."""
        return self._renumber(claim, claim.attempt + 1)

    def clear_attempts(self, claim: Claim) -> Claim:
        """Take back the attempts but one of a claim that was parsed after all: later kills are not its fault.

        One stays, because 0 says that nobody has begun to read it: nothing can have been learned from it.
        """
        return self._renumber(claim, 1)

    def work_path(self, claim: Claim) -> Path:
        """The work file that the daemon's own copy of the claimed bytes goes to, in place ``work_slot``."""
        return Path(self._copies.location(claim))

    def work_location(self, claim: Claim) -> str:
        """The same as text."""
        return self._copies.location(claim)

    def work_slot(self, claim: Claim) -> int:
        """Place of the copy in the work file, where claims have theirs whose ids differ in the last digit."""
        return self._copies.slot(claim)

    def finish(self, claim: Claim) -> None:
        """Let go of a claim whose every episode is learned and archived, or refused.

        The claim goes first: while it is there its work copy is too, so that a later attempt never parses
        bytes that the client has changed in the meantime. A copy without a claim is swept.
        """
        claim.path.unlink(missing_ok=True)
        self._copies.drop(claim)

    def refuse(
        self,
        claim: Claim,
        reason: str,
        episodes: Sequence[Episode],
        problems: Sequence[Problem] | None = None,
    ) -> Path:
        """Keep readable episodes that are not learned from, as rows of refused/<reason>/<claim id>.parquet.

        Called again for the same claim and reason, it adds the rows that are not there yet.

        Args:
            claim: the file that they came from.
            reason: one snake_case word.
            episodes: at least one.
            problems: why, one an episode; left out, the column ``verdict`` is null.
        """
        path = _reason_folder(self._refused, reason) / f"{claim.id}.parquet"
        _add_rows(path, episodes, problems or [None] * len(episodes))
        return path

    def quarantine(self, claim: Claim, problem: Problem, *, now: float) -> Path:
        """Set a file aside whole, with a record of why beside it: <name>.json.

        The record is durable before the file is moved, so that no file lies there without one. The file
        itself is never opened: folders, fifos, links and unreadable files go the same way.

        Args:
            claim: the file.
            problem: its reason names the folder.
            now: UTC seconds.

        Raises:
            OSError: it could not be moved; the claim and its work copy are as they were.
        """
        folder = _reason_folder(self._quarantine, problem.reason)
        target = folder / f"{claim.id}.{claim.name}"
        record = _record_of(target)
        self._drop_records_elsewhere(target)
        moment = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        fields = {**asdict(problem), "file": claim.name, "time": moment}
        write_atomic(record, json.dumps(fields, indent=1).encode() + b"\n")
        try:
            claim.path.rename(target)
        except OSError:
            if not os.path.lexists(target):
                record.unlink(missing_ok=True)
                raise
        _fsync_rename(self._claimed, folder)
        self._copies.drop(claim)
        return target

    def archive(
        self, version: int, episodes: Sequence[Episode], *, published_at: float, note: str = ""
    ) -> Path:
        """Keep the episodes of a published version as archive/<UTC day>/<8 digits>.parquet, durably.

        Called again for the same version, it adds the rows that are not there yet and drops none: after a
        crash only some of a version's claims may be left.

        Args:
            version: the published one.
            episodes: in the order in which they were learned, at least one.
            published_at: UTC seconds; gives the day.
            note: text about the version, kept in the shard.
        """
        day = datetime.fromtimestamp(published_at, UTC).strftime("%Y-%m-%d")
        path = self.archived(version) or self.archive_folder / day / shard_name(version)
        make_folder(path.parent)
        _add_rows(path, episodes, None, note)
        return path

    def archived(self, version: int) -> Path | None:
        """Find the shard of ``version`` alone; ``archive_reader`` finds its rows wherever they are."""
        for folder in day_folders(self.archive_folder):
            path = folder / shard_name(version)
            if path.exists():
                return path
        return None

    def sweep(self, now_s: float) -> list[Path]:
        """Remove what crashes have left: names aside older than a day, and own work copies without a claim.

        Call it from the thread that claims: a claim whose name is being changed could be overlooked.

        Args:
            now_s: UTC seconds.

        Returns:
            What was removed.
        """
        kept = (self.archive_folder, self._refused, self._quarantine)
        folders = [self._inbox, self._work, *(folder for root in kept for folder in subfolders(root))]
        removed = retention.sweep_aside(folders, now_s=now_s)
        return removed + self._copies.sweep(self.resume)

    def archive_prune(self, *, keep_days: float, keep_bytes: int, now: float) -> list[Path]:
        """Remove shards of days that ended more than ``keep_days`` ago, then the oldest above ``keep_bytes``.

        Args:
            keep_days: ``[archive] keep_days``.
            keep_bytes: ``[archive] keep_bytes``.
            now: UTC seconds.
        """
        folders = day_folders(self.archive_folder)
        return retention.prune_days(folders, keep_days=keep_days, keep_bytes=keep_bytes, now_s=now)

    def quarantine_prune(self, *, keep_days: float, keep_bytes: int, now: float) -> list[Path]:
        """Remove files set aside more than ``keep_days`` ago, and the oldest while all exceed ``keep_bytes``.

        Args:
            keep_days: ``[quarantine] keep_days``.
            keep_bytes: ``[quarantine] keep_bytes``.
            now: UTC seconds.
        """
        folders = subfolders(self._quarantine)
        return retention.prune_set_aside(folders, keep_days=keep_days, keep_bytes=keep_bytes, now_s=now)

    def refused_prune(self, *, keep_days: float, keep_bytes: int, now: float) -> list[Path]:
        """Do the same for refused rows."""
        folders = subfolders(self._refused)
        return retention.prune_set_aside(folders, keep_days=keep_days, keep_bytes=keep_bytes, now_s=now)

    def sizes(self) -> Sizes:
        """Measure the spool; folders that have not changed since the last call are not read again."""
        folders = (self._inbox, self._claimed.parent, self._work, self._refused, self._quarantine)
        return Sizes(
            spool_bytes=sum(self._folder_sizes.measure(folder) for folder in folders),
            archive_bytes=self._folder_sizes.measure(self.archive_folder),
        )

    @property
    def _folders(self) -> tuple[Path, ...]:
        return (
            *(self._inbox, self._busy, self._claimed, self._work),
            *(self.archive_folder, self._refused, self._quarantine),
        )

    def _renumber(self, claim: Claim, attempt: int) -> Claim:
        again = claim_in(self._claimed, claim.id, attempt, claim.name)
        claim.path.rename(again.path)
        return again

    def _drop_records_elsewhere(self, target: Path) -> None:
        """Remove what an earlier call left that was killed before the rename and gave another reason."""
        for folder in subfolders(self._quarantine):
            earlier = folder / target.name
            if folder != target.parent and not os.path.lexists(earlier):
                _record_of(earlier).unlink(missing_ok=True)


def _add_rows(
    path: Path, episodes: Sequence[Episode], verdicts: Sequence[Problem | None] | None, note: str = ""
) -> None:
    from experience.archive import add_rows  # noqa: PLC0415 - a spool that only claims needs no pyarrow

    add_rows(path, episodes, verdicts=verdicts, note=note)


def _fsync_rename(source: Path, target: Path) -> None:
    """Make renames from one folder into another durable: the source first.

    On btrfs, flushing the target alone makes the new names durable and not that the old ones are gone: after
    a power cut a file has both, and two names are what a hard link has.
    """
    fsync_folder(source)
    fsync_folder(target)


def _reason_folder(root: Path, reason: str) -> Path:
    if not REASON.fullmatch(reason):
        raise ValueError(f"reason is {reason!r}; accepted: one word of a-z, 0-9 and _")
    folder = root / reason
    make_folder(folder)
    return folder


def _record_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")
