"""Archived: the versions whose episodes the archive still has, for those who learn from them again."""

from pathlib import Path

import structlog

from experience.archive_reader import ArchiveReader
from experience.spool import Spool
from learnerd.config import Config
from policies.ledger import Lineage
from policies.store import CheckpointStore

log = structlog.get_logger(__name__)

READER = "replay"


def archived_versions(config: Config) -> list[int]:
    """Return the versions that the archive has rows of, in order.

    Not those of versions that were damaged and are no ancestors of the newest one: what they had learned is
    learned again under a later number.
    """
    head = CheckpointStore(config.paths.state).head()
    skipped = () if head is None else Lineage.of(head).skipped
    archive = archive_of(config)
    for path, what in archive.damaged().items():
        log.warning("not_replayed", shard=path.name, error=what)
    return [v for v in archive.versions() if not any(low <= v <= high for low, high in skipped)]


def archive_of(config: Config) -> ArchiveReader:
    """Return a reader of the archive as it is now."""
    return ArchiveReader(archive_folder(config))


def archive_folder(config: Config) -> Path:
    """Return the archive's folder."""
    return Spool(config.paths.spool, writer=READER).archive_folder
