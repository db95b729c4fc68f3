"""A folder for what the doctor has to write: on the state's file system, and gone afterwards."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from learnerd.config import Config


@contextlib.contextmanager
def scratch_folder(config: Config | None) -> Iterator[Path]:
    """Make it beside the state folder; where that is impossible, where temporary files go."""
    place = None if config is None else _place(config.paths.state)
    folder = Path(tempfile.mkdtemp(prefix=".learnerd-doctor-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def existing(folder: Path) -> Path:
    """``folder``, or the nearest one above it that exists."""
    # os.path, which takes what may not be looked into for missing.
    return next(path for path in (folder, *folder.parents) if os.path.isdir(path))  # noqa: PTH112


def _place(state: Path) -> Path | None:
    """The folder above the state, or the state itself when that is a file system of its own."""
    there = existing(state)
    for place in (existing(state.parent), there):
        if place.stat().st_dev == there.stat().st_dev and os.access(place, os.W_OK | os.X_OK):
            return place
    return None
