"""Retries: a batch whose cycle failed is tried again later; one that fails again and again is set aside."""

from collections.abc import Sequence

from experience.errors import reject
from learnerd.admission import Admission
from learnerd.arrival import Arrival
from learnerd.clock import Clock
from learnerd.pending import Pending
from learnerd.reporter import Reporter
from policies.errors import BadDelta, DriftTooLarge, StoreError

MAX_FAILURES = 3
"""How often a batch may fail: then it is set aside, or a run that is to end ends without it."""

_TRIED_AGAIN = "look at the log; the batch is tried again"


class Retries:
    """What becomes of failed batches.

    Args:
        pending: where a batch waits to be tried again.
        admission: refuses what is not.
        reporter: who is told.
        clock: when.
        longest_s: longest pause before the next attempt.

    Attributes:
        resume_at_s: no cycle begins before this, by the monotonic clock.
    """

    def __init__(
        self, pending: Pending, *, admission: Admission, reporter: Reporter, clock: Clock, longest_s: float
    ) -> None:
        self._pending, self._admission, self._reporter = pending, admission, reporter
        self._clock, self._longest_s = clock, longest_s
        self._failures = self._unexplained = 0
        self.resume_at_s = 0.0

    @property
    def exhausted(self) -> bool:
        """Whether a run that is to end has tried often enough."""
        return self._failures >= MAX_FAILURES

    def succeeded(self) -> None:
        """A cycle went well."""
        self._failures = self._unexplained = 0

    def failed(self, batch: Sequence[Arrival], error: Exception) -> None:
        """A cycle ended with ``error``: of the disk, the store, or of unknown reason."""
        if isinstance(error, StoreError | OSError) and not isinstance(error, BadDelta):
            self._later("publish_failed", batch, error, _remedy(error))
        else:
            self._later_or_never(batch, error)

    def _later(self, alarm: str, batch: Sequence[Arrival], error: Exception, remedy: str) -> None:
        """Keep the batch, and try it again after a while; nothing of it is lost."""
        now = self._clock.monotonic()
        self._failures += 1
        self._pending.put_back(batch, now_s=now)
        self.resume_at_s = now + min(self._longest_s, 2.0 ** min(self._failures, 8))
        self._reporter.failure(alarm, error, remedy)

    def _later_or_never(self, batch: Sequence[Arrival], error: Exception) -> None:
        """Try a batch that failed for an unknown reason again, then refuse it; the others go on."""
        self._unexplained += 1
        self._reporter.failure("cycle_failed", error, _TRIED_AGAIN, unexpected=True)
        if self._unexplained < MAX_FAILURES:
            self._later("cycle_failed", batch, error, _TRIED_AGAIN)
            return
        value = f"{type(error).__name__}: {error}"
        problem = reject("update_failed", "update", value, "a batch that trains").problem
        try:
            for arrival in batch:
                self._admission.refuse_all(arrival, problem)
        except (OSError, StoreError) as failure:
            self._later("publish_failed", batch, failure, "free space, or mend the spool")
            return
        self.succeeded()
        remedy = "its episodes are in refused/update_failed; look at the log, then deposit them again"
        self._reporter.failure("cycle_failed", error, remedy)


def _remedy(error: Exception) -> str:
    if isinstance(error, DriftTooLarge):
        return "raise [merge] drift_limit, or let the online learner publish less often; nothing is lost"
    return "free space, or mend the state folder"
