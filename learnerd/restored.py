"""Restored: an archive that is newer than the store, as after a backup of ``state`` was put back."""

import structlog

from experience.errors import ShardDamaged
from experience.spool import Spool
from policies.ledger import Lineage
from policies.store import CheckpointStore

log = structlog.get_logger(__name__)


def set_apart(store: CheckpointStore, spool: Spool) -> None:
    """Have versions that the archive holds and the store never published learned again, by ``repair``.

    Only when both belong together: the newest version that both know learned what the archive says. Else
    nothing is touched: a folder may not be mounted, or somebody began anew beside an old archive. Call it
    before anything is published: the next version takes the number of the first of them.
    """
    from experience import unpublished  # noqa: PLC0415 - loads pyarrow

    highest = store.highest_used()
    if not unpublished.above(spool.archive_folder, highest):
        return
    if not _belong_together(store, spool):
        remedy = "if both are of one policy, restore a newer backup of state; else move spool/archive away"
        log.warning("archive_of_another_store", highest_published=highest, remedy=remedy)
        return
    count = unpublished.set_apart(spool.archive_folder, highest)
    log.warning("learned_again_after_restore", versions=count, highest_published=highest)


def _belong_together(store: CheckpointStore, spool: Spool) -> bool:
    from experience.archive_reader import ArchiveReader  # noqa: PLC0415 - loads pyarrow

    lineage, archive = Lineage.of(store.head()), ArchiveReader(spool.archive_folder)
    for version in reversed([version for version in archive.versions() if version in lineage]):
        try:
            hits = store.lookup([episode.key for episode in archive.episodes(version)])
        except ShardDamaged:
            continue
        return any(hit.version == version for hit in hits.values())
    return False
