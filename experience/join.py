"""RewardJoin: rewards that arrive after their action (fills, match results, clicks) find their step again."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from experience.ids import uuid7
from experience.journal import Journal, from_plain, to_plain
from experience.writer import EpisodeWriter

COMPACT_BYTES = 1 << 20
"""By how much a journal grows, and at least to twice what it held, before what is done with leaves it."""


@dataclass(kw_only=True)
class _Decision:
    """A step that waits for its reward."""

    episode: "_Episode"
    step: int
    made_at: float
    rewarded: bool = False


@dataclass(kw_only=True)
class _Episode:
    """An episode that waits for its end, or for rewards."""

    key: str
    writer: EpisodeWriter
    steps: int = 0
    waiting: int = 0
    missing: int = 0
    end: dict[str, Any] | None = None
    complete_at: float | None = None

    @property
    def due(self) -> bool:
        return self.end is not None and self.waiting == 0


class RewardJoin:
    """Records decisions whose rewards are not known yet; deposits an episode once all of its rewards are.

    A decision waits until it is told that nothing more will come (``reward`` with ``final``), or until
    ``window_s`` have passed since it was made. One that nothing came for in that time is "missing"; their
    number goes into the episode's file as ``rewards_missing``. The age of an episode counts from the moment
    when it is complete; how stale its policy is, the daemon sees from ``policy_version`` as always.

    With a journal nothing that waits is lost when this process crashes: the next one goes on from it. What a
    crash makes it deposit twice has the same id and content, and the daemon drops and counts the second.

    Several threads may share one object: fills often arrive on a thread of their own.

    Args:
        spool, client_id, options: as for ``EpisodeWriter``.
        window_s: seconds after a decision for which its reward is waited for, by the wall clock.
        missing: the reward of a step that nothing came for, added to what ``decide`` said; None: its whole
            episode is dropped and counted.
        journal: a file of this client's own, such as "journal.jsonl"; None: a crash loses what waits.
        clock: wall clock, UTC seconds.

    Attributes:
        counts: "decisions", "joined" (rewards that found their step), "unmatched" (rewards for a decision
            that is unknown or no longer waits), "missing", "episodes" (deposited), "dropped" (episodes).

    Raises:
        ValueError: an argument is out of range, or the journal is damaged.
        OSError: the spool or the journal cannot be made or read.
    """

    def __init__(
        self,
        spool: str | os.PathLike[str],
        *,
        client_id: str,
        window_s: float,
        missing: float | None = 0.0,
        journal: str | os.PathLike[str] | None = None,
        clock: Callable[[], float] = time.time,
        **options: Any,
    ) -> None:
        if not window_s > 0:
            raise ValueError(f"window_s is {window_s}; accepted: seconds, more than 0")
        self._window_s, self._missing, self._clock = window_s, missing, clock
        self._at = clock()
        options |= {"client_id": client_id, "clock": lambda: self._at}
        self._new_writer: Callable[[], EpisodeWriter] = partial(EpisodeWriter, spool, **options)
        self._next: _Episode | None = None
        self._continues: tuple[str, int] | None = None
        self._episodes: dict[str, _Episode] = {}
        self._waiting: dict[str, _Decision] = {}
        self._lock = threading.RLock()
        self.counts: Counter[str] = Counter()
        self._new_writer()  # what is wrong with the arguments is told here
        self._journal = None if journal is None else Journal(journal)
        if self._journal is not None:
            for record in self._journal.records():
                self._apply(record)
            self._compact(self._journal)
        self.poll()

    @property
    def waiting(self) -> int:
        """How many decisions wait for a reward."""
        return len(self._waiting)

    def decide(
        self,
        decision_id: str,
        obs: ArrayLike,
        action: ArrayLike,
        *,
        reward: float = 0.0,
        logp: float | None = None,
        mask: ArrayLike | None = None,
        policy_version: int | None = None,
    ) -> None:
        """Record a step of the episode in progress; the first one after an end begins the next episode.

        Args:
            decision_id: by which rewards find it: the id of an order, a match, a request.
            obs: as for ``EpisodeWriter.step``, and so are the others.
            action: what was chosen on it.
            reward: what is known already; what comes later is added to it.
            logp: of the action, under the policy that chose it.
            mask: True where an action was allowed.
            policy_version: the version that chose it.

        Raises:
            ValueError: a decision with this id waits already, or the step does not fit the ones before it.
            OSError: the journal could not be written; the decision was recorded, and goes with the next.
        """
        with self._lock:
            self._give_up()
            if decision_id in self._waiting:
                raise ValueError(f"decision_id is {decision_id!r}, which waits for its reward already")
            step = {"obs": obs, "action": action, "logp": logp, "mask": mask}
            self._record(
                "decide",
                id=decision_id,
                **self._place(),
                reward=float(reward),
                policy_version=None if policy_version is None else int(policy_version),
                step={name: to_plain(value) for name, value in step.items()},
            )

    def reward(self, decision_id: str, amount: float, *, final: bool = True) -> bool:
        """Add a reward to a decision.

        Args:
            decision_id: as given to ``decide``.
            amount: what came.
            final: nothing more will come for it; False for a partial fill.

        Returns:
            Whether the decision still waited for it.

        Raises:
            OSError: a complete episode could not be written; the reward is kept, see ``poll``.
        """
        with self._lock:
            self._give_up()
            found = self._waiting.get(decision_id)
            of = None if found is None else found.episode.key
            self._record("reward", of=of, id=decision_id, amount=float(amount), final=bool(final))
            self.poll()
            return found is not None

    def end(
        self,
        final_obs: ArrayLike | None,
        *,
        terminated: bool,
        truncated: bool = False,
        continues: bool = False,
    ) -> None:
        """End the episode in progress; it is deposited once its last reward is known, or its window is over.

        Args:
            final_obs: as for ``EpisodeWriter.end``, and so are the others.
            terminated: nothing more could be earned.
            truncated: it was cut from outside.
            continues: the same session goes on in the next piece.

        Raises:
            ValueError: the arguments contradict each other or the steps.
            NotYetClosed: there is no decision to end.
            OSError: the episode was complete and could not be written; it is kept, see ``poll``.
        """
        with self._lock:
            writer = self._new_writer() if self._next is None else self._next.writer
            ending = {"terminated": terminated, "truncated": truncated, "continues": continues}
            writer.check_end(final_obs, **ending)
            assert self._next is not None
            self._record("end", of=self._next.key, final_obs=to_plain(final_obs), **ending)
            self.poll()

    def poll(self) -> list[Path]:
        """Give up on what is overdue and deposit what is complete; ``reward`` and ``end`` do so, too.

        Call it from time to time when nothing else is called.

        Returns:
            The files that were deposited.

        Raises:
            OSError: one could not be written; it is kept, and tried again the next time.
        """
        with self._lock:
            self._give_up()
            complete = [episode for episode in self._episodes.values() if episode.due]
            paths = [path for episode in complete if (path := self._deposit(episode)) is not None]
            if self._journal is not None and self._journal.size_bytes > self._compact_at_bytes:
                self._compact(self._journal)
            return paths

    def _give_up(self) -> None:
        overdue_s = self._clock() - self._window_s
        for key, decision in list(self._waiting.items()):
            if decision.made_at < overdue_s:
                self._record("overdue", of=decision.episode.key, id=key)

    def _place(self) -> dict[str, Any]:
        """Name the episode that the next decision belongs to."""
        if self._next is not None:
            return {"of": self._next.key}
        episode_id, segment = self._continues or (uuid7(), 0)
        return {"of": f"{episode_id}.{segment}", "episode": episode_id, "segment": segment}

    def _deposit(self, episode: _Episode) -> Path | None:
        if (
            episode.complete_at is None
        ):  # fixed before the first attempt, so that every attempt writes the same
            self._record("complete", of=episode.key)
        assert episode.end is not None
        assert episode.complete_at is not None
        dropped = episode.missing > 0 and self._missing is None
        path = None
        if not dropped:
            self._at = episode.complete_at
            end = episode.end | {"final_obs": from_plain(episode.end["final_obs"])}
            path = episode.writer.end(**end)
        self._record("gone", of=episode.key, count="dropped" if dropped else "episodes")
        return path

    def _record(self, event: str, **fields: Any) -> None:
        record = {"event": event, "at": self._clock(), **fields}
        self._apply(record)  # it may refuse
        if self._journal is not None:
            self._journal.append(record)

    def _apply(self, record: Mapping[str, Any]) -> None:
        {
            "decide": self._on_decide,
            "reward": self._on_reward,
            "overdue": self._on_overdue,
            "end": self._on_end,
            "complete": self._on_complete,
            "gone": self._on_gone,
            "counts": self._on_counts,
        }[record["event"]](record)

    def _on_decide(self, record: Mapping[str, Any]) -> None:
        episode = self._episodes.get(record["of"])
        if episode is None:
            episode = _Episode(key=record["of"], writer=self._new_writer())
            episode.writer.begin(record["episode"], segment=record["segment"])
        self._at = record["at"]
        step = {name: from_plain(value) for name, value in record["step"].items()}
        episode.writer.step(**step, reward=record["reward"], policy_version=record["policy_version"])
        self._episodes[episode.key] = self._next = episode
        self._waiting[record["id"]] = _Decision(episode=episode, step=episode.steps, made_at=record["at"])
        episode.steps += 1
        episode.waiting += 1
        self.counts["decisions"] += 1

    def _on_reward(self, record: Mapping[str, Any]) -> None:
        decision = self._waiting.get(record["id"])
        self.counts["unmatched" if decision is None else "joined"] += 1
        if decision is None:
            return
        decision.episode.writer.add_reward(decision.step, record["amount"])
        decision.rewarded = True
        if record["final"]:
            self._settle(record["id"])

    def _on_overdue(self, record: Mapping[str, Any]) -> None:
        decision = self._settle(record["id"])
        if decision.rewarded:  # by a part of what was to come
            return
        self.counts["missing"] += 1
        decision.episode.missing += 1
        decision.episode.writer.add_reward(decision.step, self._missing or 0.0)

    def _settle(self, decision_id: str) -> _Decision:
        decision = self._waiting.pop(decision_id)
        decision.episode.waiting -= 1
        return decision

    def _on_end(self, record: Mapping[str, Any]) -> None:
        episode = self._episodes[record["of"]]
        episode.end = {name: record[name] for name in ("final_obs", "terminated", "truncated", "continues")}
        goes_on = (episode.writer.episode_id, episode.writer.segment + 1)
        self._next, self._continues = None, goes_on if record["continues"] else None

    def _on_complete(self, record: Mapping[str, Any]) -> None:
        episode = self._episodes[record["of"]]
        episode.complete_at = record["at"]
        if episode.missing:
            episode.writer.annotate(rewards_missing=episode.missing)

    def _on_gone(self, record: Mapping[str, Any]) -> None:
        self._episodes.pop(record["of"])
        self.counts[record["count"]] += 1

    def _on_counts(self, record: Mapping[str, Any]) -> None:
        self.counts = Counter(record["counts"])
        self._continues = record["continues"] and tuple(record["continues"])

    def _compact(self, journal: Journal) -> None:
        """Leave out what was deposited."""
        kept = [record for record in journal.everything() if record.get("of") in self._episodes]
        summary = {"event": "counts", "counts": self.counts, "continues": self._continues}
        journal.compact([*kept, summary])
        self._compact_at_bytes = max(COMPACT_BYTES, 2 * journal.size_bytes)
