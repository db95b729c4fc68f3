"""Judge: whether clients may act with a candidate, by what episodes say that it has not learned from.

A candidate is a version that was published and is held back. Every batch that comes after it is looked at
before
anything is learned from it, so that the candidate has never seen what it is judged by: an estimate from
episodes that a policy was fitted to is too good. When there are enough of them, the candidate's return
minus that of the version that acts is estimated, and either it passes, or more episodes are waited for, or
it fails. Then the next version is the candidate. Which one that is stands in the manifests, and the
episodes are in the archive: a restart goes on where it was.

Looking again and again would let a bad one pass by chance at some time. So there are few looks, after 1, 2,
4, … times ``min_episodes``, and they share the probability of error (Bonferroni).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import structlog

from experience.episode import Episode
from experience.errors import ShardDamaged
from experience.spool import Spool
from learnerd.config import Config
from learnerd.config_tables import Gate as Rules
from learnerd.evidence import Evidence, gather, newest
from learnerd.recovered import Behavior
from policies.acting import Acting
from policies.checkpoint import Checkpoint
from policies.errors import NotEvaluable, StoreError
from policies.evaluation import compare
from policies.evaluation.bootstrap import Bootstrap
from policies.evaluation.estimate import Estimate
from policies.evaluation.logged import Logged, PolicyTarget
from policies.rollback import Rejected
from policies.store import CheckpointStore

log = structlog.get_logger(__name__)

LOOK_BACK = 64
"""Versions of other writers that may lie between the head and the newest verdict."""

PASSED, FAILED, WAITING = "passed", "failed", "waiting"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is known of a candidate.

    Attributes:
        candidate: the version that is judged; None: the one that this stands in.
        against: the version that it is compared with.
        outcome: "passed", "failed" or "waiting".
        reason: in words.
        episodes: that it has not learned from, so far.
        value, low, high: estimated return minus that of ``against``, and its bounds; None before the first
        look.
        level: of the bounds.
        margin: how much worse it may be.
        ess_fraction: effective share of the episodes for it.
        probabilities: of the behavior policy: "logged", "recovered" or "mixed".
        method: the estimator.
    """

    candidate: int | None
    against: int
    outcome: str
    reason: str
    episodes: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    margin: float | None = None
    ess_fraction: float | None = None
    probabilities: str | None = None
    method: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What follows for the version that is about to be published.

    Attributes:
        acting: what clients are to act with.
        verdict: for its manifest; None: nobody judges.
        start_over: go back to this version first; None: go on.
    """

    acting: Acting
    verdict: Verdict | None = None
    start_over: int | None = None

    def record(self) -> dict[str, Any]:
        """For the manifest's record."""
        return {} if self.verdict is None else {"gate": asdict(self.verdict)}


def thresholds(rules: Rules) -> list[int]:
    """After how many episodes a candidate is looked at: min, 2 min, 4 min, … max."""
    doublings = math.ceil(math.log2(rules.max_held_episodes / rules.min_episodes))
    return [*(rules.min_episodes * 2**i for i in range(doublings)), rules.max_held_episodes]


class Judge:
    """Belongs to the training thread, as its store does.

    Args:
        config: ``[gate]``.
        store: the cycle's.
        spool: its archive holds what the candidate is judged by.
        behavior: looks up the version that acted.
    """

    def __init__(self, config: Config, *, store: CheckpointStore, spool: Spool, behavior: Behavior) -> None:
        self._config = config
        self._rules = config.gate
        self._store = store
        self._spool = spool
        self._behavior = behavior
        self._candidate: int | None = None
        self._against = 0
        self._count = 0
        self._last: Verdict | None = None

    @property
    def _holds(self) -> bool:
        return self._rules.mode in {"enforce", "shadow"}

    def begin(self, head: Checkpoint | None) -> None:
        """Go on with the candidate of an earlier run."""
        if self._rules.mode == "off" or head is None:
            return
        manifest = self._remembered(head)
        gate = manifest.get("record", {}).get("gate")
        if gate is None:
            return
        verdict = Verdict(**gate)
        if verdict.outcome != WAITING or verdict.candidate is None:
            self._nominate(manifest, verdict)
        else:
            self._candidate, self._against = verdict.candidate, verdict.against
            self._last = verdict if verdict.value is not None else None
        try:
            self._count = 0 if self._candidate is None else len(self._unseen())
        except (ShardDamaged, FileNotFoundError) as error:
            self._count = verdict.episodes if verdict.candidate == self._candidate else 0
            log.warning("evidence_not_read", error=str(error))

    def _remembered(self, head: Checkpoint) -> Mapping[str, Any]:
        """The manifest of the newest version with a verdict, or of a rollback after it; {}: there is none."""
        for version in range(head.version, max(0, head.version - LOOK_BACK), -1):
            try:
                manifest = head.manifest if version == head.version else self._store.manifest(version)
            except StoreError:
                continue
            if "rollback" in manifest or "gate" in manifest["record"]:
                return manifest
        return {}

    def initial(self) -> Acting:
        """What clients may act with when the initial weights are published."""
        return Acting(version=0 if self._rules.mode == "shadow" else None, held=self._holds)

    def look(self, head: Checkpoint, fresh: Sequence[Episode]) -> Ruling:
        """Rule on what is published next; ``fresh`` are the episodes that it is about to learn from."""
        if self._rules.mode == "off":
            return Ruling(acting=Acting())
        acting = self._store.acting() if self._holds else head.version or None
        held = Acting(version=acting or 0, held=True) if self._holds else Acting()
        if self._is_over(head, acting):
            self._candidate = None
        if acting is None:
            first = held if self._rules.mode == "shadow" else Acting(held=self._holds)
            reason = "no version acts yet"
            verdict = Verdict(candidate=None, against=0, outcome=PASSED, reason=reason)
            return Ruling(acting=first, verdict=verdict if self._rules.mode != "shadow" else None)
        if self._candidate is None:
            return Ruling(acting=held, verdict=_nomination(acting))
        verdict = self._verdict(fresh)
        if verdict.outcome == PASSED and self._holds and not self._is_whole(self._candidate):
            verdict = replace(verdict, outcome=FAILED, reason=f"version {self._candidate} is gone or damaged")
        if verdict.outcome == PASSED and self._rules.mode == "enforce":
            return Ruling(acting=Acting(version=self._candidate, held=True), verdict=verdict)
        start_over = self._against if verdict.outcome == FAILED and self._rules.mode == "enforce" else None
        return Ruling(acting=held, verdict=verdict, start_over=start_over)

    def fallback(self, head: Checkpoint, problem: str) -> Ruling | None:
        """What to do when nothing can be learned on from a head that is held back; None: it is not."""
        acting = (self._store.acting() or 0) if self._rules.mode == "enforce" and head.version else 0
        if acting in {0, head.version}:
            return None
        reason = f"the next update went wrong: {problem}"
        verdict = Verdict(
            candidate=self._candidate, against=acting, outcome=FAILED, reason=reason, episodes=self._count
        )
        return Ruling(acting=Acting(version=acting, held=True), verdict=verdict, start_over=acting)

    @property
    def needed(self) -> tuple[int, ...]:
        """Versions that retention must leave: clients may be sent to them."""
        return () if self._candidate is None else (self._candidate,)

    def _is_whole(self, version: int) -> bool:
        try:
            return self._store.load(version) is not None
        except StoreError:
            return False

    def started_over(self) -> None:
        """The candidate is given up."""
        self._candidate = None

    def published(self, version: Checkpoint, episodes: Sequence[Episode], ruling: Ruling) -> None:
        """Take note of what was published after a ruling, and of what it learned from."""
        verdict = ruling.verdict
        if verdict is None:
            return
        if verdict.outcome == WAITING and verdict.candidate is not None:
            self._count += len(episodes)
            return
        self._nominate(version.manifest, verdict)

    def _nominate(self, manifest: Mapping[str, Any], before: Verdict) -> None:
        """Judge this version from now on; not while it acts itself, or none does."""
        version = int(manifest["version"])
        against = self._store.acting() if self._holds else self._would_act(manifest, before)
        self._candidate = version if against and against != version else None
        self._against, self._count, self._last = against or 0, 0, None

    def _would_act(self, manifest: Mapping[str, Any], before: Verdict) -> int | None:
        """What would act if verdicts were enforced: the last one that passed."""
        passed = before.candidate if before.outcome == PASSED else before.against
        if passed and self._behavior(passed) is not None:
            return passed
        return next(iter(manifest["parents"]), None)

    def _is_over(self, head: Checkpoint, acting: int | None) -> bool:
        """Whether somebody else has decided about the candidate, or about what it is compared with."""
        if self._candidate is None or Rejected.of(head).find(self._candidate) is not None:
            return True
        return self._candidate > head.version or (self._holds and acting != self._against)

    def _verdict(self, fresh: Sequence[Episode]) -> Verdict:
        """What is known with these episodes; a new look only when one is due."""
        assert self._candidate is not None
        due = thresholds(self._rules)
        count = self._count + len(fresh)
        looks = sum(threshold <= count for threshold in due)
        waiting = Verdict(
            candidate=self._candidate,
            against=self._against,
            outcome=WAITING,
            reason=f"{count} of {due[min(looks, len(due) - 1)]} episodes for the next look",
            episodes=count,
        )
        if looks == sum(threshold <= self._count for threshold in due):
            known = self._last if self._last is not None else waiting
            return replace(known, outcome=WAITING, reason=waiting.reason, episodes=count)
        found = self._estimate(waiting, fresh, looks=len(due))
        self._last = found
        if found.outcome == FAILED and count < due[-1]:
            return replace(found, outcome=WAITING)
        return found

    def _estimate(self, plain: Verdict, fresh: Sequence[Episode], *, looks: int) -> Verdict:
        """Look: passed, or failed so far."""
        level = 1.0 - 2.0 * (1.0 - self._rules.level) / looks
        try:
            found, spread = self._compare(plain, fresh, level)
        except (NotEvaluable, ShardDamaged, FileNotFoundError) as error:
            return replace(plain, outcome=FAILED, reason=str(error))
        margin = self._rules.margin * spread
        outcome, reason = _outcome(found.low, margin, found.ess_fraction, self._rules)
        return replace(
            plain,
            outcome=outcome,
            reason=reason,
            value=found.value,
            low=found.low,
            high=found.high,
            level=level,
            margin=margin,
            ess_fraction=found.ess_fraction,
            probabilities=found.probabilities,
            method=found.method,
        )

    def _compare(self, plain: Verdict, fresh: Sequence[Episode], level: float) -> tuple[Estimate, float]:
        """The difference of the two returns, and the standard deviation of the episodes' returns."""
        targets = []
        for version in (plain.candidate or 0, plain.against):
            policy = self._behavior(version)
            if policy is None:
                raise NotEvaluable(f"version {version}", "gone or damaged", "one that is whole")
            targets.append(PolicyTarget(policy))
            shape = policy.spec.observation_shape
        evidence = gather([*self._unseen(), *fresh], shape, self._behavior)
        one, other = (self._logged(evidence, target) for target in targets)
        found = compare(one, other, method=self._rules.method, bootstrap=Bootstrap(level=level))
        return found, float(one.discounted.sum(axis=1).std())

    def _logged(self, evidence: Evidence, target: PolicyTarget) -> Logged:
        gamma = self._config.learner.gamma
        return Logged.of(evidence.batch, target, gamma=gamma, probabilities=evidence.probabilities)

    def _unseen(self) -> list[Episode]:
        """Archived episodes that came after the candidate was published."""
        return newest(
            self._spool.archive_folder,
            above=self._candidate or 0,
            most_episodes=self._rules.max_held_episodes,
            most_steps=self._config.batch.max_steps,
        )


def _nomination(acting: int) -> Verdict:
    """Of a version that is the candidate from now on."""
    return Verdict(candidate=None, against=acting, outcome=WAITING, reason="nothing newer yet to judge it by")


def _outcome(low: float, margin: float, ess: float, rules: Rules) -> tuple[str, str]:
    if not ess >= rules.min_ess:
        return FAILED, f"the effective share is {ess:.3g}; accepted: {rules.min_ess:g} or more"
    if not low >= -margin:
        return FAILED, f"it may return {-low:.4g} less; accepted: {margin:.4g} or less"
    return PASSED, f"it returns at most {max(0.0, -low):.4g} less; accepted: {margin:.4g} or less"
