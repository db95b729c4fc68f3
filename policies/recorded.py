"""Recorded versions: manifests and deltas of versions that are there, and of pruned ones by their records."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policies.checkpoint import Delta
from policies.delta import decode_delta, read_delta
from policies.errors import VersionPruned, as_store_error
from policies.manifest import DELTA, VERSION_NAME, check_file, parse_manifest, read_manifest, version_folder
from policies.records import FILE_NAME, Record, Records


class RecordedVersions:
    """Reads beside any writer: a version that is pruned meanwhile is found in its record.

    Args:
        state_dir: the store's folder.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._records = Records(state_dir)

    def versions(self) -> list[int]:
        """Every version that is there or has a record, ascending.

        Raises:
            StoreError: they cannot be listed.
        """
        with as_store_error("the versions cannot be listed"):
            folders = self._state_dir / "checkpoints"
            names = [path.name for path in folders.iterdir()] if folders.is_dir() else []
            there = {int(name) for name in names if VERSION_NAME.fullmatch(name)} - {0}
            return sorted(there.union(self._records.versions()))

    def manifest(self, version: int) -> Mapping[str, Any]:
        """A version's manifest, checked against its own sha256.

        Raises:
            VersionPruned: it is gone, and so is its record. VersionDamaged: it is not as it was written.
            StoreError: it cannot be read.
        """
        with as_store_error(f"version {version} cannot be read"):
            with contextlib.suppress(VersionPruned):
                return read_manifest(version_folder(self._state_dir, version), version)
            found = self._record(version)
            return parse_manifest(found.manifest, version, where=self._state_dir / FILE_NAME)

    def delta(self, version: int) -> Delta | None:
        """The change that made a version; None where none was kept. Raises as ``manifest``."""
        with as_store_error(f"version {version} cannot be read"):
            with contextlib.suppress(VersionPruned):
                return read_delta(version_folder(self._state_dir, version), version)
            found = self._record(version)
            if found.delta is None:
                return None
            manifest = parse_manifest(found.manifest, version, where=self._state_dir / FILE_NAME)
            return decode_delta(check_file(found.delta, manifest, DELTA), manifest)

    def _record(self, version: int) -> Record:
        found = self._records.read(version)
        if found is None:
            raise VersionPruned(version=version)
        return found
