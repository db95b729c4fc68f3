"""The token bucket as arithmetic, and what is drawn, without a daemon."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experience.spool import Spool
from learnerd.clock import Clock
from learnerd.config import Config
from learnerd.config_tables import Batch
from learnerd.learn import Passes, learn
from learnerd.reuse import CREDITS, Reuse, TokenBucket, balance
from policies.algorithms import create_algorithm
from policies.checkpoint import Delta, LedgerEntry
from policies.initial import initial_checkpoint
from policies.settings import LearnerSettings
from policies.spec import DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

NOW = 5000.0


def turns(bucket, chunks, *, available=10**9, counters=None):
    """Passes of each chunk, and the counters after all of them."""
    counters, made = dict(counters or {}), []
    for size in chunks:
        earned = bucket.earned(balance(counters), size)
        passes = min(available, bucket.passes(balance(counters) + earned))
        for name, count in Passes(replayed=(((None,) * passes),), earned=earned).counters().items():
            counters[name] = counters.get(name, 0) + count
        made.append(passes)
    return made, counters


@pytest.mark.parametrize(
    ("reuse", "chunks", "expected"),
    [
        (1.0, [8, 8, 8], [0, 0, 0]),
        (2.0, [8, 5, 1], [8, 5, 1]),
        (4.0, [8, 15], [24, 45]),
        (1.5, [1, 1, 1, 1, 3], [0, 1, 0, 1, 1]),
        (1.1, [1] * 11, [0] * 9 + [1, 0]),
        (1.125, [8] * 3, [1, 1, 1]),
    ],
)
def test_passes_of_each_chunk(reuse, chunks, expected):
    assert turns(TokenBucket.of(Batch(reuse=reuse)), chunks)[0] == expected


@pytest.mark.parametrize("reuse", [1.5, 2.0, 4.0])
def test_a_long_time_without_replay_does_not_end_in_a_flood(reuse):
    bucket = TokenBucket.of(Batch(reuse=reuse))
    _, counters = turns(bucket, [8] * 1000, available=0)
    assert "replayed" not in counters
    (flood, after), _ = turns(bucket, [8, 8], counters=counters)
    usual = (reuse - 1) * 8
    assert flood == 2 * usual + 1
    assert after == usual


def test_another_reuse_counts_from_now_on():
    _, counters = turns(TokenBucket.of(Batch(reuse=1.0)), [8] * 1000)
    assert counters == {}
    often, rarely = TokenBucket.of(Batch(reuse=4.0)), TokenBucket.of(Batch(reuse=1.5))
    made, counters = turns(often, [8] * 10)
    assert sum(made) == 240
    assert turns(rarely, [8] * 3, counters=counters)[0] == [4, 4, 4]
    _, full = turns(often, [8] * 10, available=0)
    assert turns(TokenBucket.of(Batch(reuse=1.0)), [8] * 3, counters=full)[0] == [0, 0, 0]


@given(
    reuse=st.floats(1, 9),
    chunk_episodes=st.integers(1, 20),
    turns_=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 60)), max_size=40),
)
def test_never_more_than_reuse_and_no_less_while_there_is_enough(reuse, chunk_episodes, turns_):
    bucket = TokenBucket.of(Batch(reuse=reuse, chunk_episodes=chunk_episodes))
    rate = Fraction(int(1000 * reuse + 1e-6), 1000) - 1
    most = 1 + 2 * rate * chunk_episodes if rate else 0
    credits_, counters, episodes, enough = Fraction(0), {}, 0, True
    for number, available in turns_:
        new = chunk_episodes + number % chunk_episodes  # as ``chunked`` cuts
        (passes,), counters = turns(bucket, [new], available=available, counters=counters)
        credits_ = min(most, credits_ + rate * new)
        assert passes == min(available, int(credits_))
        enough = enough and passes == int(credits_)
        credits_ -= passes
        episodes += new
        replayed = counters.get("replayed", 0)
        assert balance(counters) == credits_ * CREDITS
        assert replayed <= (reuse - 1) * episodes + 1e-3
        if enough:
            assert replayed > (reuse - 1) * episodes - 1 - 1e-3 * (episodes + 1)


def test_two_branches_that_spent_the_same_credits_pay_them_back():
    bucket = TokenBucket.of(Batch(reuse=2.0))
    merged = {"replay_credits": 8000 + 8000, "replayed": 12 + 12}
    assert balance(merged) == -8000
    assert turns(bucket, [8, 8], counters=merged)[0] == [0, 8]


@pytest.mark.parametrize("settings", [LearnerSettings(), LearnerSettings(algorithm="reinforce")])
def test_reuse_is_accepted_for_the_algorithms_that_can(settings):
    tables = {"batch": {"reuse": 2.0}, "learner": {"algorithm": settings.algorithm}}
    if create_algorithm(settings).reuses_episodes:
        assert Config.model_validate(tables).batch.reuse == 2.0
    else:
        with pytest.raises(ValueError, match="across_tables"):
            Config.model_validate(tables)


def test_a_coupled_ppo_does_not_correct_for_old_episodes():
    assert not create_algorithm(LearnerSettings(decoupled=False)).reuses_episodes


class Rig:
    """A store with an archive, filled by versions that learned what they are told."""

    def __init__(self, folder, **tables):
        paths = {"spool": folder / "spool", "state": folder / "state"}
        tables = {"batch": {"reuse": 2.0, "chunk_episodes": 2}, **tables}
        self.config = Config.model_validate({"paths": paths, **tables})
        self.clock = Clock(remember_s=3600.0, wall=lambda: NOW, monotonic=lambda: NOW)
        self.store, self.spool = CheckpointStore(paths["state"]), Spool(paths["spool"])
        self.spool.make_folders()
        spec = PolicySpec(observation_shape=(4,), action=DiscreteSpace(n=2), hidden=(4,))
        self.head = initial_checkpoint(spec, seed=0)
        self.reuse = self.new_reuse()

    def new_reuse(self):
        return Reuse(
            self.config, store=self.store, spool=self.spool, clock=self.clock, behavior=lambda _: None
        )

    def publish(self, episodes, *, updates=1):
        entries = [LedgerEntry(key=e.key, row_sha256=e.row_sha256) for e in episodes]
        delta = Delta(weights={}, counters={"updates": updates})
        self.head = self.store.publish(delta, base=self.head, writer="daemon", episodes=entries)
        if episodes:
            self.spool.archive(self.head.version, episodes, published_at=NOW)
            self.reuse.add(self.head.version, episodes)
        return self.head.version

    def drawn(self, *chunks):
        return [
            sorted(archived.episode.episode_id for archived in replayed)
            for replayed in self.reuse.passes(self.head, chunks).replayed
        ]


@pytest.fixture
def rig(tmp_path):
    return lambda **tables: Rig(tmp_path, **tables)


def young(make_episode, name, **fields):
    return make_episode(name, **{"ended_at": NOW, **fields})


def test_each_update_gets_its_passes(rig, make_episode):
    rig = rig()
    rig.publish([young(make_episode, f"e{i}") for i in range(20)])
    chunks = [[young(make_episode, f"n{i}{j}") for j in range(3)] for i in range(2)]
    passes = rig.reuse.passes(rig.head, chunks)
    assert [len(replayed) for replayed in passes.replayed] == [3, 3]
    assert passes.replayed[0] != passes.replayed[1]
    assert passes.counters() == {"replay_credits": 6000, "replayed": 6}
    assert rig.reuse.passes(rig.head, chunks) == passes
    rig.publish([])
    assert rig.reuse.passes(rig.head, chunks).replayed != passes.replayed


def test_only_what_would_still_be_admitted_is_drawn(rig, make_episode):
    rig = rig(admission={"max_age_s": 100.0, "max_staleness": 10}, batch={"reuse": 4.0, "chunk_episodes": 4})
    first = rig.publish([])
    rig.publish([young(make_episode, "version unknown, learned long ago")])
    rig.publish([], updates=9)
    version = rig.publish([young(make_episode, "stale", policy_version=first)])
    rig.publish(
        [
            young(make_episode, "good", policy_version=version),
            young(make_episode, "version unknown", policy_version=None),
            young(make_episode, "stale in part", policy_version_step=np.array([first, version, version])),
            young(make_episode, "too old", policy_version=version, ended_at=NOW - 101),
            young(make_episode, "nothing logged", policy_version=None, logp=None),
            young(make_episode, "weights gone", policy_version=version, logp=None),
            young(make_episode, "new again", policy_version=version),
        ]
    )
    new = [young(make_episode, "new again"), *(young(make_episode, f"n{i}") for i in range(3))]
    assert rig.drawn(new) == [["good", "version unknown"]]
    assert rig.reuse.buffered == 3


def test_recovered_log_probabilities_will_do(rig, make_episode):
    rig = rig()
    version = rig.publish([])
    rig.publish([young(make_episode, "a", policy_version=version, logp=None)])
    rig.reuse._behavior = rig.store.load
    assert rig.drawn([young(make_episode, "n")]) == [["a"]]


def test_what_an_ancestor_did_not_learn_is_not_drawn(rig, make_episode):
    rig = rig()
    rig.publish([young(make_episode, "a")])
    base = rig.head
    damaged = rig.publish([young(make_episode, "b")])
    (rig.store._checkpoints / f"{damaged:08d}" / "model.safetensors").write_bytes(b"")
    rig.store, rig.head = CheckpointStore(rig.config.paths.state), base
    rig.publish([])
    rig.reuse._lineage = rig.new_reuse()._lineage
    chunk = [young(make_episode, "n1"), young(make_episode, "n2")]
    assert rig.drawn(chunk) == [["a"]]
    rig.reuse = rig.new_reuse()
    rig.reuse.fill()
    assert [archived.episode.episode_id for archived in rig.reuse._buffer] == ["a"]


def test_a_restart_finds_the_same_episodes_in_the_archive(rig, make_episode):
    rig = rig(
        batch={"reuse": 2.0, "replay_episodes": 7},
        admission={"max_staleness": 64, "max_age_s": 1e9},
    )
    for number in range(5):
        rig.publish([young(make_episode, f"e{number}{i}", steps=number + 1) for i in range(2)])
    again = rig.new_reuse()
    again.fill()
    assert [(a.version, a.episode.row_sha256) for a in again._buffer] == [
        (a.version, a.episode.row_sha256) for a in rig.reuse._buffer
    ]
    chunk = [young(make_episode, f"n{i}") for i in range(3)]
    expected = rig.drawn(chunk)
    rig.reuse = again
    assert rig.drawn(chunk) == expected
    assert again.buffered == 7


def test_the_archive_is_read_back_only_as_far_as_it_is_of_use(rig, make_episode, monkeypatch):
    rig = rig(admission={"max_staleness": 2})
    for number in range(6):
        rig.publish([young(make_episode, f"e{number}")])
    (rig.spool.archived(5)).write_bytes(b"damaged")
    again = rig.new_reuse()
    again.fill()
    assert [archived.version for archived in again._buffer] == [4, 6]


def test_without_reuse_nothing_is_kept_or_drawn(rig, make_episode):
    rig = rig(batch={"reuse": 1.0})
    rig.publish([young(make_episode, "a")])
    rig.reuse.fill()
    assert rig.reuse.buffered == 0
    assert rig.reuse.passes(rig.head, [[young(make_episode, "n")]]) == Passes()


def test_replayed_episodes_train_and_are_counted_apart(rig, make_episode):
    rig = rig()
    rig.publish([young(make_episode, f"e{i}", seed=i, steps=7) for i in range(9)])
    chunks = [[young(make_episode, f"n{i}{j}", seed=j) for j in range(2)] for i in range(2)]
    passes = rig.reuse.passes(rig.head, chunks)
    options = {"settings": LearnerSettings(), "seed": 0, "device": "cpu", "behavior": lambda _: None}
    plain = learn(rig.head, chunks, **options)
    learned = learn(rig.head, chunks, passes=passes, **options)
    assert learned.episodes == plain.episodes
    counters = dict(learned.delta.counters)
    assert (counters.pop("replayed"), counters.pop("replay_credits")) == (4, 4000)
    assert counters == plain.delta.counters
    assert learned.delta.observed.count == plain.delta.observed.count
    assert np.array_equal(learned.delta.observed.mean, plain.delta.observed.mean)
    assert [report.n_episodes for report in learned.reports] == [4, 4]
    assert [report.n_steps for report in learned.reports] == [20, 20]
    assert [report.return_mean for report in learned.reports] == [r.return_mean for r in plain.reports]
    assert learned.reports[0].learning_rate == pytest.approx(5e-4 * np.sqrt(4 / 8))
    name = "policy.0.weight"
    assert not np.array_equal(learned.delta.weights[name], plain.delta.weights[name])
    assert [update["replayed"] for update in learned.record["updates"]] == [
        [[1, "bot", archived.episode.episode_id, 0, ""] for archived in replayed]
        for replayed in passes.replayed
    ]
