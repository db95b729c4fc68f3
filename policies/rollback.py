"""Rollback: an old version's weights as the newest one, and which versions are rejected by that.

Order never runs backwards: a rollback succeeds the head like any other version, keeps its ledger and its
counts, and takes weights, optimizer and statistics from the version that it goes back to. What lies between
is rejected: it stays an ancestor, so that nothing is learned twice, but nothing is learned from it any more.

Each manifest holds all rejected ranges as ``rejected: [[first, last], …]``: those that the version that was
gone back to knew of, and the range between. So a range tells its own rollback: version ``last + 1``, to
``first - 1``.
"""

from dataclasses import dataclass
from typing import Any, Self

from policies.checkpoint import Checkpoint
from policies.errors import NothingToRollBack, StoreError
from policies.ledger import Lineage

MANIFEST_KEY = "rejected"


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """The versions that one rollback rejected.

    Attributes:
        first, last: the lowest and the highest of them.
    """

    first: int
    last: int

    @property
    def to(self) -> int:
        """The version whose weights were published again."""
        return self.first - 1

    @property
    def by(self) -> int:
        """The version that published them."""
        return self.last + 1


@dataclass(frozen=True)
class Rejected:
    """What is rejected in the lineage of a head.

    Attributes:
        rejections: ascending; they neither overlap nor touch.
    """

    rejections: tuple[Rejection, ...] = ()

    @classmethod
    def of(cls, head: Checkpoint | None) -> Self:
        """What a version's manifest says; nothing when there is none."""
        ranges = [] if head is None else head.manifest.get(MANIFEST_KEY, [])
        return cls(tuple(Rejection(first=first, last=last) for first, last in ranges))

    def find(self, version: int) -> Rejection | None:
        """By which rollback a version was rejected; None when it was not."""
        return next((one for one in self.rejections if one.first <= version <= one.last), None)

    def named(self) -> set[int]:
        """Versions to keep for whoever wants to see what happened: the two ends, and what was the head."""
        return {number for one in self.rejections for number in (one.to, one.last, one.by)}

    def to_json(self) -> list[list[int]]:
        """As in the manifest."""
        return [[one.first, one.last] for one in self.rejections]


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """That a save is a rollback to its base.

    Attributes:
        reason: for the manifest and for people.
        worse: do it only while this version is not rejected; None: in any case.
    """

    reason: str
    worse: int | None = None

    def check(self, to: Checkpoint, head: Checkpoint) -> None:
        """Check that there is something to do; a repeated call must not reject its own first result.

        Raises:
            NothingToRollBack: the head has these weights, or somebody else rejected ``worse``.
            StoreError: ``to`` is none of its ancestors.
        """
        if to.version not in Lineage.of(head):
            raise StoreError(f"version {to.version} is no ancestor of version {head.version}: it was damaged")
        same = to.version in (head.version, (head.manifest.get("rollback") or {}).get("to"))
        rejection = None if self.worse is None else Rejected.of(head).find(self.worse)
        if same or rejection is not None:
            raise NothingToRollBack(to=to.version if rejection is None else rejection.to, head=head.version)

    def entries(self, to: Checkpoint, number: int) -> dict[str, Any]:
        """What a rollback's manifest says about it; ``number`` is its version."""
        own = Rejection(first=to.version + 1, last=number - 1)
        return {
            MANIFEST_KEY: [*Rejected.of(to).to_json(), [own.first, own.last]],
            "rollback": {"to": to.version, "rejected": [[own.first, own.last]], "reason": self.reason},
        }
