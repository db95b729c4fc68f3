"""A learner that can be checked by counting: each episode adds one to a weight of its own.

Every number is a small integer, so that float32 sums are exact in any order: an episode that was lost leaves
a weight behind, one that was learned twice puts it ahead.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experience.archive import read_shard
from experience.episode import EpisodeKey
from policies.checkpoint import Checkpoint, Delta, LedgerEntry
from policies.ledger import Lineage, read_ids
from policies.normalizer import RunningStatistics
from policies.report import UpdateReport
from policies.runs import Runs
from policies.spec import DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

WIDTH = 64
SPEC = PolicySpec(observation_shape=(WIDTH,), action=DiscreteSpace(n=2), hidden=(WIDTH,), normalize=False)
MOST_EPISODES = WIDTH * WIDTH
OWN = "policy.0.weight"
SHARED = "policy.0.bias"
CLIENT = "bot"
ONLINE = "online"


def base_checkpoint():
    """Integer weights that nobody has published yet."""
    weights = {
        name: (np.arange(np.prod(shape), dtype=np.float32) % 7).reshape(shape)
        for name, shape in SPEC.shapes().items()
    }
    return Checkpoint(
        version=0,
        parents=(),
        writer="",
        saved_at=0.0,
        spec=SPEC,
        weights=weights,
        averages={},
        normalizer=RunningStatistics.empty(SPEC.inputs),
        counters={},
    )


def change_of(numbers):
    """The change that the episodes with these numbers make together, float64."""
    own = np.zeros(MOST_EPISODES)
    shared = np.zeros(WIDTH)
    for number in numbers:
        own[number] += 1.0
        shared += (number + np.arange(WIDTH)) % 5
    return {OWN: own.reshape(WIDTH, WIDTH), SHARED: shared}


def delta_of(numbers, *, updates=1):
    """The same as a delta, with counts and statistics that must add up exactly."""
    rows = np.ones((len(numbers), WIDTH), np.float32)
    return Delta(
        weights=change_of(numbers),
        observed=RunningStatistics.of(rows) if len(numbers) else None,
        counters={"updates": updates, "steps": len(numbers), "adam_policy": 3 * len(numbers)},
    )


class LinearLearner:
    """Stands in for ``policies.learner.Learner`` in the daemon; an episode's return is its number."""

    def __init__(self, checkpoint, settings, *, device="cpu", seed=0):
        self._base = checkpoint
        self._numbers = []
        self._updates = 0

    def update(self, batch, *, seed, replayed=0):
        numbers = [int(value) for value in batch.total_reward]
        self._numbers += numbers
        self._updates += 1
        return _report(batch)

    def delta(self):
        return delta_of(self._numbers, updates=self._updates)


def _report(batch):
    zeros = dict.fromkeys(
        (
            *("loss", "policy_loss", "value_loss", "entropy", "entropy_end", "kl"),
            *("grad_norm", "value_grad_norm", "seconds"),
        ),
        0.0,
    )
    return UpdateReport(
        **zeros,
        ess_fraction=1.0,
        ratio_max=1.0,
        learning_rate=1.0,
        policy_episodes=batch.n_episodes,
        policy_steps=1,
        value_steps=1,
        n_steps=batch.n_steps,
        n_episodes=batch.n_episodes,
        unlogged_steps=0,
        return_mean=float(batch.total_reward.mean()),
    )


def online_key(number):
    return EpisodeKey(ONLINE, f"online-{number}", 0, "")


def online_entry(number):
    row = hashlib.sha256(str(number).encode()).hexdigest()
    return LedgerEntry(key=online_key(number), row_sha256=row, n_steps=1, total_reward=float(number))


def daemon_key(number):
    return EpisodeKey(CLIENT, f"episode-{number}", 0, "")


def deposit(spool: Path, numbers):
    """One JSONL file by the written contract, holding the episodes with these numbers."""
    observation = [1.0] * WIDTH
    lines = []
    for number in numbers:
        header = {
            "episode_id": f"episode-{number}",
            "client_id": CLIENT,
            "policy_version": 0,
            "ended_at": time.time(),
        }
        step = {"obs": observation, "action": number % 2, "reward": float(number), "logp": -0.69}
        end = {"final_obs": observation, "terminated": True, "truncated": False}
        lines += [header, step, end]
    name = f"{numbers[0]:06d}.jsonl"
    aside = spool / "in" / f".tmp-{name}"
    aside.write_text("".join(json.dumps(line) + "\n" for line in lines))
    aside.rename(spool / "in" / name)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What must be in the store at the end: the numbers of each side's episodes."""

    daemon: range
    online: range

    @property
    def numbers(self):
        return [*self.daemon, *self.online]

    @property
    def keys(self):
        return [*map(daemon_key, self.daemon), *map(online_key, self.online)]


def check(state: Path, spool: Path, expected: Expected):
    """Every way in which the store differs from "each episode exactly once", as text."""
    head = CheckpointStore(state).head()
    if head is None:
        return ["there is no version"]
    return [
        *_check_weights(head, expected.numbers),
        *_check_counts(head, expected.numbers),
        *_check_ledger(state, head, expected.keys),
        *_check_spool(state, spool, expected.daemon),
    ]


def _check_weights(head, numbers):
    wanted = change_of(numbers)
    for name, base in base_checkpoint().weights.items():
        difference = head.weights[name].astype(np.float64) - base - wanted.get(name, 0.0)
        wrong = np.flatnonzero(difference)
        if len(wrong):
            shown = {int(i): float(difference.ravel()[i]) for i in wrong[:5]}
            yield f"{name} of version {head.version} is off at {len(wrong)} places, such as {shown}"


def _check_counts(head, numbers):
    count = len(numbers)
    wanted = {"episodes": count, "steps": count, "adam_policy": 3 * count}
    found = {name: head.counters.get(name, 0) for name in wanted}
    if found != wanted:
        yield f"counters are {found}, expected {wanted}"
    if head.normalizer.count != count or not np.all(head.normalizer.mean == (1.0 if count else 0.0)):
        yield f"observation statistics count {head.normalizer.count} with mean {head.normalizer.mean[0]}"


def learned_in(state: Path, head):
    """Key digest -> the versions of the head's lineage whose ledgers hold it."""
    lineage = Lineage.of(head)
    runs = Runs(state / "ledger")
    runs.refresh()
    found: dict[bytes, set[int]] = {}
    for run in runs._runs.values():
        for i in range(len(run)):
            key = int(run.first[i]).to_bytes(8, "little") + int(run.second[i]).to_bytes(8, "little")
            found.setdefault(key, set()).add(int(run.versions[i]))
    for version in sorted(lineage.numbers(runs.compacted_through + 1)):
        for key in read_ids(state, version):
            found.setdefault(key, set()).add(version)
    return {key: {v for v in versions if v in lineage} for key, versions in found.items()}


def _check_ledger(state, head, keys):
    found = learned_in(state, head)
    counts = {key: len(found.get(key.digest(), ())) for key in keys}
    lost = [key.episode_id for key, count in counts.items() if count == 0]
    twice = [key.episode_id for key, count in counts.items() if count > 1]
    if lost:
        yield f"{len(lost)} episodes are in no ledger, such as {lost[:5]}"
    if twice:
        yield f"{len(twice)} episodes are in two ledgers, such as {twice[:5]}"
    strangers = {key for key, versions in found.items() if versions} - {key.digest() for key in keys}
    if strangers:
        yield f"{len(strangers)} ids are in the ledger that nobody deposited"


def _check_spool(state, spool, numbers):
    left = [p for part in ("in", "claimed", "refused", "quarantine") for p in (spool / part).rglob("*")]
    left = [str(path.relative_to(spool)) for path in left if path.is_file()]
    if left:
        yield f"{len(left)} files are left in the spool, such as {left[:3]}"
    places: dict[str, list[int]] = {}
    for path in (spool / "archive").rglob("*.parquet"):
        for episode in read_shard(path):
            places.setdefault(episode.episode_id, []).append(int(path.stem))
    hits = CheckpointStore(state).lookup(map(daemon_key, numbers))
    for number in numbers:
        versions, hit = places.get(f"episode-{number}", []), hits.get(daemon_key(number))
        if hit is None or versions != [hit.version]:
            yield f"episode-{number} is archived with versions {versions}, its ledger says {hit}"
            return
