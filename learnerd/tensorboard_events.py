"""TensorBoard events: the history's figures as scalars, for those who have TensorBoard open anyway."""

import contextlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learnerd.errors import ConfigError, ConfigProblem
from learnerd.history import MEANS, Row

FOLDER_NAME = "tensorboard"
ROWS_PER_FILE = 10_000
KEEP_FILES = 8
"""About 65 MB in all: TensorBoard's own writer never forgets."""


class TensorBoardEvents:
    """Writes scalars with TensorBoard's own writer; the step is the version.

    Args:
        state: the folder ``tensorboard`` is made there.
    """

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER_NAME
        self._writer: Any = None
        self._rows_left = 0

    def write(self, rows: Sequence[Row]) -> None:
        """Append ``rows``.

        Raises:
            OSError: they may be there in part.
        """
        try:
            for row in rows:
                self._write_one(row)
            self._writer.flush()
        except OSError:
            self._writer = None  # its thread has ended; the next rows begin a new file
            self._rows_left = 0
            raise

    def close(self) -> None:
        """Flush and close the file."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None

    def _write_one(self, row: Row) -> None:
        if self._rows_left == 0:
            self._next_file()
        self._rows_left -= 1
        for name in MEANS:
            if row.get(name) is not None:
                self._writer.add_scalar(name, row[name], step=int(row["version"] or 0), wall_time=row["at"])

    def _next_file(self) -> None:
        from tensorboard.summary import Writer  # noqa: PLC0415 - an extra, and half a second

        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        old = sorted(self._folder.glob("events.*"), key=lambda path: path.stat().st_mtime_ns)
        for path in old[: max(0, len(old) - KEEP_FILES + 1)]:
            path.unlink(missing_ok=True)
        self._writer = Writer(str(self._folder))
        self._rows_left = ROWS_PER_FILE


def require_tensorboard(source: Path | None) -> None:
    """Say at once that the extra is missing, not in the middle of a night.

    Raises:
        ConfigError: naming the extra.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            [
                ConfigProblem(
                    source=str(source or "config"),
                    table="telemetry",
                    key="tensorboard",
                    value="true, but TensorBoard is not installed",
                    accepted="false, or true with the extra",
                    hint="pip install 'learnerd[tb]'",
                )
            ]
        )
