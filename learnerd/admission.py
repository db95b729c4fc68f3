"""Admission: which episodes may be learned from; the others are set aside, each with a durable record."""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from experience.admission import Rules, Sight, rejected_version
from experience.behavior_check import acting_versions
from experience.claims import Claim
from experience.episode import Episode, EpisodeKey
from experience.errors import Problem, reject
from experience.outcomes import Outcomes
from experience.space_parsing import action_space_of
from experience.spool import Spool
from learnerd.arrival import Arrival
from learnerd.behavior import BehaviorCache
from learnerd.clock import Clock
from learnerd.foresight import Foresight
from learnerd.lineage import Lineage
from learnerd.set_aside import SetAside
from learnerd.starvation import Starvation, Starved
from policies.behavior import log_probs
from policies.checkpoint import Checkpoint, LedgerEntry
from policies.spec import ContinuousSpace, DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

log = structlog.get_logger(__name__)


class Admission:
    """Judges episodes and sets aside, with a durable record, each one that is not to be learned from.

    Safe to call from the intake and from the training thread. Every verdict is keyed by claim and episode, so
    that a crash between a record and the file's removal neither loses nor doubles it.

    Args:
        store: its ledger tells duplicates.
        spool: where refused and unreadable files go.
        outcomes: the record of refusals and quarantines.
        rules: what is admitted; the policy's shapes may follow with ``learn_spec``.
        clock: ages and allowances.
        starvation_episodes: so many refused episodes of a client in a row are an alarm; 0: never.

    Attributes:
        verdicts: how many files this process is done with.
    """

    def __init__(
        self,
        *,
        store: CheckpointStore,
        spool: Spool,
        outcomes: Outcomes,
        rules: Rules,
        clock: Clock,
        starvation_episodes: int = 0,
    ) -> None:
        self._store = store
        self._spool = spool
        self._aside = SetAside(spool=spool, outcomes=outcomes, clock=clock)
        self._rules = rules
        self._clock = clock
        self._lineage = Lineage(store, rules.max_staleness)
        self._behavior = BehaviorCache(store)
        self._starvation = Starvation(starvation_episodes)
        self._in_flight: dict[EpisodeKey, str] = {}
        self._held: set[str] = set()
        self._looked_at = -1
        self._foresight = Foresight()
        self.verdicts = 0
        self._lock = threading.RLock()

    def learn_spec(self, spec: PolicySpec) -> None:
        """From now on, refuse what does not fit ``spec``."""
        discrete = isinstance(spec.action, DiscreteSpace)
        with self._lock:
            self._rules = replace(
                self._rules,
                observation_shape=spec.observation_shape,
                n_actions=spec.action.outputs if discrete else None,
                action_size=spec.action.outputs if isinstance(spec.action, ContinuousSpace) else None,
                observation=spec.space.canonical(),
                action=action_space_of(spec.action.canonical()),
            )

    def sort(self, arrival: Arrival) -> Arrival:
        """Return ``arrival`` with what may be learned from; set the rest aside."""
        with self._lock:
            self._look()
            return self._sort(arrival)

    def sort_all(self, arrivals: Iterable[Arrival]) -> Iterator[Arrival]:
        """Sort one after another, at the cost of one look at the store.

        It is looked at again after each verdict of this process. What another writer publishes meanwhile, the
        publish finds out.
        """
        self._looked_at = -1
        for arrival in arrivals:
            with self._lock:
                if self._looked_at != self.verdicts:
                    self._look()
                kept = self._sort(arrival)
            yield kept
        self._foresight.forget()

    def foresee(self, arrivals: Sequence[Arrival]) -> None:
        """Judge files that came together, ahead of ``sort_all``, for what one alone would take twice.

        What it finds holds until the store is looked at again or the policy's shapes become known.
        """
        with self._lock:
            if self._looked_at != self.verdicts:
                self._look()
            episodes = [e for arrival in arrivals for e in arrival.episodes]
            self._foresight.look_ahead(episodes, self._rules, lambda: self._sights(*arrivals))

    def _look(self) -> None:
        """See which versions there are by now, and what they have learned."""
        self._foresight.forget()
        head = self._lineage.refresh()
        if head is not None and self._rules.observation_shape is None:
            self.learn_spec(head.spec)  # an online learner published first
        self._store.lookup([])
        self._looked_at = self.verdicts

    def _sort(self, arrival: Arrival) -> Arrival:
        with self._lock:
            rest = self._judge(self._without_duplicates(arrival))
            self._in_flight.update({episode.key: episode.row_sha256 for episode in rest.episodes})
            if rest.episodes:
                self._held.add(rest.claim.id)
            return rest

    def readmit(self, arrival: Arrival) -> Arrival:
        """Return what is to be learned again of an arrival that passed before: no verdict is repeated.

        What has been learned since, or is in hand from another file, is left out; the same id with another
        row is refused.
        """
        with self._lock:
            hits = self._store.lookup([episode.key for episode in arrival.episodes])
            known = {key: hit.row_sha256 for key, hit in hits.items()}
            # What an earlier look readmitted and then failed to hand out is in nobody's hand.
            in_hand = {} if arrival.claim.id in self._held else self._in_flight
            rows = {e.key: known.get(e.key) or in_hand.get(e.key) for e in arrival.episodes}
            conflicts = [
                (e, _conflict(e, row))
                for e in arrival.episodes
                if (row := rows[e.key]) and not e.row_sha256.startswith(row)
            ]
            self._refuse(arrival.claim, conflicts)
            rest = arrival.keeping(tuple(e for e in arrival.episodes if not rows[e.key]))
            self._in_flight.update({episode.key: episode.row_sha256 for episode in rest.episodes})
            if rest.episodes:
                self._held.add(rest.claim.id)
            return rest

    def published(self, version: Checkpoint, entries: Iterable[LedgerEntry]) -> None:
        """Take in a version that this process has just published; the next look need not read it."""
        with self._lock:
            self._store.note(version, entries)

    def held(self) -> frozenset[str]:
        """Ids of the claims that passed and wait to be learned from.

        A claim's file is gone before it is let go: one that is listed later than this and is not among them
        is held by nobody.
        """
        with self._lock:
            return frozenset(self._held)

    def judge(self, arrival: Arrival) -> Arrival:
        """Apply the rules of admission; ``sort`` does, and the first batch once its shapes are known."""
        with self._lock:
            self._look()
            return self._judge(arrival)

    def _judge(self, arrival: Arrival) -> Arrival:
        with self._lock:
            verdicts = self._foresight.verdicts(arrival.episodes, self._rules, lambda: self._sights(arrival))
            problems = {
                e.key: problem for e, problem in zip(arrival.episodes, verdicts, strict=True) if problem
            }
            rest = self._set_aside(arrival, problems)
            if not rest.episodes:
                self.finish(rest)
            return rest

    def drop_learned(self, arrival: Arrival, keys: Iterable[EpisodeKey]) -> Arrival:
        """Take out episodes that another writer has learned from in the meantime."""
        gone = set(keys)
        with self._lock:
            for episode in arrival.episodes:
                if episode.key in gone:
                    self._in_flight.pop(episode.key, None)
                    self._aside.record(arrival.claim, [(episode, _duplicate(episode))])
            return arrival.keeping(tuple(e for e in arrival.episodes if e.key not in gone))

    def refuse_some(self, arrival: Arrival, keys: Collection[EpisodeKey], problem: Problem) -> Arrival:
        """Refuse the episodes of ``arrival`` that are among ``keys``; return it with the others."""
        with self._lock:
            rest = self._set_aside(arrival, dict.fromkeys(keys, problem))
            if not rest.episodes:
                self.finish(rest)
            return rest

    def without_rejected(self, arrivals: Iterable[Arrival]) -> list[Arrival]:
        """Refuse what was admitted before the versions that acted in it were rolled back; return the rest."""
        with self._lock:
            self._lineage.refresh()
            return [rest for rest in map(self._without_rejected, arrivals) if rest.episodes]

    def refuse_all(self, arrival: Arrival, problem: Problem) -> None:
        """Refuse every episode of ``arrival`` for one reason, and finish it."""
        with self._lock:
            self._refuse(arrival.claim, [(episode, problem) for episode in arrival.episodes])
            self.finish(arrival)

    def learned(self, arrival: Arrival) -> None:
        """Let go of a file whose episodes are in a published version and in the archive."""
        with self._lock:
            self._starvation.learned(episode.client_id for episode in arrival.episodes)
            log.debug("file_learned", file=arrival.claim.name, episodes=len(arrival.episodes))
            self.finish(arrival)

    def finish(self, arrival: Arrival) -> None:
        """Let go of a file whose every episode has its verdict; keep one with unreadable parts aside."""
        with self._lock:
            if arrival.problems:
                self._aside.quarantine(arrival.claim, arrival.problems)
            else:
                self._spool.finish(arrival.claim)
            # Held until here: on an error the caller comes again, and nobody else may take the claim up.
            self._let_go(arrival.claim, arrival.episodes)

    def quarantine(self, claim: Claim, problem: Problem) -> None:
        """Set an unreadable file aside with its reason."""
        with self._lock:
            self._aside.quarantine(claim, [problem])
            self._let_go(claim, ())

    def mean_staleness(self, episodes: Sequence[Episode]) -> float | None:
        """Mean distance from the head, in updates, of the versions that acted; None when no episode says."""
        with self._lock:
            self._lineage.refresh()
            known = [self._lineage.staleness(version) for e in episodes for version in acting_versions(e)]
        found = [staleness for staleness in known if staleness is not None]
        return sum(found) / len(found) if found else None

    def starved(self) -> Starved | None:
        """Clients all of whose episodes are refused; None when there are none."""
        with self._lock:
            return self._starvation.starved(key.client_id for key in self._in_flight)

    def counts(self) -> dict[str, dict[str, int]]:
        """Refusals and quarantines by reason, since the store was begun."""
        with self._lock:
            return self._aside.counts()

    def compact_outcomes(self) -> None:
        """Shorten a long record of outcomes; call it from the thread that claims."""
        with self._lock:
            self._aside.shorten()

    def _without_rejected(self, arrival: Arrival) -> Arrival:
        verdicts = {e.key: rejected_version(e, self._lineage.rejected) for e in arrival.episodes}
        refused = {key: problem for key, problem in verdicts.items() if problem}
        rest = self._set_aside(arrival, refused)
        if refused and not rest.episodes:
            self.finish(rest)
        return rest

    def _set_aside(self, arrival: Arrival, problems: Mapping[EpisodeKey, Problem]) -> Arrival:
        """Refuse the episodes that have a problem; return the arrival with the others."""
        if not problems:
            return arrival
        refused = [episode for episode in arrival.episodes if episode.key in problems]
        self._refuse(arrival.claim, [(episode, problems[episode.key]) for episode in refused])
        for episode in refused:
            self._in_flight.pop(episode.key, None)
        return arrival.keeping(tuple(e for e in arrival.episodes if e.key not in problems))

    def _let_go(self, claim: Claim, episodes: Iterable[Episode]) -> None:
        self.verdicts += 1
        for episode in episodes:
            self._in_flight.pop(episode.key, None)
        self._held.discard(claim.id)
        self._aside.forget(claim)

    def _without_duplicates(self, arrival: Arrival) -> Arrival:
        hits = self._store.lookup([episode.key for episode in arrival.episodes], look_again=False)
        fresh: list[Episode] = []
        beside: dict[EpisodeKey, str] = {}
        conflicts: list[tuple[Episode, Problem]] = []
        for episode in arrival.episodes:
            hit = hits.get(episode.key)
            known = hit.row_sha256 if hit else self._in_flight.get(episode.key) or beside.get(episode.key)
            if self._aside.known(arrival.claim, episode):
                continue  # refused from this very file before a restart
            if known is None:
                fresh.append(episode)
                beside[episode.key] = episode.row_sha256
            elif episode.row_sha256.startswith(known):
                self._aside.record(arrival.claim, [(episode, _duplicate(episode))])
            else:
                conflicts.append((episode, _conflict(episode, known)))
        self._refuse(arrival.claim, conflicts)
        return arrival if len(fresh) == len(arrival.episodes) else arrival.keeping(tuple(fresh))

    def _sights(self, *arrivals: Arrival) -> list[Sight]:
        """One for each of their episodes."""
        now_s, allowance_s = self._clock.aging(), self._clock.allowance_s
        return [
            Sight(
                age_s=arrival.age_s(episode, now_s=now_s),
                staleness=self._lineage.staleness,
                log_probs=self._log_probs,
                rejected=self._lineage.rejected,
                allowance_s=allowance_s,
            )
            for arrival in arrivals
            for episode in arrival.episodes
        ]

    def _log_probs(
        self,
        version: int,
        obs: NDArray[np.float32],
        action: NDArray[Any],
        mask: NDArray[np.bool_] | None,
    ) -> NDArray[np.float64] | None:
        acting = self._behavior(version)
        return None if acting is None else log_probs(acting, obs, action, mask)

    def _refuse(self, claim: Claim, refused: list[tuple[Episode, Problem]]) -> None:
        self._aside.refuse(claim, refused)
        for episode, problem in refused:
            self._starvation.refused(episode.client_id, problem.reason)


def _duplicate(episode: Episode) -> Problem:
    return reject("duplicate", "episode_id", episode.episode_id, "each episode once").problem


def _conflict(episode: Episode, known: str) -> Problem:
    value = f"{episode.episode_id} with row {episode.row_sha256[:16]}, known with row {known[:16]}"
    return reject("conflicting_duplicate", "episode_id", value, "other content under another id").problem
