"""SetAside: what is not learned from is kept, with a durable record of why, and a line in the debug log."""

from collections import defaultdict
from collections.abc import Sequence

import structlog

from experience.claims import Claim
from experience.episode import Episode
from experience.errors import Problem
from experience.outcomes import Outcome, Outcomes, Verdict
from experience.spool import Spool
from learnerd.clock import Clock

log = structlog.get_logger(__name__)


class SetAside:
    """Writes verdicts down, each keyed by claim and episode: to write one twice changes nothing.

    Args:
        spool: where refused and unreadable files go.
        outcomes: the record.
        clock: when.
    """

    def __init__(self, *, spool: Spool, outcomes: Outcomes, clock: Clock) -> None:
        self._spool, self._outcomes, self._clock = spool, outcomes, clock

    def known(self, claim: Claim, episode: Episode) -> bool:
        """Whether this episode of this very file has its verdict already, from before a restart."""
        return self._outcomes.names(claim.id) and self._outcomes.known(_key(claim, episode))

    def refuse(self, claim: Claim, refused: Sequence[tuple[Episode, Problem]]) -> None:
        """Keep the rows of refused episodes, by reason, and record them."""
        by_reason: dict[str, list[tuple[Episode, Problem]]] = defaultdict(list)
        for episode, problem in refused:
            by_reason[problem.reason].append((episode, problem))
        for reason, rows in by_reason.items():
            self._spool.refuse(claim, reason, [e for e, _ in rows], [problem for _, problem in rows])
        self.record(claim, refused)

    def record(self, claim: Claim, refused: Sequence[tuple[Episode, Problem]]) -> None:
        """Record episodes whose rows need not be kept: duplicates."""
        if refused:
            self._outcomes.record([self._refusal(claim, e, problem) for e, problem in refused])
        for episode, problem in refused:
            log.debug(
                "episode_refused",
                file=claim.name,
                client_id=episode.client_id,
                episode_id=episode.episode_id,
                segment=episode.segment,
                reason=problem.reason,
                field=problem.field,
                value=problem.value,
            )

    def quarantine(self, claim: Claim, problems: Sequence[Problem]) -> None:
        """Keep a file that has unreadable parts, and record each of them."""
        self._outcomes.record([self._unreadable(claim, problem) for problem in problems])
        for problem in problems:
            log.debug(
                "file_quarantined",
                file=claim.name,
                reason=problem.reason,
                field=problem.field,
                value=problem.value,
            )
        self._spool.quarantine(claim, problems[0], now=self._clock.wall())

    def forget(self, claim: Claim) -> None:
        """A file is done with: its verdicts will not be asked for again."""
        self._outcomes.forget(claim.id)

    def counts(self) -> dict[str, dict[str, int]]:
        """Refusals and quarantines by reason, since the store was begun."""
        return self._outcomes.counts()

    def shorten(self) -> None:
        """Shorten a long record; call it from the thread that claims."""
        self._outcomes.fold({claim.id for claim in self._spool.resume()})

    def _refusal(self, claim: Claim, episode: Episode, problem: Problem) -> Outcome:
        key = _key(claim, episode)
        return self._outcome(claim, problem, key=key, verdict="refused", client_id=episode.client_id)

    def _unreadable(self, claim: Claim, problem: Problem) -> Outcome:
        key = f"{claim.id}/{'' if problem.index is None else problem.index}"
        return self._outcome(claim, problem, key=key, verdict="quarantined", client_id="")

    def _outcome(
        self, claim: Claim, problem: Problem, *, key: str, verdict: Verdict, client_id: str
    ) -> Outcome:
        return Outcome(
            key=key,
            verdict=verdict,
            reason=problem.reason,
            name=claim.name,
            field=problem.field,
            value=problem.value,
            accepted=problem.accepted,
            client_id=client_id,
            at=self._clock.wall(),
        )


def _key(claim: Claim, episode: Episode) -> str:
    return f"{claim.id}/{episode.key.digest().hex()}"
