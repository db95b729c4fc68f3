"""Ledger: which episodes the head has learned; the union of what its ancestors added.

Each version's ``ledger.parquet`` holds the keys that it added, with provenance. Ids of versions up to the
last compaction are in runs; those of later ones are in memory. A version that was damaged when its successor
was published is no ancestor: its keys are not in the union, and its episodes may be learned again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from experience.episode import EpisodeKey
from policies.checkpoint import Checkpoint, LedgerEntry
from policies.errors import VersionDamaged, VersionPruned
from policies.manifest import LEDGER, read_file, read_manifest, version_folder
from policies.runs import IdRecord, Runs

CUT_BYTES = 16
CUT_DIGITS = 2 * CUT_BYTES

Ids = Mapping[bytes, bytes]


class LedgerHit(NamedTuple):
    """Where an episode was learned.

    Attributes:
        version: the version that added it.
        row_sha256: the first 32 hex digits of its row's sha256.
    """

    version: int
    row_sha256: str

    def is_same_row(self, row_sha256: str) -> bool:
        """Whether a row with this sha256 is the one that was learned."""
        return row_sha256[:CUT_DIGITS] == self.row_sha256


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """A head and its ancestors.

    Attributes:
        head: its number; 0: there is none.
        skipped: ranges (first, last) of numbers below it that are no ancestors, ascending.
    """

    head: int = 0
    skipped: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, head: Checkpoint | None) -> Self:
        """The lineage of a published version."""
        if head is None:
            return cls()
        ranges = tuple((first, last) for first, last in head.manifest.get("skipped", []))
        return cls(head=head.version, skipped=ranges)

    def __contains__(self, version: int) -> bool:
        skipped = any(first <= version <= last for first, last in self.skipped)
        return 0 < version <= self.head and not skipped

    def numbers(self, first: int) -> set[int]:
        """Its versions from ``first`` on."""
        numbers: set[int] = set()
        for skip_first, skip_last in (*self.skipped, (self.head + 1, self.head + 1)):
            numbers.update(range(first, skip_first))
            first = max(first, skip_last + 1)
        return numbers


class Ledger:
    """The union of ids along a lineage, kept current at the cost of the new versions alone.

    Args:
        state_dir: the store's folder.
        read: gives the ids that a version added; raises VersionPruned when it is gone.
    """

    def __init__(self, state_dir: Path, read: Callable[[int], Ids]) -> None:
        self.runs = Runs(state_dir / "ledger")
        self.unreadable: set[int] = set()
        self._read = read
        self._by_version: dict[int, Ids] = {}
        self._union: dict[bytes, tuple[int, bytes]] = {}
        self._joined: set[int] = set()
        self._lineage = Lineage()
        self._signature: frozenset[tuple[str, int]] | None = None

    def add(self, version: int, entries: Iterable[LedgerEntry]) -> None:
        """Note what a version that was just published added, so that it need not be read."""
        self._by_version[version] = ids_of(entries)

    def restore(self, version: int, entries: Iterable[LedgerEntry]) -> None:
        """Take what an unreadable version added; durable where later ones are compacted already."""
        self._by_version[version] = ids = ids_of(entries)
        if version <= self.runs.compacted_through:
            self.runs.add(version, version, [IdRecord(key, row, version) for key, row in ids.items()])
        self.unreadable.discard(version)
        self._joined = self._joined - {version}
        self._signature = None  # so that the union is made again

    def lookup(self, keys: Iterable[EpisodeKey], lineage: Lineage) -> dict[EpisodeKey, LedgerHit]:
        """Which of the keys the lineage has learned."""
        self.refresh(lineage)
        return self.find(keys)

    def find(self, keys: Iterable[EpisodeKey]) -> dict[EpisodeKey, LedgerHit]:
        """Which of the keys the lineage of the last ``refresh`` has learned."""
        digests = {key.digest(): key for key in keys}
        found = {
            digests[record.key]: LedgerHit(record.version, record.row.hex())
            for record in self.runs.find(list(digests))
            if record.version in self._lineage
        }
        for digest in digests.keys() & self._union.keys():
            version, row = self._union[digest]
            found[digests[digest]] = LedgerHit(version, row.hex())
        return found

    def refresh(self, lineage: Lineage) -> None:
        """Take in what was published or compacted since the last time.

        Raises:
            LedgerDamaged: a run is not as it was written.
        """
        self.runs.refresh()
        if (lineage, self.runs.signature) == (self._lineage, self._signature):
            return
        wanted = self._load_missing(lineage)
        left = self._by_version.keys() - wanted
        for version in left:
            del self._by_version[version]
        if left:
            self._union, self._joined = {}, set()
        for version in sorted(wanted - self._joined):
            for key, row in self._by_version[version].items():
                self._union[key] = (version, row)
        self._joined = wanted
        self._lineage, self._signature = lineage, self.runs.signature

    def compact(self, through: int, lineage: Lineage) -> None:
        """Make the ids of every version up to ``through`` durable in a run."""
        self.refresh(lineage)
        first = self.runs.compacted_through + 1
        if first > through:
            return
        records = [
            IdRecord(key, row, version)
            for version, ids in self._by_version.items()
            if first <= version <= through and version in lineage
            for key, row in ids.items()
        ]
        self.runs.add(first, through, records)

    def compact_readable(self, lineage: Lineage) -> None:
        """Do so with all versions before the first whose ids are not known, and may yet be."""
        self.refresh(lineage)
        unknown = [version for version in self.unreadable if version > self.runs.compacted_through]
        self.compact(min(unknown, default=lineage.head + 1) - 1, lineage)

    def _load_missing(self, lineage: Lineage) -> set[int]:
        """Read what is not in memory yet; the versions that belong there."""
        while True:
            wanted = lineage.numbers(self.runs.compacted_through + 1)
            if all(self._load(version) for version in sorted(wanted - self._by_version.keys())):
                return wanted

    def _load(self, version: int) -> bool:
        """Read one version; False when it has been compacted meanwhile."""
        try:
            self._by_version[version] = self._read(version)
        except (VersionDamaged, VersionPruned):
            self.runs.refresh()
            if self.runs.compacted_through >= version:
                return False
            self._by_version[version] = {}
            self.unreadable.add(version)
        return True


def ids_of(entries: Iterable[LedgerEntry]) -> dict[bytes, bytes]:
    """Key digest -> cut of the row's sha256."""
    return {entry.key.digest(): bytes.fromhex(entry.row_sha256)[:CUT_BYTES] for entry in entries}


def read_ids(state_dir: Path, version: int) -> Ids:
    """The ids that a version added; from its manifest when ``ledger.parquet`` is damaged.

    Raises:
        VersionPruned: it is gone. VersionDamaged: both are damaged. OSError: they cannot be read just now.
    """
    folder = version_folder(state_dir, version)
    manifest = read_manifest(folder, version)
    try:
        data = read_file(folder, manifest, LEDGER)
    except VersionDamaged:
        return {EpisodeKey(*key).digest(): bytes.fromhex(row) for *key, row in manifest["keys"]}
    from policies.ledger_file import decode_ids  # noqa: PLC0415 - loads pyarrow

    return {key: bytes.fromhex(row)[:CUT_BYTES] for key, row in decode_ids(data)}


def manifest_keys(entries: Iterable[LedgerEntry]) -> list[list[Any]]:
    """The manifest's ``keys``: in the order of learning, each with the cut of its row's hash."""
    return [[*entry.key, entry.row_sha256[:CUT_DIGITS]] for entry in entries]
