"""ExportFolder: ``state/exports``, laid out as the versions are: a folder each, manifests, ``CURRENT``."""

import contextlib
import shutil
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from experience.durable import fsync_folder, make_folder, write_atomic
from learnerd.versions import DIRECTORY_NAME
from policies.errors import StoreError
from policies.flushing import write_new
from policies.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    describe,
    encode_manifest,
    read_current,
    read_file,
    read_manifest,
)
from policies.scratch import PRUNED, scratch_folder, sweep_files, sweep_folders

FOLDER = "exports"


class ExportFolder:
    """Whole exports only: each appears by one rename, and ``CURRENT`` names one that is there.

    One process writes at a time: the daemon that holds the instance lock.

    Args:
        state: the state folder.
    """

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER

    def versions(self) -> list[int]:
        """What has been exported, ascending."""
        if not self._folder.is_dir():
            return []
        return sorted(int(one.name) for one in self._folder.iterdir() if DIRECTORY_NAME.fullmatch(one.name))

    def current(self) -> int | None:
        """The version that ``exports/CURRENT`` names."""
        return read_current(self._folder)

    def is_whole(self, version: int, formats: Collection[str]) -> bool:
        """Whether an export holds these formats and no others, with every hash as its manifest says."""
        folder = self._of(version)
        try:
            manifest = read_manifest(folder, version)
            for name in manifest["files"]:
                read_file(folder, manifest, name)
        except (StoreError, KeyError):
            return False
        return set(manifest["formats"]) == set(formats)

    def write(self, version: int, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
        """Write an export, durably and all or nothing; one that is there is replaced.

        Args:
            version: its number.
            files: name -> bytes.
            facts: further fields of its manifest.
        """
        document = {"schema": SCHEMA_VERSION, "version": version, "files": describe(files), **facts}
        make_folder(self._folder)
        with scratch_folder(self._folder) as scratch:
            whole = {**files, MANIFEST: encode_manifest(document)}
            write_new({f"{scratch}/{name}": data for name, data in whole.items()}, folder=str(scratch))
            self.remove(version)
            scratch.rename(self._of(version))
        fsync_folder(self._folder)

    def point_to(self, version: int) -> None:
        """Let ``CURRENT`` name an export that is there."""
        write_atomic(self._folder / "CURRENT", f"{version:08d}\n".encode())

    def remove(self, version: int) -> None:
        """Take an export away in one rename, so that no reader sees half of it."""
        trash = self._folder / f"{PRUNED}{version:08d}-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            self._of(version).rename(trash)
            shutil.rmtree(trash, ignore_errors=True)

    def sweep(self, now_s: float) -> None:
        """Remove what a killed writer left behind."""
        sweep_folders(self._folder, now_s)
        sweep_files(self._folder, now_s)

    def _of(self, version: int) -> Path:
        return self._folder / f"{version:08d}"
