"""What can go wrong with policies.

PolicyError
├── NoPolicyYet        no version has been published
├── WrongSpaces        the policy observes or does something else than the client
├── NotEvaluable       logged episodes that cannot tell what a policy is worth
├── UpdateDiverged     a loss, a gradient or a weight became non-finite
│   └── UpdateUnstable   all is finite, but something is beyond its limit
└── StoreError         the store could not do what was asked
    ├── VersionDamaged   a version's files are not what its manifest says
    ├── NewerRelease     a version was written in a schema that this release does not know
    ├── VersionPruned    a version's directory is gone, by retention
    ├── NotAVersion      no such version was ever published
    ├── AlreadyLearned   the head's ledger holds some of the episodes; carries their keys
    ├── NotDurable       the version is there, but a power cut may take it back: not acknowledged
    ├── StoreBusy        the publish lock was held for too long
    ├── TrainAgain       the change fits the head no more: train again on the head
    │   ├── DriftTooLarge  the head moved too far since the base
    │   └── BaseRejected   the base was rolled back since
    ├── NothingToRollBack the head has the weights that were asked for
    ├── NothingToPromote  the version acts already, or may not act
    ├── LedgerDamaged    the ids of compacted versions are not as they were written
    └── BadDelta         a delta that does not fit: shapes, names, finiteness, spec
"""

import contextlib
from collections.abc import Iterator, Sequence

from experience.episode import EpisodeKey

SHOWN = 3


class PolicyError(Exception):
    """Anything that this package raises on purpose."""


class NoPolicyYet(PolicyError):  # noqa: N818 - it says a state, not a fault
    """No version has been published: act at random and log the log-probabilities with version 0."""


class WrongSpaces(PolicyError):  # noqa: N818 - it says a state
    """What the policy observes or does is not what the client said of itself.

    Attributes:
        theirs, ours: the client's and the policy's, as text.
    """

    def __init__(self, *, what: str, theirs: object, ours: object) -> None:
        super().__init__(f"{what} is {theirs}; the policy's is {ours}")
        self.theirs, self.ours = str(theirs), str(ours)


class NotEvaluable(PolicyError):  # noqa: N818 - it says a state
    """Logged episodes, or what was asked about them, that an estimator cannot use.

    Attributes:
        field, value, accepted: what was found, and what would be accepted.
    """

    def __init__(self, field: str, value: object, accepted: str) -> None:
        super().__init__(f"{field}: {value}; accepted: {accepted}")
        self.field = field
        self.value = value
        self.accepted = accepted


class StoreError(PolicyError):
    """The checkpoint store could not do what was asked; nothing was published, but for ``NotDurable``."""


class NotDurable(StoreError):  # noqa: N818 - it says a state
    """A version that was published, and that a power cut may take back: an fsync failed, a second one too.

    Do not publish the same again: call ``CheckpointStore.confirm`` until it succeeds.

    Attributes:
        version: its number.
    """

    def __init__(self, *, version: int, reason: str) -> None:
        super().__init__(f"version {version} is not durable yet: {reason}; confirm it before relying on it")
        self.version = version


class VersionDamaged(StoreError):  # noqa: N818 - it says a state
    """A version whose files are not what its manifest says.

    Attributes:
        version: its number.
        file: which file, relative to the version's directory.
        reason: what was found and what was expected.
    """

    def __init__(self, *, version: int, file: str, reason: str) -> None:
        super().__init__(f"version {version} is damaged: {file}: {reason}")
        self.version = version
        self.file = file
        self.reason = reason


class NewerRelease(StoreError):  # noqa: N818 - it says a state
    """A manifest in a schema that this release does not know.

    Attributes:
        path: the file.
        schema: what it says.
    """

    def __init__(self, *, path: str, schema: object, accepted: int) -> None:
        super().__init__(
            f"{path}: schema is {schema!r}; accepted: {accepted} (another release wrote it: run that one, or "
            "restore a backup)"
        )
        self.path = path
        self.schema = schema


class VersionPruned(StoreError):  # noqa: N818 - it says a state
    """A version that existed, whose directory retention has removed.

    Attributes:
        version: its number.
    """

    def __init__(self, *, version: int) -> None:
        super().__init__(f"version {version} has been pruned")
        self.version = version


class NotAVersion(StoreError):  # noqa: N818 - it says a state
    """A number above every published version, or one that was never used.

    Attributes:
        version: the number.
    """

    def __init__(self, *, version: int) -> None:
        super().__init__(f"there is no version {version}")
        self.version = version


class AlreadyLearned(StoreError):  # noqa: N818 - it says a state
    """Some of the episodes are in the head's ledger: train again without them.

    Attributes:
        keys: those episodes.
    """

    def __init__(self, *, keys: Sequence[EpisodeKey]) -> None:
        shown = ", ".join(
            f"{key.client_id}/{key.episode_id}/{key.segment}/{key.agent_id}" for key in keys[:SHOWN]
        )
        more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
        super().__init__(f"{len(keys)} episodes are learned already: {shown}{more}")
        self.keys = tuple(keys)


class StoreBusy(StoreError):  # noqa: N818 - it says a state
    """The publish lock was held by another process for longer than the timeout; try again.

    Attributes:
        path: the lock file.
        timeout_s: how long was waited.
    """

    def __init__(self, *, path: str, timeout_s: float) -> None:
        super().__init__(f"{path} is held by another process; waited {timeout_s} s")
        self.path = path
        self.timeout_s = timeout_s


class TrainAgain(StoreError):  # noqa: N818 - it says what to do
    """A change that fits the head no more: train the batch again on the head.

    Attributes:
        base: the version that was trained from.
        head: the version to train from.
    """

    def __init__(self, message: str, *, base: int, head: int) -> None:
        super().__init__(message)
        self.base = base
        self.head = head


class DriftTooLarge(TrainAgain):
    """The head moved too far since the base for a merge.

    Attributes:
        drift: relative change of the policy's weights between them.
        limit: ``drift_limit`` of ``state/merge.json``.
    """

    def __init__(self, *, base: int, head: int, drift: float, limit: float) -> None:
        message = f"the policy moved by {drift:.3g} from version {base} to {head}; the limit is {limit}"
        super().__init__(message, base=base, head=head)
        self.drift = drift
        self.limit = limit


class BaseRejected(TrainAgain):
    """The base was rolled back: what rejected weights taught must not steer those that replaced them.

    Attributes:
        to: the version that was gone back to.
        by: the version that did.
    """

    def __init__(self, *, base: int, head: int, to: int, by: int) -> None:
        message = (
            f"version {base} was rejected by the rollback to {to} (version {by}); accepted: a change of "
            f"version {head} or of one that is not rejected"
        )
        super().__init__(message, base=base, head=head)
        self.to = to
        self.by = by


class NothingToRollBack(StoreError):  # noqa: N818 - it says a state
    """The head has the weights that were asked for; nothing was published.

    Attributes:
        to: the version to go back to.
        head: the newest version.
    """

    def __init__(self, *, to: int, head: int) -> None:
        super().__init__(f"version {head}, the newest, has the weights of version {to} already")
        self.to = to
        self.head = head


class NothingToPromote(StoreError):  # noqa: N818 - it says a state
    """The version that was to be acted with acts already, or may not; nothing was published.

    Attributes:
        version: which one.
        reason: why not.
    """

    def __init__(self, *, version: int, reason: str) -> None:
        super().__init__(f"version {version} is not promoted: {reason}")
        self.version = version
        self.reason = reason


class LedgerDamaged(StoreError):  # noqa: N818 - it says a state
    """A run of learned ids is not as it was written; publishing without it could learn episodes twice.

    Attributes:
        path: the file.
        reason: what was found.
    """

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}; restore it, or remove it and accept that its ids are forgotten")
        self.path = path
        self.reason = reason


class BadDelta(StoreError):  # noqa: N818 - it names what is wrong
    """A delta that the store does not accept.

    Attributes:
        field: which of its arrays or counters.
        value: what was found.
        accepted: what would be accepted.
    """

    def __init__(self, *, field: str, value: object, accepted: str) -> None:
        super().__init__(f"delta.{field} is {value}; accepted: {accepted}")
        self.field = field
        self.value = value
        self.accepted = accepted


class UpdateDiverged(PolicyError):  # noqa: N818 - it says a state
    """Something became non-finite during an update; what was learned is to be thrown away.

    Attributes:
        what: which quantity.
        value: what it is.
        accepted: what would have been accepted.
    """

    def __init__(self, *, what: str, value: float, accepted: str = "finite numbers") -> None:
        super().__init__(f"{what} is {value:.6g} during the update; accepted: {accepted}")
        self.what = what
        self.value = value
        self.accepted = accepted


class UpdateUnstable(UpdateDiverged):
    """An update went beyond one of the limits; what was learned is to be thrown away.

    Attributes:
        update: which of the cycle's updates, from 0.
    """

    def __init__(self, *, what: str, value: float, accepted: str, update: int) -> None:
        super().__init__(what=what, value=value, accepted=accepted)
        self.update = update


@contextlib.contextmanager
def as_store_error(what: str) -> Iterator[None]:
    """One error tree for callers: what the operating system says becomes a StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{what}: {error}") from error
