"""Telemetry: what the daemon knows about itself, as the document that ``status`` shows."""

import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import structlog

from experience.collate import usable_steps
from experience.spool import Spool
from learnerd.arrival import Arrival
from learnerd.clock import Clock
from learnerd.config import Config
from learnerd.cycle import CycleReport
from learnerd.drift import ReturnDrift
from learnerd.history import Row
from learnerd.learn import SPENT
from learnerd.policy_updates import PolicyUpdates
from learnerd.reuse import CREDITS, balance
from learnerd.schedule import Hold
from learnerd.status_file import ALARM_KEYS, SECTIONS, new_document
from learnerd.versions import current
from policies.checkpoint import Checkpoint

log = structlog.get_logger(__name__)

COUNTED = (
    *("updates", "steps", "return_mean_100", "recent_returns", "policy_updates", "noise_scale_steps"),
    *("reuse", "logp"),
)
_LEARNING_KEYS = [key for key in SECTIONS["learning"] if key not in COUNTED]
"""What the last cycle's report gives; the others are counted here."""

LASTING = "candidate_failed"
"""An alarm about what was published, which a restart does not change: it stands until a candidate passes."""

_VERDICT_KEYS = [key for key in SECTIONS["gate"] if key not in {"mode", "acting"}]

FROM_LEARNING = (
    *("loss", "value_loss", "grad_norm", "entropy", "kl"),
    *("ess_fraction", "staleness_mean", "lr"),
)
"""What the history takes from the last update as it is."""

LOGP_SOURCES = ("logged", "recovered", "missing")
"""Episodes whose log-probabilities the client logged, or the version that acted gave, or nobody knows."""

WINDOW_EPISODES = 100
WINDOW_LATENCIES = 1000


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something that an operator should look at.

    Attributes:
        id: stable, snake_case.
        since: UTC seconds.
        message: what is the matter.
        remedy: what to do about it.
        level: "alarm", or "notice" when nothing is wrong.
    """

    id: str
    since: float
    message: str
    remedy: str
    level: str = "alarm"


@dataclass(kw_only=True)
class Telemetry:
    """Collects figures from cycles; ``document`` is schema 1 of ``status --json``.

    Attributes:
        config: for paths and digest.
        device: "cpu" or "cuda".
        clock: for ages and uptime.
        began_s: monotonic seconds since when the process runs.
    """

    config: Config
    device: str
    clock: Clock
    began_s: float
    state: str = "starting"
    head: Checkpoint | None = None
    holds: tuple[Hold, ...] = ()
    alarms: dict[str, Alarm] = field(default_factory=dict)
    learning: dict[str, Any] = field(default_factory=dict)
    update_s: float | None = None
    publish_s: float | None = None
    returns: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW_EPISODES))
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW_LATENCIES))
    lags_s: tuple[float, ...] = ()
    buffered: int = 0
    verdict: dict[str, Any] = field(default_factory=dict)
    policy_updates: PolicyUpdates = field(default_factory=PolicyUpdates)
    drift: ReturnDrift = field(init=False)

    def __post_init__(self) -> None:
        stability = self.config.stability
        self.drift = ReturnDrift(delta=stability.drift_delta, threshold=stability.drift_threshold)

    def raise_alarm(self, name: str, message: str, remedy: str, *, level: str = "alarm") -> None:
        """Raise an alarm, or update the text of one that stands; only the first is logged."""
        if name not in self.alarms:
            tell = log.info if level == "notice" else log.warning
            tell("alarm_raised", alarm=name, message=message, remedy=remedy)
        since = self.alarms[name].since if name in self.alarms else self.clock.wall()
        self.alarms[name] = Alarm(id=name, since=since, message=message, remedy=remedy, level=level)

    def clear_alarm(self, name: str) -> None:
        """Take an alarm back."""
        if self.alarms.pop(name, None) is not None:
            log.info("alarm_cleared", alarm=name)

    def restore(self, document: dict[str, Any] | None) -> None:
        """Take over the figures of an earlier run, so that a restart leaves no gap in ``status``."""
        learning = (document or {}).get("learning") or {}
        self.learning = {key: learning.get(key) for key in _LEARNING_KEYS}
        self.policy_updates.restore(learning)
        gate = (document or {}).get("gate") or {}
        self.verdict = {key: gate.get(key) for key in _VERDICT_KEYS}
        for alarm in (document or {}).get("alarms") or []:
            if alarm.get("id") == LASTING and self.config.gate.mode != "off":
                self.alarms[LASTING] = Alarm(**{key: alarm[key] for key in ALARM_KEYS})
        recent = learning.get("recent_returns") or []
        self.returns.extend(float(value) for value in recent if isinstance(value, int | float))
        self.drift.restore(learning.get("return_drift"))

    def note(self, report: CycleReport) -> None:
        """Take in what a cycle did; one that was broken off after its publish left its version behind."""
        self.head = report.head or self.head
        self.buffered = report.buffered
        if report.verdict is not None:
            self.verdict = {key: getattr(report.verdict, key) for key in _VERDICT_KEYS}
        if report.published is None or report.learned is None:
            return
        self.update_s, self.publish_s = report.update_s, report.publish_s
        episodes = report.learned.episodes
        for episode in episodes:
            self.returns.append(episode.total_reward)
            self.drift.update(episode.total_reward)
        self.lags_s = self._lags_s(report.arrivals)
        self.latencies_s.extend(self.lags_s)
        self.policy_updates.note(report.learned.reports)
        last = report.learned.reports[-1]
        self.learning = {
            "return_last": episodes[-1].total_reward,
            "loss": last.loss,
            "entropy": last.entropy,
            "kl": last.kl,
            "ess_fraction": last.ess_fraction,
            "staleness_mean": report.staleness_mean,
            "lr": last.learning_rate,
            "batch_episodes": last.n_episodes,
            "batch_steps": last.n_steps,
            "unlogged_steps": sum(one.unlogged_steps for one in report.learned.reports),
            "value_loss": last.value_loss,
            "grad_norm": last.grad_norm,
            "value_grad_norm": last.value_grad_norm,
            "ratio_max": last.ratio_max,
            "plasticity": _plasticity(report),
        }

    def row(self, report: CycleReport, verdicts: Mapping[str, Mapping[str, int]]) -> Row:
        """What the history keeps of a cycle that published; call it after ``note``."""
        assert report.learned is not None
        returns = [episode.total_reward for episode in report.learned.episodes]
        plasticity = self.learning.get("plasticity") or {}
        return {
            "at": self.clock.wall(),
            "version": self.head.version if self.head is not None else None,
            "cycles": 1,
            "episodes": len(returns),
            "steps": sum(map(usable_steps, report.learned.episodes)),
            "learned": self._counter("episodes"),
            **{verdict: sum(counts.values()) for verdict, counts in verdicts.items()},
            "updates": self._counter("updates"),
            "return_mean": float(np.mean(returns)),
            "return_min": min(returns),
            "return_max": max(returns),
            "lag_s": float(np.mean(self.lags_s)) if self.lags_s else None,
            "update_s": report.update_s,
            "publish_s": report.publish_s,
            "dormant_fraction": plasticity.get("dormant_fraction"),
            **{name: self.learning.get(name) for name in FROM_LEARNING},
        }

    def document(self, spool: Spool, verdicts: dict[str, dict[str, int]]) -> dict[str, Any]:
        """Build the status document; unknown values are None; what ``status`` sees for itself is left out."""
        sizes = spool.sizes()
        return new_document(
            daemon={
                "state": self.state,
                "pid": os.getpid(),
                "uptime_s": self.clock.monotonic() - self.began_s,
                "device": self.device,
                "config_digest": self.config.digest(),
                "holds": [asdict(hold) for hold in self.holds],
            },
            policy=self._policy(),
            episodes={"learned": self._counter("episodes"), **verdicts},
            learning=self._learning(),
            latency=self._latency(),
            disk={"spool_bytes": sizes.spool_bytes, "archive_bytes": sizes.archive_bytes},
            gate=self._gate(),
            alarms=[asdict(alarm) for alarm in self.alarms.values()],
        )

    def _lags_s(self, arrivals: Sequence[Arrival]) -> tuple[float, ...]:
        """Seconds from each file's last change until now; files that lay claimed say nothing."""
        now = self.clock.aging()
        return tuple(
            max(0.0, arrival.claimed_at - arrival.mtime_s) + now - arrival.seen_s
            for arrival in arrivals
            if arrival.seen_s is not None
        )

    def _counter(self, name: str) -> int:
        return 0 if self.head is None else int(self.head.counters.get(name, 0))

    def _policy(self) -> dict[str, Any]:
        head = self.head
        return {
            "version": None if head is None else head.version,
            "parents": [] if head is None else list(head.parents),
            "published_at": None if head is None else head.saved_at,
            "algorithm": self.config.learner.algorithm,
            "parameters": None if head is None else sum(weight.size for weight in head.weights.values()),
        }

    def _gate(self) -> dict[str, Any]:
        mode = self.config.gate.mode
        verdict = {} if mode == "off" else self.verdict
        return {"mode": mode, "acting": current(self.config.paths.state), **verdict}

    def _learning(self) -> dict[str, Any]:
        return {
            "updates": self._counter("updates"),
            "steps": self._counter("steps"),
            "return_mean_100": float(np.mean(self.returns)) if self.returns else None,
            "recent_returns": list(self.returns),
            **self.policy_updates.document(),
            "return_drift": self.drift.state(),
            "reuse": self._reuse(),
            "logp": {name: self._counter(f"logp_{name}") for name in LOGP_SOURCES},
            **{key: self.learning.get(key) for key in _LEARNING_KEYS},
        }

    def _reuse(self) -> dict[str, Any]:
        """Passes over archived episodes so far, those that may follow now, and the episodes kept for them."""
        credits_ = 0 if self.head is None else balance(self.head.counters)
        return {"passes": self._counter(SPENT), "credits": credits_ / CREDITS, "buffered": self.buffered}

    def _latency(self) -> dict[str, float | None]:
        p50, p99 = np.percentile(self.latencies_s, [50, 99]) if self.latencies_s else (None, None)
        return {
            "drop_to_publish_p50_s": None if p50 is None else float(p50),
            "drop_to_publish_p99_s": None if p99 is None else float(p99),
            "update_s": self.update_s,
            "publish_s": self.publish_s,
        }


def _plasticity(report: CycleReport) -> dict[str, Any]:
    """The policy's figures, and under "value" the value network's, None when it is not trained."""
    figures = {network: asdict(one) for network, one in report.plasticity.items()}
    return {**figures.get("policy", {}), "value": figures.get("value")}
