"""Verify rows: what a version learned from, as the archive has it, held against what its manifest says."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from experience.archive_folder import first_version, shard_name
from experience.archive_reader import ArchiveReader
from experience.episode import Episode, EpisodeKey
from experience.errors import ShardDamaged
from learnerd.errors import NotRebuilt
from learnerd.learn import EARNED, Passes
from learnerd.replay_buffer import Archived, size_bytes
from policies.errors import StoreError
from policies.ledger import CUT_DIGITS
from policies.recorded import RecordedVersions

MOST_BYTES = 256 * 2**20
"""Of rows in memory: what is learned again is mostly young."""


class LearnedRows:
    """Reads rows of the archive, version by version; those read last stay in memory.

    Args:
        archive: its folder.
        recorded: tells which rows a version must have.
    """

    def __init__(self, archive: Path, recorded: RecordedVersions) -> None:
        self._folder = archive
        self._reader = ArchiveReader(archive)
        self._recorded = recorded
        self._kept: OrderedDict[int, dict[EpisodeKey, Episode]] = OrderedDict()
        self._bytes = 0

    def of(self, manifest: Mapping[str, Any]) -> list[Episode]:
        """The episodes of a version, in the order of learning.

        Raises:
            NotRebuilt: some are not there, or are not those that were learned; names the file.
        """
        version: int = manifest["version"]
        rows, wanted = self._read(version), _sha256_of(manifest)
        wrong = [key for key, cut in wanted.items() if key not in rows or _cut(rows[key]) != cut]
        if wrong:
            what = "altered since they were learned, in" if rows.keys() >= set(wrong) else "missing in"
            reason = f"{_some(wrong)} of {len(wanted)}: {what} {self._where(version)}"
            raise NotRebuilt(reason, by_retention=self.are_removed(version))
        return [rows[key] for key in wanted]

    def are_removed(self, version: int) -> bool:
        """Whether the archive's retention has taken a version's rows by now: it begins after them."""
        return version < (first_version(self._folder) or 0)

    def chunks(self, manifest: Mapping[str, Any]) -> list[Sequence[Episode]]:
        """The same, one sequence an update; raises as ``of``."""
        updates = manifest["record"]["updates"]
        sizes = [update["episodes"] - len(update.get("replayed", ())) for update in updates]
        episodes = self.of(manifest)
        if sum(sizes) != len(episodes):
            raise NotRebuilt(f"its updates count {sum(sizes)} episodes, its ledger {len(episodes)}")
        rest = iter(episodes)
        return [list(islice(rest, size)) for size in sizes]

    def passes(self, manifest: Mapping[str, Any]) -> Passes:
        """What the version learned again; raises as ``of``."""
        replayed = [
            [(int(number), EpisodeKey(*key)) for number, *key in update.get("replayed", ())]
            for update in manifest["record"]["updates"]
        ]
        numbers = {number for places in replayed for number, _ in places}
        wanted = {number: self._wanted(number) for number in numbers}
        return Passes(
            replayed=tuple(
                tuple(self._archived(number, key, wanted[number]) for number, key in places)
                for places in replayed
            ),
            earned=int(manifest["delta_counters"].get(EARNED, 0)),
        )

    def _archived(self, version: int, key: EpisodeKey, wanted: Mapping[EpisodeKey, str]) -> Archived:
        found = self._read(version).get(key)
        if found is None:
            reason = f"{_some([key])}, learned again: missing in {self._where(version)}"
            raise NotRebuilt(reason, by_retention=self.are_removed(version))
        if wanted.get(key, _cut(found)) != _cut(found):
            raise NotRebuilt(f"{_some([key])}, learned again: altered in {self._where(version)}")
        return Archived(version=version, episode=found)

    def _wanted(self, version: int) -> dict[EpisodeKey, str]:
        """What the episodes of a version must be; nothing when nothing is recorded of it any more."""
        try:
            return _sha256_of(self._recorded.manifest(version))
        except StoreError:
            return {}

    def _read(self, version: int) -> dict[EpisodeKey, Episode]:
        if version not in self._kept:
            try:
                episodes = self._reader.episodes(version)
            except (ShardDamaged, FileNotFoundError) as error:
                raise NotRebuilt(str(error)) from error
            self._kept[version] = {episode.key: episode for episode in episodes}
            self._bytes += _bytes(self._kept[version])
        self._kept.move_to_end(version)
        while self._bytes > MOST_BYTES and len(self._kept) > 1:
            self._bytes -= _bytes(self._kept.popitem(last=False)[1])
        return self._kept[version]

    def _where(self, version: int) -> str:
        """The files that a version's rows stand in, or would."""
        try:
            places = self._reader.places(version)
        except ShardDamaged as error:
            return str(error)
        names = [str(path.relative_to(self._folder)) for path in places]
        return ", ".join(names) or f"the archive (no {shard_name(version)}, and no compacted shard of it)"


def _some(keys: Sequence[EpisodeKey]) -> str:
    first = f"episode {keys[0].episode_id!r} of client {keys[0].client_id!r}"
    return first if len(keys) == 1 else f"{first} and {len(keys) - 1} more"


def _sha256_of(manifest: Mapping[str, Any]) -> dict[EpisodeKey, str]:
    """What the rows of a version must hash to, cut, in the order of learning."""
    return {EpisodeKey(*key): cut for *key, cut in manifest["keys"]}


def _cut(episode: Episode) -> str:
    return episode.row_sha256[:CUT_DIGITS]


def _bytes(rows: Mapping[EpisodeKey, Episode]) -> int:
    return sum(map(size_bytes, rows.values()))
