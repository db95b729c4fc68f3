"""Pruning: takes versions away by retention, once what must outlive them is durable.

Three things outlive a version: the ids of its episodes, for ever; what it acted with, while files that it
acted in may still be admitted; and its record, while the archive has what a replay needs with it.
"""

import contextlib
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from policies import retention
from policies.actor_archive import ActorArchive
from policies.catalog import Catalog
from policies.checkpoint import Checkpoint
from policies.errors import StoreError
from policies.ledger import Ledger, Lineage
from policies.manifest import DELTA, encode_manifest, read_current, read_file, read_manifest, version_folder
from policies.pins import Pins
from policies.records import Record, Records
from policies.rollback import Rejected
from policies.scratch import PRUNED


class Pruner:
    """Removes versions of one store; whoever calls ``prune`` or ``discard`` holds the lock ``retention``.

    Args:
        state_dir: the store's folder.
        catalog, ledger, actors, records: of the store.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        catalog: Catalog,
        ledger: Ledger,
        actors: ActorArchive,
        records: Records,
    ) -> None:
        self._state_dir = state_dir
        self._pins = Pins(state_dir)
        self._catalog = catalog
        self._ledger = ledger
        self._actors = actors
        self._records = records
        self._measured: dict[int, retention.Stored] = {}

    def prune(
        self,
        policy: retention.Policy,
        *,
        max_staleness: int | None,
        now_s: float,
        keep: Iterable[int] = (),
    ) -> list[int]:
        """Remove what ``policy`` does not keep; as ``CheckpointStore.prune``."""
        numbers = self._catalog.scan()
        head = self._catalog.head()  # after the numbers: it may be newer than all of them, never older
        chosen = self._choose(policy, numbers, head, now_s, keep)
        if chosen:
            self._ledger.compact(chosen[-1], Lineage.of(head))
        updates = 0 if head is None else head.counters.get("updates", 0)
        oldest = 0 if max_staleness is None else updates - max_staleness
        self._actors.keep(chosen, from_updates=oldest)
        self._records.keep(self._records_of(chosen))
        for version in chosen:
            self._remove(version)
        self._ledger.runs.join()
        self._actors.retain(from_updates=oldest)
        return chosen

    def discard(self, version: int) -> None:
        """Remove a version whatever retention says."""
        self._actors.keep([version])
        self._remove(version)

    def measure(self, version: int) -> retention.Stored | None:
        """Size and time, taken once: versions are immutable. None when it is gone."""
        if version not in self._measured:
            stored = retention.measure(version_folder(self._state_dir, version), version)
            if stored is None:
                return None
            self._measured[version] = stored
        return self._measured[version]

    def _choose(
        self,
        policy: retention.Policy,
        numbers: list[int],
        head: Checkpoint | None,
        now_s: float,
        keep: Iterable[int],
    ) -> list[int]:
        """What to remove: only versions whose ids the head's lineage holds, or that are none of it."""
        lineage = Lineage.of(head)
        self._ledger.refresh(lineage)
        self._measured = {number: self._measured[number] for number in numbers if number in self._measured}
        protected = {
            lineage.head,
            read_current(self._state_dir) or 0,
            *keep,
            *numbers[-2:],
            *(number for number in numbers if number > lineage.head),
            *self._ledger.unreadable,
            *self._pins.versions(),
        }
        measured = (self.measure(number) for number in numbers)
        return retention.choose(
            [stored for stored in measured if stored is not None],
            policy,
            protected=protected,
            spared=Rejected.of(head).named(),
            now_s=now_s,
        )

    def _records_of(self, versions: Iterable[int]) -> Iterator[Record]:
        """The records of versions that are there; a damaged one has none."""
        for version in versions:
            with contextlib.suppress(StoreError):
                yield record_of(version_folder(self._state_dir, version), version)

    def _remove(self, version: int) -> None:
        """Take a version away in one rename, so that no reader sees half of it."""
        folder = version_folder(self._state_dir, version)
        trash = folder.with_name(f"{PRUNED}{folder.name}-{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            folder.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)
        self._catalog.forget(version)


def record_of(folder: Path, version: int) -> Record:
    """What is to be known of a version when its directory is gone.

    Raises:
        VersionPruned, VersionDamaged: there is nothing that can be kept.
    """
    manifest = read_manifest(folder, version)
    from_rows = is_from_rows(manifest)
    delta = None
    if DELTA in manifest["files"] and not from_rows:
        with contextlib.suppress(StoreError):
            delta = read_file(folder, manifest, DELTA)
    return Record(version=version, manifest=encode_manifest(manifest), delta=delta, from_rows=from_rows)


def is_from_rows(manifest: Mapping[str, Any]) -> bool:
    """Whether a version was learned from rows that the archive has or had: its record tells how."""
    record = manifest["record"]
    return bool(manifest["keys"] and record.get("updates") and record.get("libraries"))
