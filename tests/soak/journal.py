"""Journal: what a client says that it deposited, outside of everything that gets full or is killed."""

import json
from collections.abc import Iterator
from pathlib import Path

Key = tuple[str, str, int]
"""(client_id, episode_id, segment)"""


class Journal:
    """One client's lines, each written once its file is in the inbox.

    Args:
        path: appended to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def deposited(self, name: str, *, keys=(), records=(), or_records=(), twin_of: str | None = None) -> None:
        """Note one file.

        Args:
            name: of the file.
            keys: of its good episodes, (client_id, episode_id, segment).
            records: "verdict:reason" of each that is not to be learned; "|" between accepted ones.
            or_records: the same, for each of ``keys`` that is found not to have been learned.
            twin_of: an earlier file with the same episodes; whichever of both is read later has ``records``.
        """
        self._write(
            {
                "file": name,
                "keys": [list(key) for key in keys],
                "records": list(records),
                "or_records": list(or_records),
                "twin_of": twin_of,
            }
        )

    def intended(self, keys) -> None:
        """An online learner is about to publish these."""
        self._write({"intended": [list(key) for key in keys]})

    def saved(self, keys) -> None:
        """They are published."""
        self._write({"saved": [list(key) for key in keys]})

    def _write(self, line) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read(folder: Path) -> Iterator[dict]:
    """Every line of every journal; a last one that a kill cut short is none."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)


def key_of(values) -> Key:
    client_id, episode_id, segment = values
    return str(client_id), str(episode_id), int(segment)
