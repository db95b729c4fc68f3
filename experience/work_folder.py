"""Work folder: which work file a claim's copy stands in, and which claims still share it."""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from experience.claims import Claim
from experience.durable import ASIDE
from experience.folders import entries


class WorkFolder:
    """The work files of one writer.

    Claims whose ids differ only in the last digit share a file; which do is known of those that were noted.

    Args:
        folder: ``work`` of the spool; other writers have their files there too.
        writer: whose files these are.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        self._folder, self._writer = folder, writer
        self._sharing: dict[str, int] = {}
        self._lock = threading.Lock()

    def location(self, claim: Claim) -> str:
        """The work file that the copy of a claimed file goes to."""
        return f"{self._folder}/{_shared(claim)}.{self._writer}"

    @staticmethod
    def slot(claim: Claim) -> int:
        """The place of the copy there."""
        return int(claim.id[-1], 16)

    def note(self, claim: Claim) -> None:
        """Note that a claim has a place."""
        with self._lock:
            self._note(claim)

    @contextlib.contextmanager
    def noting(self) -> Iterator[list[Claim]]:
        """Note the claims that are put into the list.

        Meanwhile none is dropped: one that is dropped after it was listed would be noted for good.
        """
        with self._lock:
            claims: list[Claim] = []
            yield claims
            for claim in claims:
                self._note(claim)

    def drop(self, claim: Claim) -> None:
        """Let go of a claim's copy: the file goes with the last claim that shares it."""
        with self._lock:
            others = self._sharing.pop(_shared(claim), 0) & ~(1 << self.slot(claim))
            if others:
                self._sharing[_shared(claim)] = others
            else:
                Path(self.location(claim)).unlink(missing_ok=True)

    def _note(self, claim: Claim) -> None:
        shared = _shared(claim)
        self._sharing[shared] = self._sharing.get(shared, 0) | 1 << self.slot(claim)

    def sweep(self, list_claims: Callable[[], Collection[Claim]]) -> list[Path]:
        """Remove the files that no claim has a copy in, and return them; claims are listed after files."""
        names = [entry.name for entry in entries(self._folder) if not entry.name.startswith(ASIDE)]
        wanted, removed = set(map(_shared, list_claims())), []
        for name in names:
            is_own = f".{self._writer}" in (name[35:], name[36:])  # a whole id in earlier releases
            if is_own and name[:35] not in wanted:
                (self._folder / name).unlink(missing_ok=True)
                removed.append(self._folder / name)
        return removed


def _shared(claim: Claim) -> str:
    return claim.id[:-1]
