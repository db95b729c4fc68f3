"""PolicyUpdates: from how much of their batches updates could move the policy, and how noisy that was."""

from collections.abc import Iterable
from typing import Any

from policies.noise_scale import GradientNoise
from policies.report import UpdateReport

KINDS = ("whole", "split", "value_only")
NOISE_RATE = 0.05
"""How fast the averages of the noise scale's two parts follow: about the last 20 updates."""


class PolicyUpdates:
    """Counts over the life of a policy; restored from the status file by a later run."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(KINDS, 0)
        self._noise: GradientNoise | None = None

    def restore(self, learning: dict[str, Any]) -> None:
        """Take over the counts of an earlier run."""
        counts = learning.get("policy_updates")
        for kind in KINDS:
            count = counts.get(kind) if isinstance(counts, dict) else None
            self._counts[kind] = count if isinstance(count, int) else 0

    def note(self, reports: Iterable[UpdateReport]) -> None:
        """Take in the updates of a cycle."""
        for report in reports:
            self._counts[kind_of(report)] += 1
            if report.noise is not None:
                self._noise = report.noise if self._noise is None else _average(self._noise, report.noise)

    def document(self) -> dict[str, Any]:
        """Return the keys of ``learning`` in the status document."""
        noise = self._noise
        return {
            "policy_updates": dict(self._counts),
            "noise_scale_steps": None if noise is None or noise.signal <= 0 else noise.scale,
        }


def kind_of(report: UpdateReport) -> str:
    """What the batch's effective sample size allowed."""
    if report.policy_episodes == report.n_episodes:
        return "whole"
    return "split" if report.policy_episodes else "value_only"


def _average(old: GradientNoise, new: GradientNoise) -> GradientNoise:
    return GradientNoise(
        signal=(1.0 - NOISE_RATE) * old.signal + NOISE_RATE * new.signal,
        trace=(1.0 - NOISE_RATE) * old.trace + NOISE_RATE * new.trace,
    )
