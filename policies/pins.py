"""Pins: versions that retention never takes, each a file ``state/pins/<8 digits>``."""

from pathlib import Path

from experience.durable import fsync_folder, make_folder, write_atomic
from policies.manifest import VERSION_NAME


class Pins:
    """The pins of one store; whoever calls ``add`` or ``remove`` holds the lock ``retention``.

    Args:
        state_dir: the store's folder.
    """

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "pins"

    def versions(self) -> set[int]:
        """Every pinned version, there or not."""
        try:
            names = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return set()
        return {int(name) for name in names if VERSION_NAME.fullmatch(name)}

    def add(self, version: int) -> None:
        """Pin a version, durably."""
        make_folder(self._folder)
        write_atomic(self._path(version), b"")

    def remove(self, version: int) -> bool:
        """Take a pin back, durably; False when there was none."""
        try:
            self._path(version).unlink()
        except FileNotFoundError:
            return False
        fsync_folder(self._folder)
        return True

    def _path(self, version: int) -> Path:
        return self._folder / f"{version:08d}"
