"""LearningAlarms: what is raised about updates, candidates, entropy and returns, and when it is over."""

import json
from dataclasses import asdict
from typing import Any

import structlog

from learnerd.config import Config
from learnerd.cycle import CycleReport
from learnerd.judge import FAILED, PASSED, WAITING, Verdict
from learnerd.telemetry import Telemetry
from policies.spec import PolicySpec
from policies.stability import collapse

log = structlog.get_logger(__name__)

BAD_UPDATES = {
    "diverged": (
        "diverged",
        "an update became non-finite",
        "its episodes are in refused/diverged; look at their rewards and observations",
    ),
    "unstable": (
        "update_unstable",
        "an update was not published",
        "its episodes are in refused/unstable; look at them, or raise the limit under [stability]",
    ),
}
"""Why episodes were refused -> alarm, message, remedy."""

UNTIL_HEALTHY = ("cycle_failed", *(alarm for alarm, _, _ in BAD_UPDATES.values()))
"""Alarms that stand until so many updates in a row went well:"""

HEALTHY_UPDATES = 64
"""As many as the version of an admitted episode may be behind by default: by then it is from another time."""


class LearningAlarms:
    """Looks at each cycle's report; alarms go to the telemetry.

    Args:
        config: ``[gate]``, ``[stability]`` and ``[policy]``.
        telemetry: which alarms there are.
    """

    def __init__(self, config: Config, telemetry: Telemetry) -> None:
        self._config, self._telemetry = config, telemetry
        self._healthy: dict[str, int] = {}

    def after(self, report: CycleReport) -> None:
        """A cycle ended."""
        self._count_healthy(report)
        for reason, what in report.set_aside.items():
            self._set_aside(reason, what)
        if report.inferred is not None:
            self._inferred(report.inferred)
        self._judged(report.failed or report.verdict)
        if report.published is not None:
            self._look_at_entropy(report)
            self.look_at_returns()

    def failed(self, alarm: str) -> None:
        """A cycle did not end; the count of updates that went well begins again."""
        self._healthy[alarm] = 0

    def _count_healthy(self, report: CycleReport) -> None:
        """End alarms about single updates once enough others went well; one more begins the count again."""
        learned = 0 if report.learned is None else len(report.learned.reports)
        for alarm in UNTIL_HEALTHY:
            self._healthy[alarm] = self._healthy.get(alarm, 0) + learned
            if self._healthy[alarm] >= HEALTHY_UPDATES:
                self._telemetry.clear_alarm(alarm)

    def _set_aside(self, reason: str, what: str) -> None:
        alarm, message, remedy = BAD_UPDATES[reason]
        self._healthy[alarm] = 0
        log.error("update_refused", reason=reason, error=what, folder=f"refused/{reason}")
        self._telemetry.raise_alarm(alarm, f"{message}: {what}", remedy)

    def _judged(self, verdict: Verdict | None) -> None:
        """Raise the alarm of a candidate that did not pass, or clear it."""
        if verdict is None or verdict.outcome == PASSED:
            self._telemetry.clear_alarm("candidate_failed")
        if verdict is None or verdict.outcome == WAITING:
            return
        what = asdict(verdict)
        log.info("judged", **{name: what[name] for name in ("candidate", "against", "outcome", "reason")})
        if verdict.outcome != FAILED:
            return
        message = f"version {verdict.candidate} did not pass against {verdict.against}: {verdict.reason}"
        follows = {
            "enforce": "clients go on with what passed, and learning began again there; see what it learned",
            "warn": "clients act with it: see what it learned, and roll back if they earn less",
            "shadow": "do not promote it",
        }
        remedy = f"{follows[self._config.gate.mode]} (`learnerd versions show {verdict.candidate}`)"
        self._telemetry.raise_alarm("candidate_failed", message, remedy)

    def _look_at_entropy(self, report: CycleReport) -> None:
        """Raise or clear the alarm of a policy that tries nothing new."""
        assert report.published is not None
        assert report.learned is not None
        stability = self._config.stability
        entropy = report.learned.reports[-1].entropy
        found = collapse(entropy, stability.limits(), report.published.spec.action)
        if found is None or stability.entropy_collapse == "off":
            self._telemetry.clear_alarm("entropy_collapse")
            return
        self._telemetry.raise_alarm(
            "entropy_collapse",
            f"the policy tries almost nothing new: its entropy is {entropy:.3g}; accepted: {found.accepted}",
            "right for a task that is solved; else raise [learner] entropy_bonus, or roll back",
        )

    def look_at_returns(self) -> None:
        """Raise or clear the notice of returns that dropped."""
        drop = self._telemetry.drift.drop
        if drop is None or not self._config.stability.drift_alarm:
            self._telemetry.clear_alarm("return_drift")
            return
        self._telemetry.raise_alarm(
            "return_drift",
            str(drop),
            "see whether the task or its clients changed; learning goes on from what comes in",
            level="notice",
        )

    def _inferred(self, spec: PolicySpec) -> None:
        policy = self._config.policy
        named = policy.observation_shape is not None or policy.observation is not None
        if named and policy.action is not None:
            return
        observed: dict[str, Any] = {"observation_shape": spec.observation_shape}
        if spec.observation is not None:
            observed = {"observation": spec.observation.to_json()}
        shapes = json.dumps({**observed, "action": spec.action.to_json()})
        self._telemetry.raise_alarm(
            "policy_inferred",
            f"shapes were taken from the first episodes: {shapes}",
            "name observation (or observation_shape) and action under [policy] if this is not what you meant",
            level="notice",
        )
