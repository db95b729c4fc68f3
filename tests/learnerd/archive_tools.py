"""What tests of the archive share: a daemon's archive, learned, compacted and read."""

from experience.archive_reader import ArchiveReader
from experience.compaction import compact
from experience.compaction_output import Compacted
from experience.spool import Spool
from policies.ledger import Lineage
from policies.store import CheckpointStore


def learn(site, drop, *counts):
    for count in counts:
        for _ in range(count):
            drop()
        assert site.run_here() == 0
    return site.current()


def compact_all(site):
    """Compact every day, as if all were over."""
    head = CheckpointStore(site.state).head()
    report = Compacted()
    root = Spool(site.folder / "spool").archive_folder
    for _ in compact(root, before="9999", ancestors=lambda: Lineage.of(head).__contains__, report=report):
        pass
    return report


def reader(site):
    return ArchiveReader(Spool(site.folder / "spool").archive_folder)


def read_ids(site):
    archive = reader(site)
    return sorted(e.episode_id for version in archive.versions() for e in archive.episodes(version))


def spoil(site, version, name="model.safetensors"):
    path = site.state / "checkpoints" / f"{version:08d}" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def expected(count):
    return sorted(f"episode-{i}" for i in range(1, count + 1))
