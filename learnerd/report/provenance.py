"""Provenance: which episodes, of whom and from which files, a version was made of."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experience.errors import ShardDamaged
from learnerd import versions
from learnerd.config import Config
from learnerd.version_origin import origin
from policies.checkpoint import LedgerEntry
from policies.errors import StoreError
from policies.store import CheckpointStore

MOST = 20
"""Clients and files that are named; of more, the number is."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What is known of one version.

    Attributes:
        version: its number.
        facts: (name, value) from its manifest and its ledger, for people.
        clients: (client, episodes), most first.
        files: names of the files that its episodes came from.
        file_states: (file of the version, "ok", "wrong" or "missing", sha256).
        problem: why less is known than there should be, or "".
    """

    version: int
    facts: Sequence[tuple[str, Any]] = ()
    clients: Sequence[tuple[str, int]] = ()
    files: Sequence[str] = ()
    file_states: Sequence[tuple[str, str, str]] = ()
    problem: str = ""


def provenance(config: Config, version: int) -> Provenance:
    """Read what is there; a version that was pruned or damaged leaves a problem, not an error."""
    state = config.paths.state
    if version not in versions.numbers(state):
        facts = (("archive", _shards(config, version)),)
        return Provenance(version=version, facts=facts, problem="it was pruned, or never published")
    found = versions.details(state, version)
    problem = "; ".join(found["damage"])
    entries: list[LedgerEntry] = []
    try:
        entries = CheckpointStore(state).episodes(version)
    except StoreError as error:
        problem = problem or str(error)
    return Provenance(
        version=version,
        facts=(
            *_manifest_facts(found["manifest"] or {}),
            *_ledger_facts(entries),
            ("archive", _shards(config, version)),
        ),
        clients=Counter(entry.key.client_id or "(no client id)" for entry in entries).most_common(MOST),
        files=list(dict.fromkeys(entry.source_name for entry in entries if entry.source_name)),
        file_states=[(name, file["state"], file["sha256"] or "") for name, file in found["files"].items()],
        problem=problem,
    )


def _manifest_facts(manifest: dict[str, Any]) -> list[tuple[str, Any]]:
    record = manifest.get("record")
    record = record if isinstance(record, dict) else {}
    told = dict(origin(manifest))
    return [
        ("parents", ", ".join(map(str, manifest.get("parents") or ()))),
        ("writer", manifest.get("writer")),
        ("episodes in all", manifest.get("episodes_total")),
        ("updates in all", manifest.get("updates_total")),
        ("rollback", manifest.get("rollback")),
        ("merge", manifest.get("merge")),
        ("config digest", record.get("config_digest")),
        ("settings", told.get("settings")),
        ("made on", told.get("made on")),
        ("libraries", told.get("libraries", "")),
    ]


def _ledger_facts(entries: Sequence[LedgerEntry]) -> list[tuple[str, Any]]:
    if not entries:
        return [("episodes of its own", 0)]
    returns = [entry.total_reward for entry in entries]
    acted = sorted({entry.policy_version for entry in entries if entry.policy_version})
    return [
        ("episodes of its own", len(entries)),
        ("steps", sum(entry.n_steps for entry in entries)),
        ("updates", len({entry.update for entry in entries})),
        ("returns", f"{min(returns):.4g} to {max(returns):.4g}, mean {sum(returns) / len(returns):.4g}"),
        ("versions that acted", f"{acted[0]} to {acted[-1]}" if acted else "none of ours, or unknown"),
        ("ingested from", min(entry.ingested_at for entry in entries)),
        ("ingested to", max(entry.ingested_at for entry in entries)),
    ]


def _shards(config: Config, version: int) -> str:
    """Where the rows that a version learned from are."""
    from learnerd.archived import archive_of  # noqa: PLC0415 - loads pyarrow

    try:
        places = archive_of(config).places(version)
    except ShardDamaged as error:
        return f"damaged: {error}"
    return (
        ", ".join(map(str, places)) or "no rows of it: removed by [archive] retention, or it learned nothing"
    )
