"""VersionInfo: what a list of versions shows, from the manifests alone."""

from dataclasses import dataclass, replace
from pathlib import Path

from policies.errors import VersionDamaged, VersionPruned
from policies.manifest import read_manifest, version_folder


@dataclass(frozen=True, kw_only=True)
class VersionInfo:
    """What a list of versions shows.

    Attributes:
        version: its number.
        parents, writer, saved_at: as in ``Checkpoint``; (), "" and 0 when its manifest cannot be read.
        episodes: how many episodes it added.
        episodes_total, updates_total: learned by it and its ancestors.
        size_bytes: of its files together.
        current, pinned, damaged: whether ``CURRENT`` names it, retention spares it, its manifest is broken.
    """

    version: int
    parents: tuple[int, ...] = ()
    writer: str = ""
    saved_at: float = 0.0
    episodes: int = 0
    episodes_total: int = 0
    updates_total: int = 0
    size_bytes: int = 0
    current: bool = False
    pinned: bool = False
    damaged: bool = False


def with_manifest(state_dir: Path, info: VersionInfo) -> VersionInfo | None:
    """Fill in what the version's manifest says; None when it is gone."""
    try:
        manifest = read_manifest(version_folder(state_dir, info.version), info.version)
    except VersionPruned:
        return None
    except VersionDamaged:
        return replace(info, damaged=True)
    return replace(
        info,
        parents=tuple(manifest["parents"]),
        writer=manifest["writer"],
        saved_at=manifest["saved_at"],
        episodes=len(manifest["keys"]),
        episodes_total=manifest["episodes_total"],
        updates_total=manifest["updates_total"],
    )
