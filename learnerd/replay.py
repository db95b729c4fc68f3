"""Replay: archived episodes through the same training stage, into a scratch store."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
import torch

from experience.collate import usable_steps
from experience.episode import Episode
from learnerd.archived import archive_of, archived_versions
from learnerd.behavior import BehaviorCache
from learnerd.config import Config
from learnerd.device import choose_device
from learnerd.errors import LearnerdError
from learnerd.learn import Learned, Passes, chunked, infer_spec, learn, ledger_entries
from learnerd.recorded_passes import RecordedPasses
from learnerd.recovered import Behavior
from learnerd.threads import thread_count
from policies.checkpoint import Checkpoint, Delta
from policies.errors import NothingToRollBack, StoreError
from policies.initial import initial_checkpoint
from policies.rollback import Rejected
from policies.store import CheckpointStore

log = structlog.get_logger(__name__)

__all__ = ["Row", "archived_versions", "load_version", "replay", "same_weights", "scratch_folder"]

WRITER = "replay"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One replayed batch.

    Attributes:
        recorded: the version that the daemon published of this batch.
        version: the one in the scratch store.
        episodes, steps, updates: its size, without what it learned again.
        return_mean: mean undiscounted return of its episodes.
        loss, entropy, ess_fraction: of its last update.
        same_weights: whether the scratch version's weights equal the recorded one's; None when that is gone.
    """

    recorded: int
    version: int
    episodes: int
    steps: int
    updates: int
    return_mean: float
    loss: float
    entropy: float
    ess_fraction: float
    same_weights: bool | None


def replay(config: Config, versions: Sequence[int], *, scratch: Path) -> Iterator[Row]:
    """Learn from what ``versions`` learned from, in order; publish one for each, and yield a row.

    The daemon goes undisturbed: its store is only read, to recover log-probabilities and to compare.

    Args:
        config: the learning rule; its state folder is where the recorded versions are.
        versions: of the archive, ascending.
        scratch: an empty folder; becomes a state folder.
    """
    torch.set_num_threads(thread_count(config))
    recorded, store = CheckpointStore(config.paths.state), CheckpointStore(scratch)
    rollbacks = _RecordedRollbacks(recorded, store)
    head = rollbacks.begin(_start(config, recorded, store))
    archive = archive_of(config)
    again, behavior = RecordedPasses(config), BehaviorCache(recorded)
    for version in versions:
        head = rollbacks.before(version) or head
        episodes = archive.episodes(version)
        if not episodes:
            log.warning("not_replayed", version=version, error="no longer in the archive")
            continue
        head = head if head is not None else _first(config, episodes)
        learned = _learn(
            config, head, episodes, behavior, again.take(version, episodes, archive.note(version))
        )
        entries = ledger_entries(learned, lambda _: "")
        head = store.publish(learned.delta, base=head, writer=WRITER, episodes=entries, record=learned.record)
        rollbacks.note(version, head)
        yield _row(version, head, learned, recorded)


class _RecordedRollbacks:
    """Goes back in the scratch store where the daemon's store did."""

    def __init__(self, recorded: CheckpointStore, store: CheckpointStore) -> None:
        self._rejections = Rejected.of(recorded.head()).rejections
        self._store = store
        self._made: dict[int, int] = {}

    def begin(self, head: Checkpoint | None) -> Checkpoint | None:
        """Publish the initial weights when a rollback may go back to them."""
        if head is None or not self._rejections:
            return head
        head = self._store.publish(Delta(weights={}), base=head, writer=WRITER, episodes=[])
        self.note(0, head)
        return head

    def note(self, recorded: int, head: Checkpoint) -> None:
        """What ``recorded`` learned is in ``head``."""
        self._made[recorded] = head.version

    def before(self, recorded: int) -> Checkpoint | None:
        """Make the rollbacks that came before a version; the new head, None when there were none."""
        head = None
        while self._rejections and self._rejections[0].by < recorded:
            rejection, self._rejections = self._rejections[0], self._rejections[1:]
            kept = {old: new for old, new in self._made.items() if old <= rejection.to}
            with contextlib.suppress(NothingToRollBack, ValueError):
                head = self._store.rollback(kept[max(kept)], writer=WRITER, reason="recorded")
            self._made = kept if head is None else kept | {rejection.by: head.version}
        return head


def scratch_folder(into: Path | None) -> tuple[Path, Callable[[], None]]:
    """Return the folder for the scratch store and what removes it; a folder that the user named is kept."""
    if into is not None:
        into.mkdir(parents=True, exist_ok=True)
        return into, lambda: None
    folder = Path(tempfile.mkdtemp(prefix="learnerd-replay-"))
    return folder, lambda: shutil.rmtree(folder, ignore_errors=True)


def _start(config: Config, recorded: CheckpointStore, store: CheckpointStore) -> Checkpoint | None:
    """Return the weights that the recorded history began with: the same spec, from the same seed."""
    found = store.head()
    if found is not None:
        raise LearnerdError(f"the scratch store holds version {found.version}; replay needs an empty folder")
    head = recorded.head()
    return None if head is None else initial_checkpoint(head.spec, seed=config.learner.seed)


def _first(config: Config, episodes: Sequence[Episode]) -> Checkpoint:
    return initial_checkpoint(infer_spec(config.policy, episodes), seed=config.learner.seed)


def _learn(
    config: Config,
    head: Checkpoint,
    episodes: Sequence[Episode],
    behavior: Behavior,
    passes: Passes,
) -> Learned:
    return learn(
        head,
        chunked(episodes, config.batch.chunk_episodes),
        passes=passes,
        settings=config.learner.settings(),
        seed=config.learner.seed,
        device=choose_device(config.learner.device),
        behavior=behavior,
    )


def _row(recorded_version: int, head: Checkpoint, learned: Learned, recorded: CheckpointStore) -> Row:
    last = learned.reports[-1]
    original = load_version(recorded, recorded_version)
    return Row(
        recorded=recorded_version,
        version=head.version,
        episodes=len(learned.episodes),
        steps=sum(map(usable_steps, learned.episodes)),
        updates=len(learned.reports),
        return_mean=float(np.mean([episode.total_reward for episode in learned.episodes])),
        loss=last.loss,
        entropy=last.entropy,
        ess_fraction=last.ess_fraction,
        same_weights=None if original is None else same_weights(original, head),
    )


def load_version(store: CheckpointStore, version: int) -> Checkpoint | None:
    """Return ``version``, or None when it is pruned or damaged."""
    try:
        return store.load(version)
    except StoreError:
        return None


def same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two versions act alike to the last bit."""
    return one.weights.keys() == other.weights.keys() and all(
        np.array_equal(one.weights[name], other.weights[name]) for name in one.weights
    )
