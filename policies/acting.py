"""Acting: which version clients are to act with, when that is not simply the newest one.

``CURRENT`` is the truth for acting, the highest verified version is the truth for publishing. As long as
nobody holds versions back both are the same. Once somebody does (``Acting.held``), each manifest says as
``acting`` which version ``CURRENT`` names when it is published, so that versions can accumulate as
candidates: published in order, with their ledger, learned on from, but not acted with. It never names a
lower version than before it, and it is in the manifest, so that whoever finds ``CURRENT`` missing or behind
knows what it should say.

A writer that says nothing about it, such as an online learner, leaves it as it is: held stays held.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policies.checkpoint import Checkpoint
from policies.errors import NothingToPromote
from policies.rollback import Rejected

MANIFEST_KEY = "acting"


@dataclass(frozen=True, kw_only=True)
class Acting:
    """What a publisher wants clients to act with.

    Attributes:
        version: that one, or the one of before where that is newer; 0: none yet; None: the new one itself.
        held: whether later versions wait for such a word too; False: the newest one acts from now on.
    """

    version: int | None = None
    held: bool = False


def acting_version(manifest: Mapping[str, Any]) -> int:
    """The version to act with as of a version's publication; 0: none."""
    return int(manifest.get(MANIFEST_KEY, manifest["version"]))


def is_held(manifest: Mapping[str, Any]) -> bool:
    """Whether versions after this one wait for a word before they are acted with."""
    return MANIFEST_KEY in manifest


def acting_entry(asked: Acting | None, parent: Checkpoint | None, number: int) -> dict[str, int]:
    """What the manifest of version ``number`` says; {}: itself, and so do those after it.

    Args:
        asked: by the publisher; None: as its parent.
        parent: what it succeeds; None: nothing.
        number: its own.
    """
    if asked is None:
        held = parent is not None and is_held(parent.manifest)
        asked = Acting(version=acting_version(parent.manifest), held=True) if parent and held else Acting()
    if not asked.held:
        return {}
    before = 0 if parent is None or parent.version == 0 else acting_version(parent.manifest)
    return {MANIFEST_KEY: number if asked.version is None else max(before, asked.version)}


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """That a save lets a version be acted with that was held back.

    Attributes:
        version: which one; None: the newest one's weights, as the new version.
    """

    version: int | None = None

    def check(self, head: Checkpoint) -> None:
        """Check that there is something to do.

        Raises:
            NothingToPromote: it acts already, or is older than what acts, or was rejected.
        """
        acting = acting_version(head.manifest)
        version = head.version if self.version is None else self.version
        if version <= acting:
            raise NothingToPromote(version=version, reason=f"version {acting} acts, which is no older")
        if version > head.version:
            raise NothingToPromote(version=version, reason=f"the newest is version {head.version}")
        if rejection := Rejected.of(head).find(version):
            raise NothingToPromote(version=version, reason=f"version {rejection.by} rejected it")

    def asked(self, head: Checkpoint | None) -> Acting:
        """What the new version's manifest is to say."""
        return Acting(version=self.version, held=head is not None and is_held(head.manifest))
