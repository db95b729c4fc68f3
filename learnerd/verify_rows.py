"""Verify rows: what a version learned from, as the archive has it, held against what its manifest says."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
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
        self._kept: OrderedDict[int, list[Episode]] = OrderedDict()
        self._bytes = 0

    def of(self, manifest: Mapping[str, Any]) -> list[Episode]:
        """The episodes of a version, in the order of learning.

        Raises:
            NotRebuilt: some are not there, or are not those that were learned; names the file.
        """
        version: int = manifest["version"]
        rows = {(episode.key, episode.row_sha256[:CUT_DIGITS]): episode for episode in self._read(version)}
        wanted = [(EpisodeKey(*key), row) for *key, row in manifest["keys"]]
        wrong = [key for key, row in wanted if (key, row) not in rows]
        if wrong:
            there = {key for key, _ in rows}
            what = "altered since they were learned, in" if there.issuperset(wrong) else "missing in"
            reason = f"{_some(wrong)} of {len(wanted)}: {what} {self._where(version)}"
            raise NotRebuilt(reason, by_retention=self.are_removed(version))
        return [rows[one] for one in wanted]

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
        return [[episodes.pop(0) for _ in range(size)] for size in sizes]

    def passes(self, manifest: Mapping[str, Any]) -> Passes:
        """What the version learned again; raises as ``of``."""
        replayed = [update.get("replayed", ()) for update in manifest["record"]["updates"]]
        return Passes(
            replayed=tuple(tuple(map(self._archived, places)) for places in replayed),
            earned=int(manifest["delta_counters"].get(EARNED, 0)),
        )

    def _archived(self, place: Sequence[Any]) -> Archived:
        version, key = int(place[0]), EpisodeKey(*place[1:])
        found = next((episode for episode in self._read(version) if episode.key == key), None)
        if found is None:
            reason = f"{_some([key])}, learned again: missing in {self._where(version)}"
            raise NotRebuilt(reason, by_retention=self.are_removed(version))
        wanted = self._wanted(version, key)
        if wanted is not None and found.row_sha256[:CUT_DIGITS] != wanted:
            raise NotRebuilt(f"{_some([key])}, learned again: altered in {self._where(version)}")
        return Archived(version=version, episode=found)

    def _wanted(self, version: int, key: EpisodeKey) -> str | None:
        try:
            keys = self._recorded.manifest(version)["keys"]
        except StoreError:
            return None
        return next((str(row) for *parts, row in keys if EpisodeKey(*parts) == key), None)

    def _read(self, version: int) -> list[Episode]:
        if version not in self._kept:
            try:
                self._kept[version] = self._reader.episodes(version)
            except (ShardDamaged, FileNotFoundError) as error:
                raise NotRebuilt(str(error)) from error
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


def _bytes(episodes: Sequence[Episode]) -> int:
    return sum(map(size_bytes, episodes))
