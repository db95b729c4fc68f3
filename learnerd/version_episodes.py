"""Version episodes: what a version learned from, in the order of learning; of a pruned one by its record.

While the version is there its ledger tells; later its record names the episodes, and the archive has more.
"""

from collections.abc import Mapping
from typing import Any

from experience.collate import usable_steps
from experience.episode import Episode, EpisodeKey
from experience.errors import ShardDamaged
from learnerd.archived import archive_of
from learnerd.config import Config
from policies.checkpoint import LedgerEntry
from policies.errors import StoreError
from policies.ledger import CUT_DIGITS
from policies.store import CheckpointStore

Row = dict[str, Any]


def episodes_of(config: Config, manifest: Mapping[str, Any]) -> list[Row]:
    """List the episodes that a version added, then those that it learned again, update by update.

    Returns:
        One row an episode: ``update`` (from 0), ``learned_again_from`` (a version, or None), the key,
        ``steps``, ``return``, ``policy_version`` and ``row_sha256``; None what is not known any more.
    """
    version: int = manifest["version"]
    try:
        new = [_of_entry(entry) for entry in CheckpointStore(config.paths.state).episodes(version)]
    except StoreError:
        new = _of_record(config, manifest)
    again = [
        _row(EpisodeKey(*place[1:]), update=i, again=place[0])
        for i, update in enumerate(manifest["record"].get("updates", ()))
        for place in update.get("replayed", ())
    ]
    return sorted(new + again, key=lambda row: row["update"])


def _of_entry(entry: LedgerEntry) -> Row:
    return _row(
        entry.key,
        update=entry.update,
        steps=entry.n_steps,
        total_reward=entry.total_reward,
        policy_version=entry.policy_version,
        row_sha256=entry.row_sha256,
    )


def _of_record(config: Config, manifest: Mapping[str, Any]) -> list[Row]:
    """By the manifest's keys, with what the archive has of them."""
    archived = _archived(config, manifest["version"])
    updates = manifest["record"].get("updates") or []
    sizes = [update["episodes"] - len(update.get("replayed", ())) for update in updates]
    numbers = [i for i, size in enumerate(sizes) for _ in range(size)]
    rows = []
    for at, (*parts, cut) in enumerate(manifest["keys"]):
        key, update = EpisodeKey(*parts), numbers[at] if at < len(numbers) else 0
        episode = archived.get((key, cut))
        if episode is None:
            rows.append(_row(key, update=update, row_sha256=cut))
            continue
        rows.append(
            _row(
                key,
                update=update,
                steps=episode.n_steps,
                total_reward=float(episode.reward[: usable_steps(episode)].sum()),
                policy_version=episode.policy_version,
                row_sha256=episode.row_sha256,
            )
        )
    return rows


def _archived(config: Config, version: int) -> dict[tuple[EpisodeKey, str], Episode]:
    try:
        found = archive_of(config).episodes(version)
    except (ShardDamaged, FileNotFoundError):
        found = []
    return {(episode.key, episode.row_sha256[:CUT_DIGITS]): episode for episode in found}


def _row(
    key: EpisodeKey,
    *,
    update: int,
    again: int | None = None,
    steps: int | None = None,
    total_reward: float | None = None,
    policy_version: int | None = None,
    row_sha256: str | None = None,
) -> Row:
    return {
        "update": update,
        "learned_again_from": again,
        **key._asdict(),
        "steps": steps,
        "return": total_reward,
        "policy_version": policy_version,
        "row_sha256": row_sha256,
    }
