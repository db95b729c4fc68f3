"""Cycle: collate → update → publish → archive, for one batch of arrivals, on the training thread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from experience.episode import Episode, EpisodeKey
from experience.errors import reject
from experience.spool import Spool
from learnerd.admission import Admission
from learnerd.arrival import Arrival
from learnerd.behavior import BehaviorCache
from learnerd.clock import Clock
from learnerd.config import Config
from learnerd.diverging import diverging
from learnerd.judge import Judge, Ruling, Verdict
from learnerd.learn import NO_PASSES, Learned, Passes, chunked, infer_spec, learn, ledger_entries, made_here
from learnerd.recorded_passes import note_of
from learnerd.reuse import Reuse
from policies.checkpoint import Checkpoint, Delta, LedgerEntry
from policies.errors import (
    AlreadyLearned,
    NotAVersion,
    NothingToRollBack,
    TrainAgain,
    UpdateDiverged,
    UpdateUnstable,
    VersionDamaged,
    VersionPruned,
)
from policies.initial import initial_checkpoint
from policies.plasticity import Plasticity, plasticity
from policies.spec import PolicySpec
from policies.store import CheckpointStore

log = structlog.get_logger(__name__)

MAX_DRIFTED = 4
"""How often a batch is trained again because the head moved away; then it waits for a quieter time."""


@dataclass(frozen=True, kw_only=True)
class CycleReport:
    """What one cycle did.

    Attributes:
        published: the new version; None when nothing was left to learn from.
        learned: what was trained; None likewise.
        head: the newest version after it, whoever published it; None when there is none.
        arrivals: the files that it dealt with.
        update_s, publish_s: seconds spent training, and writing the version and the archive.
        inferred: the spec, when this cycle had to infer it from the first episodes.
        set_aside: reason -> what went wrong with an update before its episodes were refused for it: it
            "diverged" or was "unstable".
        staleness_mean: updates between the versions that acted and the head, the mean over episodes that say.
        plasticity: of the published "policy" network, and of "value" when it is trained.
        buffered: archived episodes that may be learned from again.
        retrained: how often the batch was trained again because somebody else had published.
        verdict: on a candidate that clients may act with or not; None: nobody judges.
        failed: likewise on one that was given up before this cycle learned; None: there was none.
    """

    published: Checkpoint | None
    learned: Learned | None
    arrivals: tuple[Arrival, ...]
    head: Checkpoint | None
    update_s: float = 0.0
    publish_s: float = 0.0
    inferred: PolicySpec | None = None
    set_aside: Mapping[str, str] = field(default_factory=dict)
    staleness_mean: float | None = None
    plasticity: Mapping[str, Plasticity] = field(default_factory=dict)
    buffered: int = 0
    retrained: int = 0
    verdict: Verdict | None = None
    failed: Verdict | None = None


class Cycle:
    """Learns from arrivals and publishes one version a call.

    Args:
        config: the learning rule and its sizes.
        store, spool, admission: where versions, archive and verdicts go.
        device: "cpu" or "cuda".
        clock: for the durations in the report.

    Attributes:
        progress_s: monotonic seconds of the last step forward; read by the watchdog.
    """

    def __init__(
        self,
        config: Config,
        *,
        store: CheckpointStore,
        spool: Spool,
        admission: Admission,
        device: str,
        clock: Clock,
    ) -> None:
        self._config = config
        self._store = store
        self._spool = spool
        self._admission = admission
        self._device = device
        self._clock = clock
        self.progress_s = clock.monotonic()
        self._behavior = BehaviorCache(store)
        self._judge = Judge(config, store=store, spool=spool, behavior=self._behavior)
        self._reuse = Reuse(config, store=store, spool=spool, clock=clock, behavior=self._behavior)

    def run(self, arrivals: Sequence[Arrival]) -> CycleReport:
        """Learn from every episode of ``arrivals``; finish them once a version that holds them is published.

        Raises:
            policies.errors.StoreError, OSError: nothing was acknowledged; call again with the same arrivals.
        """
        base, kept = self._base(self.recover(arrivals))
        inferred = base.spec if base is not None and base.version == 0 else None
        drifted, set_aside, replaying = 0, dict[str, str](), self._config.batch.reuse > 1
        failed: Verdict | None = None
        while base is not None and kept:
            ruling = self._judge.look(base, episodes_of(kept))
            if ruling.start_over is not None:
                failed, base, kept = self._start_over(ruling, kept)
                continue
            started = self._clock.monotonic()
            try:
                chunks = self._chunked(episodes_of(kept))
                passes = self._reuse.passes(base, chunks) if replaying else NO_PASSES
                learned = self._learn(base, chunks, passes)
            except UpdateDiverged as error:
                if replaying:
                    replaying = False  # an archived episode may be to blame: no new one is refused for it
                    log.warning("trained_again_without_replay", error=str(error))
                    continue
                if failed is None and (back := self._judge.fallback(base, str(error))) is not None:
                    failed, base, kept = self._start_over(back, kept)
                    continue
                set_aside[_reason(error)] = str(error)
                kept = self._without_those_to_blame(base, kept, error)
                continue
            trained = self._clock.monotonic()
            staleness = self._admission.mean_staleness(learned.episodes)
            try:
                published = self._publish(learned, base, kept, ruling)
            except AlreadyLearned as error:
                base, kept = self._base(self._without(kept, error))
                continue
            except TrainAgain as error:
                drifted += 1
                if drifted > MAX_DRIFTED:
                    raise
                log.debug("trained_again", reason=str(error))
                base, kept = self._base(kept)
                continue
            self._finish(published, learned, kept, ruling)
            return CycleReport(
                published=published,
                learned=learned,
                arrivals=tuple(kept),
                head=published,
                update_s=trained - started,
                publish_s=self._clock.monotonic() - trained,
                inferred=inferred,
                set_aside=set_aside,
                staleness_mean=staleness,
                plasticity=_plasticity(published, learned),
                buffered=self.buffered,
                retrained=drifted,
                verdict=ruling.verdict,
                failed=failed,
            )
        return self._without_version(set_aside, failed)

    @property
    def needed(self) -> tuple[int, ...]:
        """Versions that retention must leave."""
        return self._judge.needed

    @property
    def buffered(self) -> int:
        """Archived episodes in memory, to be learned from again."""
        return self._reuse.buffered

    def recover(self, arrivals: Sequence[Arrival]) -> list[Arrival]:
        """Archive what a broken-off cycle had published but not archived; return what is not learned yet."""
        learned = self._learned_from(arrivals)
        rest = []
        for arrival in arrivals:
            left = arrival.keeping(
                tuple(e for e in arrival.episodes if (arrival.claim.id, e.key) not in learned)
            )
            if left.episodes:
                rest.append(left)
            else:
                self._admission.learned(arrival)
        return rest

    def _learned_from(self, arrivals: Sequence[Arrival]) -> set[tuple[str, EpisodeKey]]:
        """Return (claim, key) of what was published from these very claims, once the archive has it."""
        claimed = {(arrival.claim.id, e.key): e for arrival in arrivals for e in arrival.episodes}
        hits = self._store.lookup([key for _, key in claimed])
        found: set[tuple[str, EpisodeKey]] = set()
        for version in sorted({hit.version for hit in hits.values()}):
            entries = [(entry.claim_id, entry.key) for entry in self._entries(version)]
            own = [name for name in entries if name in claimed]
            if own:
                self._archive(self._store.load(version), [claimed[name] for name in own])
            found.update(own)
        return found

    def _entries(self, version: int) -> list[LedgerEntry]:
        try:
            return self._store.episodes(version)
        except (VersionPruned, VersionDamaged):
            return []  # older than any claim left over, or learned again from the archive

    def begin(self) -> Checkpoint | None:
        """Return the head; publish the initial weights when there is none and the config names the spaces."""
        head, spec = self._store.head(), configured_spec(self._config)
        if head is None and spec is not None:
            base = initial_checkpoint(spec, seed=self._config.learner.seed)
            record = {
                **made_here(seed=self._config.learner.seed, device=self._device),
                "config_digest": self._config.digest(),
                "updates": [],
            }
            head = self._store.publish(
                Delta(weights={}),
                base=base,
                writer=self._config.daemon.name,
                episodes=[],
                record=record,
                acting=self._judge.initial(),
            )
        if head is not None:
            self._admission.learn_spec(head.spec)
        self._reuse.fill()
        self._judge.begin(head)
        return head

    def _start_over(
        self, ruling: Ruling, arrivals: Sequence[Arrival]
    ) -> tuple[Verdict, Checkpoint | None, list[Arrival]]:
        """Go back to what clients act with: what they may not act with is not learned on from."""
        assert ruling.start_over is not None
        assert ruling.verdict is not None
        reason = f"version {ruling.verdict.candidate} did not pass: {ruling.verdict.reason}"
        writer = self._config.daemon.name
        try:
            self._store.rollback(ruling.start_over, writer=writer, reason=reason, record=ruling.record())
        except (NothingToRollBack, VersionPruned, VersionDamaged, NotAVersion) as error:
            log.warning("not_started_over", reason=reason, error=str(error))
        self._judge.started_over()
        return ruling.verdict, *self._base(arrivals)

    def _base(self, arrivals: Sequence[Arrival]) -> tuple[Checkpoint | None, list[Arrival]]:
        """What to start from, and what of ``arrivals`` to learn from it."""
        head = self._store.head()
        if head is not None:
            return head, self._admission.without_rejected(arrivals)
        spec = infer_spec(self._config.policy, episodes_of(arrivals))
        self._admission.learn_spec(spec)
        kept = [fit for fit in map(self._admission.judge, arrivals) if fit.episodes]
        return initial_checkpoint(spec, seed=self._config.learner.seed), kept

    def _chunked(self, episodes: Sequence[Episode]) -> list[Sequence[Episode]]:
        return chunked(episodes, self._config.batch.chunk_episodes)

    def _learn(
        self, base: Checkpoint, chunks: Sequence[Sequence[Episode]], passes: Passes = NO_PASSES
    ) -> Learned:
        return learn(
            base,
            chunks,
            settings=self._config.learner.settings(),
            seed=self._config.learner.seed,
            device=self._device,
            behavior=self._behavior,
            limits=self._config.stability.limits(),
            passes=passes,
            progress=self._progress,
        )

    def _progress(self) -> None:
        self.progress_s = self._clock.monotonic()

    def _publish(
        self, learned: Learned, base: Checkpoint, arrivals: Sequence[Arrival], ruling: Ruling
    ) -> Checkpoint:
        claims = {episode.key: arrival.claim.id for arrival in arrivals for episode in arrival.episodes}
        entries = ledger_entries(learned, lambda episode: claims[episode.key])
        published = self._store.publish(
            learned.delta,
            base=base,
            writer=self._config.daemon.name,
            episodes=entries,
            record={**learned.record, "config_digest": self._config.digest(), **ruling.record()},
            acting=ruling.acting,
        )
        self._admission.published(published, entries)
        return published

    def _finish(
        self, published: Checkpoint, learned: Learned, arrivals: Sequence[Arrival], ruling: Ruling
    ) -> None:
        """Archive what was learned, and let go of its files."""
        self._archive(published, learned.episodes)
        self._judge.published(published, learned.episodes, ruling)
        for arrival in arrivals:
            self._admission.learned(arrival)

    def _without_version(self, set_aside: Mapping[str, str], failed: Verdict | None) -> CycleReport:
        """The report of a cycle in which nothing was left to learn from."""
        return CycleReport(
            published=None,
            learned=None,
            arrivals=(),
            head=self._store.head(),
            set_aside=set_aside,
            buffered=self.buffered,
            failed=failed,
        )

    def _archive(self, published: Checkpoint, episodes: Sequence[Episode]) -> None:
        version, note = published.version, note_of(published)
        self._spool.archive(version, episodes, published_at=published.saved_at, note=note)
        self._reuse.add(version, episodes)

    def _without(self, arrivals: Sequence[Arrival], error: AlreadyLearned) -> list[Arrival]:
        rest = []
        for arrival in arrivals:
            left = self._admission.drop_learned(arrival, error.keys)
            if left.episodes:
                rest.append(left)
            else:
                self._admission.finish(left)
        return rest

    def _without_those_to_blame(
        self, base: Checkpoint, arrivals: Sequence[Arrival], error: UpdateDiverged
    ) -> list[Arrival]:
        """Refuse the episodes whose update goes wrong; return the others."""
        before, suspects = self._suspects(episodes_of(arrivals), error)
        found = diverging(suspects, lambda some: self._goes_well(base, [*before, *self._chunked(some)]))
        keys = {episode.key for episode in found}
        problem = reject(_reason(error), error.what, f"{error.value:.6g}", error.accepted).problem
        rest = [self._admission.refuse_some(arrival, keys, problem) for arrival in arrivals]
        return [arrival for arrival in rest if arrival.episodes]

    def _suspects(
        self, episodes: Sequence[Episode], error: UpdateDiverged
    ) -> tuple[list[Sequence[Episode]], Sequence[Episode]]:
        """Return the chunks that went well, and the episodes to search.

        A limit is passed by one update, after others that kept to theirs; what overflows may have been
        driven there by any update before.
        """
        if not isinstance(error, UpdateUnstable):
            return [], episodes
        chunks = self._chunked(episodes)
        return chunks[: error.update], chunks[error.update]

    def _goes_well(self, base: Checkpoint, chunks: Sequence[Sequence[Episode]]) -> bool:
        try:
            self._learn(base, chunks)
        except UpdateDiverged:
            return False
        return True


def episodes_of(arrivals: Sequence[Arrival]) -> list[Episode]:
    """Every episode of ``arrivals``, in order."""
    return [episode for arrival in arrivals for episode in arrival.episodes]


def _plasticity(published: Checkpoint, learned: Learned) -> dict[str, Plasticity]:
    """Look at what was published, after the publish: clients do not wait for figures."""
    networks = ("policy", "value") if learned.reports[-1].value_steps else ("policy",)
    return {name: plasticity(published, learned.sample_obs, network=name) for name in networks}


def _reason(error: UpdateDiverged) -> str:
    """Why its episodes are refused: the name of their folder."""
    return "unstable" if isinstance(error, UpdateUnstable) else "diverged"


def configured_spec(config: Config) -> PolicySpec | None:
    """Return the policy that ``[policy]`` describes; None when it leaves a space to the first episodes."""
    action = config.policy.action_space()
    observation = config.policy.observation_space()
    return None if observation is None or action is None else config.policy.spec(observation, action)
