"""Stored versions: what a store tells about the versions of its policy; nothing here changes a file."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from policies.actor_archive import ActorArchive
from policies.catalog import Catalog
from policies.checkpoint import ActingVersion, Checkpoint, Delta, LedgerEntry
from policies.delta import read_delta
from policies.errors import NotAVersion, VersionDamaged, VersionPruned, as_store_error
from policies.ledger import Ledger, Lineage, read_ids
from policies.manifest import (
    LEDGER,
    read_checkpoint,
    read_current,
    read_file,
    read_manifest,
    version_folder,
)


class StoredVersions:
    """Reads the versions of one policy; ``CheckpointStore`` also adds and removes them.

    Args:
        state_dir: the folder, as in ``[paths] state``; it need not exist.
    """

    def __init__(self, state_dir: str | os.PathLike[str]) -> None:
        self._state_dir = Path(state_dir)
        self._ledger = Ledger(self._state_dir, partial(read_ids, self._state_dir))
        self._catalog = Catalog(self._state_dir, self._ledger.runs)
        self._actors = ActorArchive(self._state_dir)

    def head(self) -> Checkpoint | None:
        """The highest version that is whole: what the next one will succeed. None when there is none."""
        with as_store_error("the head cannot be read"):
            return self._catalog.head()

    def current(self) -> int | None:
        """The version that ``CURRENT`` names: what clients act with. None when missing or torn."""
        with as_store_error("CURRENT cannot be read"):
            return read_current(self._state_dir)

    def acting(self) -> int | None:
        """The version that ``CURRENT`` is to name: the head, unless versions are held back.

        None when there is none that may act.
        """
        with as_store_error("the versions cannot be read"):
            return self._catalog.acting()

    def load(self, version: int) -> Checkpoint:
        """Read one version with every hash checked.

        Raises:
            NotAVersion: no such version was ever published. VersionPruned: it is gone by retention.
            VersionDamaged: its files are not what its manifest says.
        """
        with as_store_error(f"version {version} cannot be read"):
            self._check_was_used(version)
            return read_checkpoint(self._state_dir, version)

    def actor(self, version: int) -> ActingVersion:
        """What a version acts with; also of a pruned one, while ``prune`` keeps it. Raises as ``load``."""
        with as_store_error(f"version {version} cannot be read"):
            self._check_was_used(version)
            return self._actors.read(version)

    def updates_above(self, version: int) -> Iterator[tuple[int, int]]:
        """Of each version above one, newest first: (its number, the updates made by it and its ancestors).

        Those whose ``actor`` is kept are among them, those that are damaged or gone without a trace are not.
        """
        with as_store_error("the versions cannot be listed"):
            archived = {number for number in self._actors.versions() if number > version}
            for number in sorted({*self._catalog.above(version), *archived}, reverse=True):
                with contextlib.suppress(VersionPruned, VersionDamaged):
                    yield number, self._actors.updates(number)

    def delta(self, version: int) -> Delta | None:
        """The change that made a version; None where it was not kept. Raises as ``load``."""
        with as_store_error(f"version {version} cannot be read"):
            self._check_was_used(version)
            return read_delta(version_folder(self._state_dir, version), version)

    def episodes(self, version: int) -> list[LedgerEntry]:
        """The episodes that a version added, in the order of learning. Raises as ``load``."""
        from policies.ledger_file import decode_entries  # noqa: PLC0415 - loads pyarrow

        with as_store_error(f"version {version} cannot be read"):
            self._check_was_used(version)
            folder = version_folder(self._state_dir, version)
            return decode_entries(read_file(folder, read_manifest(folder, version), LEDGER))

    def manifest(self, version: int) -> Mapping[str, Any]:
        """A version's manifest, checked against its own hash. Raises as ``load``."""
        with as_store_error(f"version {version} cannot be read"):
            self._check_was_used(version)
            return read_manifest(version_folder(self._state_dir, version), version)

    def numbers(self) -> list[int]:
        """The numbers of the versions that are there, whole or not, ascending."""
        with as_store_error("the versions cannot be listed"):
            return self._catalog.scan()

    def highest_used(self) -> int:
        """The highest number that was ever used: whole, damaged or pruned; 0 before the first."""
        with as_store_error("the versions cannot be listed"):
            return self._catalog.highest_used()

    def damaged(self, *, thorough: bool = False) -> list[int]:
        """Versions whose files are not what their manifests say, ascending.

        Args:
            thorough: read every version; else those whose ids are not compacted yet, each once.
        """
        with as_store_error("the versions cannot be checked"):
            self._ledger.runs.refresh()
            first = 1 if thorough else self._ledger.runs.compacted_through + 1
            there = [version for version in self._catalog.scan() if version >= first]
            found = {*self._catalog.damaged(there), *self._catalog.known_damaged(), *self._ledger.unreadable}
            return sorted(found)

    def versions_without_ids(self) -> list[int]:
        """Ancestors of the head that cannot tell any more which episodes they added, ascending."""
        with as_store_error("the ledger cannot be read"):
            self._ledger.refresh(Lineage.of(self._catalog.head()))
            return sorted(self._ledger.unreadable)

    def _check_was_used(self, version: int) -> None:
        """Tell apart what was never published from what is gone."""
        if not 0 < version <= self._catalog.highest_used():
            raise NotAVersion(version=version)
