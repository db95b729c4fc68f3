"""Rollbacks: counts what versions really earn, goes back when one earns less, and tells of it.

Returns are counted when their episodes are learned. What cannot be attributed to one version is left out: an
episode in which none of ours acted, or several did, or that has no end. A segment of a session counts as an
episode of its own.
"""

from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

import structlog

from experience.episode import Episode
from learnerd import live_returns
from learnerd.config import Config
from learnerd.cycle import CycleReport
from learnerd.live_returns import LiveReturns
from learnerd.reporter import Reporter
from learnerd.stretches import Finding, Stretches, numbers
from learnerd.trainer import Trainer
from policies.checkpoint import Checkpoint
from policies.errors import NotAVersion, NothingToRollBack, StoreError, VersionDamaged, VersionPruned
from policies.rollback import Rejected
from policies.store import CheckpointStore

log = structlog.get_logger(__name__)

SETTLED = 2
"""Full stretches since a rollback, the last one no worse than the one before: then its alarm is over."""

Seen = tuple[Checkpoint | None, dict[str, Any] | None]
"""The head, and its newest rollback unless that was told of before."""


class Rollbacks:
    """Belongs to the loop's thread; what needs the store is done on the training thread.

    Args:
        config: ``[rollback]``, and where the state is.
        store: the cycle's.
        trainer: on whose thread.
        reporter: who is told.
    """

    def __init__(
        self, config: Config, *, store: CheckpointStore, trainer: Trainer, reporter: Reporter
    ) -> None:
        self._config = config
        self._store = store
        self._trainer = trainer
        self._reporter = reporter
        self._live = LiveReturns()
        self._stretches = Stretches(**config.rollback.model_dump(exclude={"mode"}))
        self._finding: Finding | None = None
        self._failure = ""
        self._told: dict[str, Any] | None = None
        self._future: Future[Seen] | None = None
        self._tried = False

    @property
    def busy(self) -> bool:
        """A look or a rollback is under way."""
        return self._future is not None

    def restore(self) -> None:
        """Go on with what an earlier run knew."""
        document = live_returns.read(self._config.paths.state)
        self._live.restore(document.get("versions"))
        self._stretches.restore(document.get("stretches"))
        told = document.get("rolled_back")
        self._told = told if isinstance(told, dict) else None
        try:
            self._finding = Finding.from_json(document["finding"])
        except (TypeError, KeyError, ValueError, IndexError):
            self._finding = None
        self._tell()

    def note(self, report: CycleReport) -> None:
        """Count the returns of what a cycle learned, and judge them."""
        if self._see(report.head):
            self.look()  # whose it was, and why
        if report.learned is None:
            return
        for episode in report.learned.episodes:
            version = attributed(episode)
            if version is not None:
                self._live.add(version, episode.total_reward)
                found = self._stretches.add(version, episode.total_reward)
                self._judge(found)
        self._remember()
        self._tell()

    def look(self) -> None:
        """Begin to look whether somebody else published or rolled back; also when nothing is learned."""
        self._tried = False
        if self._future is None:
            self._future = self._trainer.submit(self._look)

    def step(self) -> None:
        """Go on: take what a look or a rollback found, and begin a rollback that is due."""
        if self._future is not None:
            if not self._future.done():
                return
            self._take(self._future)
        if self._finding is not None and not self._tried and self._config.rollback.mode == "auto":
            finding, self._tried = self._finding, True
            self._future = self._trainer.submit(lambda: self._roll_back(finding))

    def _judge(self, found: Finding | None) -> None:
        if self._config.rollback.mode == "off":
            return
        if self._finding is not None and self._stretches.recovered(self._finding):
            self._finding, self._failure = None, ""
        if found is not None and self._finding is None:
            self._finding, self._tried = found, False

    def _look(self) -> Seen:
        """On the training thread: the head, and its newest rollback."""
        head = self._store.head()
        rejections = Rejected.of(head).rejections
        if not rejections or (self._told or {}).get("version") == rejections[-1].by:
            return head, None
        newest = rejections[-1]
        told = {"version": newest.by, "to": newest.to, "rejected": [newest.first, newest.last]}
        try:
            manifest = self._store.manifest(newest.by)
        except StoreError:
            return head, told | {"reason": "its manifest is gone", "automatic": False, "at": None}
        reason = (manifest.get("rollback") or {}).get("reason", "")
        automatic = manifest["writer"] == self._config.daemon.name
        return head, told | {"reason": reason, "automatic": automatic, "at": manifest["saved_at"]}

    def _roll_back(self, finding: Finding) -> Seen:
        """On the training thread: go back to the first version of the better stretch that is still there.

        The first one, because the decline may have begun within the stretch.
        """
        for version in range(finding.better[0], finding.better[1] + 1):
            if version != finding.better[1] and self._live.of(version) is None:
                continue  # nobody has acted with it: it was held back
            try:
                self._store.rollback(
                    version, writer=self._config.daemon.name, reason=str(finding), worse=finding.worse[0]
                )
            except NothingToRollBack:
                pass  # somebody else was quicker
            except (VersionPruned, VersionDamaged, NotAVersion):
                continue
            return self._look()
        raise StoreError(f"nothing is left of {numbers(*finding.better)}: raise [store] keep_last")

    def _take(self, future: "Future[Seen]") -> None:
        self._future = None
        try:
            head, told = future.result()
        except (StoreError, OSError) as error:
            self._failure = str(error) if self._finding is not None else ""
            self._tell()
            return
        if told is not None:
            self._told = told
            log.warning("rolled_back", **told)
        self._see(head)
        if head is not None:
            self._reporter.head(head)
        self._remember()
        self._tell()

    def _see(self, head: Checkpoint | None) -> bool:
        """Start afresh after a rollback: what was rejected is no measure. True when it is a new one."""
        rejections = Rejected.of(head).rejections
        newest = rejections[-1].by if rejections else 1
        if head is None or newest == self._stretches.since:
            return False
        self._stretches.begin(newest)
        self._finding, self._failure = None, ""
        self._told = self._told if (self._told or {}).get("version") == newest else None
        return self._told is None

    def _remember(self) -> None:
        document = {
            "versions": self._live.state(),
            "stretches": self._stretches.state(),
            "finding": None if self._finding is None else asdict(self._finding),
            "rolled_back": self._told,
        }
        try:
            live_returns.write(self._config.paths.state, document)
        except OSError as error:
            log.warning("returns_not_written", error=str(error))

    def _tell(self) -> None:
        """Raise or clear both alarms."""
        self._reporter.version_worse(self._finding, self._failure)
        settled = self._finding is None and self._stretches.full > SETTLED
        self._reporter.rolled_back(None if settled else self._told)


def attributed(episode: Episode) -> int | None:
    """The version that earned an episode's return; None when no single one of ours did."""
    steps = episode.policy_version_step
    if episode.incomplete or (steps is not None and (steps != steps[0]).any()):
        return None
    version = episode.policy_version if steps is None else int(steps[0])
    return version or None
